import dataclasses

from benchmarks.study import experiments
from benchmarks.study.experiments import ARMS, SMOKE, TRAININGS, Budget, StudyPlan


def value(command, flag):
    return command[command.index(flag) + 1]


def test_every_arm_is_in_a_finding_and_every_training_in_an_arm():
    assert {arm for arms in experiments.EXPERIMENTS.values() for arm in arms} == set(ARMS)
    assert {arm.training for arm in ARMS.values()} == {None, *TRAININGS}


def test_every_training_sees_as_many_samples_whatever_its_copies_and_images():
    for budget in (Budget(), SMOKE):
        for name in TRAININGS:
            _, command = StudyPlan("out", budget).training_command(name, 1)
            copies = int(value(command, "--clients_num")) if "--clients_num" in command else 1
            rounds = int(value(command, "--total_round")) if "--total_round" in command else 1
            assert int(value(command, "--max_train_steps")) * rounds * copies == budget.steps, name


def test_every_arm_makes_as_many_images_of_prompts_that_it_was_trained_on():
    plan = StudyPlan("out", Budget())
    for name in ARMS:
        (_, generate), (_, measure), (_, distance) = plan.arm_commands(name, 1)
        prompts = int(value(generate, "-nb"))
        assert prompts * int(value(generate, "-imb")) == Budget().generated, name
        assert prompts <= plan.images_of(ARMS[name].training)
        assert value(measure, "--val_dir") == plan.scenes(ARMS[name].training, 1) / "train"
        assert value(distance, "--val_dir") == plan.reference() / "train"
        assert value(distance, "--metrics") == "fd"
    (_, generate), *_ = plan.arm_commands("nolevel", 1)
    assert value(generate, "--prompts") == plan.run("nolevel", 1) / "captions.json"


def test_a_key_changes_with_every_option_and_not_with_the_folder(monkeypatch):
    plan = StudyPlan("out", Budget())
    before = plan.run("nodup", 1)
    keys = {(name, seed): plan.key(name, seed) for name in ARMS for seed in (1, 2)}
    assert len(set(keys.values())) == len(keys)
    assert StudyPlan("elsewhere", Budget()).key("nodup", 1) == keys["nodup", 1]
    for field in dataclasses.fields(Budget):
        other = dataclasses.replace(Budget(), **{field.name: getattr(Budget(), field.name) * 2})
        assert [arm for arm in ARMS if StudyPlan("out", other).key(arm, 1) != keys[arm, 1]], (
            field.name
        )
    monkeypatch.setitem(ARMS, "RT 1", dataclasses.replace(ARMS["RT 1"], guidance=4.0))
    monkeypatch.setitem(
        TRAININGS, "nodup", dataclasses.replace(TRAININGS["nodup"], flags=("--use_8bit_adam",))
    )
    changed = {arm for arm in ARMS if plan.key(arm, 1) != keys[arm, 1]}
    assert changed == {"RT 1", "nodup"}
    assert plan.run("nodup", 1) != before


def test_the_scenes_of_the_distance_are_nobodys_training_images():
    assert experiments.REFERENCE_SEED not in experiments.SEEDS
    folders = {
        command[command.index("--seed") + 1]
        for command in StudyPlan("o", Budget()).data_commands((1, 2), ARMS).values()
    }
    assert folders == {1, 2, experiments.REFERENCE_SEED}
