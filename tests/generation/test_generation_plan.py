import pytest

from utils.cli import flags, generation_options
from utils.generation import generation_plan
from utils.runtime.errors import UsageError


def plans(*flags_given, script=generation_options.MitigationOptions, root="root", process=0):
    opts = flags.parse(script, [str(f) for f in flags_given], description="")
    return generation_plan.plans_of(
        opts,
        process=process,
        say=lambda line: None,
        default_prompts=("a", "b"),
        default_root=root,
        beside_run=script is generation_options.GenerationOptions,
    )


def test_a_comparison_is_the_plain_generation_and_then_the_other(micro_sd):
    common = ("--pretrained_model_name_or_path", micro_sd, "--rand_noise_lam", 0.1, "--compare")
    plain, asked = plans(*common)
    assert plain.images.mitigations == ()
    assert [m.name for m in asked.images.mitigations] == ["ginfer0.1"]
    assert {k for k in plain.settings if plain.settings[k] != asked.settings[k]} == {
        "rand_noise_lam"
    }
    assert plain.folder.path.name.startswith("gen_nomit-")
    (alone,) = plans("--pretrained_model_name_or_path", micro_sd)
    assert alone.folder.path == plain.folder.path  # so several mitigations share it
    assert [str(p.folder.path) for p in plans(*common, "--savepath", "x/")] == ["x-without", "x"]
    assert plain.folder.path.parent == asked.folder.path.parent
    assert [p.folder.path.name for p in plans(*common, "--run_name", "mine")] == [
        "mine-without",
        "mine",
    ]


def test_the_folder_stands_beside_the_run_where_that_is_wanted_and_each_process_has_its_part(
    micro_run, tmp_path
):
    (own,) = plans(
        "--modelpath", micro_run, "-nb", 1, script=generation_options.GenerationOptions, process=1
    )
    assert own.folder.path.parent == micro_run / "inferences"
    assert own.folder.part_path.name == "manifest.jsonl.part.1"
    (other,) = plans("--modelpath", micro_run, root=tmp_path)
    assert other.folder.path.parent == tmp_path


def test_a_run_is_known_by_its_id_and_prompts_by_what_they_say(micro_run, tmp_path):
    import shutil

    moved = shutil.copytree(micro_run, tmp_path / "moved")
    first, second = (
        plans("--modelpath", run, "--prompt", "x")[0].settings for run in (micro_run, moved)
    )
    assert first == second
    assert plans("--modelpath", moved, "--prompt", "y")[0].settings["prompts"] != first["prompts"]


def test_steps_scale_and_side_are_resolved(micro_run, micro_sd):
    (fine_tuned,), (base,) = (
        plans("--modelpath", micro_run),
        plans("--pretrained_model_name_or_path", micro_sd),
    )
    assert (fine_tuned.images.sample.steps, fine_tuned.images.sample.guidance) == (50, 7.5)
    assert (fine_tuned.images.side, fine_tuned.images.total) == (16, 2)
    assert (base.pipeline.model.native, base.images.side) == (True, 256)
    (given,) = plans(
        "--modelpath", micro_run, "--num_inference_steps", 3, "--guidance_scale", 0, "-imb", 4
    )
    sample = given.images.sample
    assert (sample.steps, sample.guidance, given.images.total) == (3, 0.0, 8)


def test_a_checkpoint_of_what_is_no_run_is_an_error(micro_sd):
    with pytest.raises(
        UsageError, match="--iternum=3 names a checkpoint of a run, and .* holds no run.json"
    ):
        plans("--modelpath", micro_sd, "--iternum", 3)


def test_an_option_that_needs_an_unconditional_branch_is_refused_without_one():
    flags = "--guidance_scale above 1"
    needs = [("--rand_augs", False), ("--cfg_start", True)]
    generation_plan.require_unconditional(needs, guided=True, flags=flags)
    generation_plan.require_unconditional(needs[:1], guided=False, flags=flags)
    with pytest.raises(
        UsageError,
        match="--cfg_start needs an unconditional branch, .* use --guidance_scale above 1",
    ):
        generation_plan.require_unconditional(needs, guided=False, flags=flags)


def test_more_images_than_a_plan_can_hold_are_refused_with_the_limit(micro_sd):
    flags_ = ("--modelpath", micro_sd, "--prompt", "a", "--prompt", "b", "-imb", 1_000_000)
    with pytest.raises(UsageError, match="use at most 10000000 in one generation"):
        plans(*flags_, "-nb", 11)


def test_a_default_side_that_the_model_was_not_made_for_is_said(script, micro_sd, tmp_path):
    flags_ = ("--prompt", "a", "--savepath", tmp_path / "g", "--dry_run")
    script("diff_inference", "--modelpath", micro_sd, *flags_)
    out = script.noticed
    assert "the images have 256 px, and the model was made for 16 px; --resolution sets" in out
    script("diff_inference", "--modelpath", micro_sd, *flags_, "--resolution", 64)
    assert "made for" not in script.noticed
