import json
import shutil
import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from tests.conftest import SEED_FLAGS


@pytest.fixture
def train(script, micro_sd, scenes_dir, tmp_path):
    """train(*flags, **replaced) -> the run's folder, after three steps of two images."""
    count = iter(range(100))

    def run(*extra, **replaced):
        folder = tmp_path / f"run{next(count)}"
        flags = {
            "pretrained_model_name_or_path": micro_sd, "instance_data_dir": scenes_dir / "train",
            "instance_prompt_loc": scenes_dir / "captions.json", "class_prompt": "instancelevel_blip", "resolution": 16,
            "train_batch_size": 2, "max_train_steps": 3, "save_steps": 99, "sample_batch_size": 1, "learning_rate": 1e-2,
            "lr_warmup_steps": 0, "seed": 7, "log_steps": 1, "output_dir": folder,
        } | replaced  # fmt: skip
        given = [v for k, value in flags.items() if value is not None for v in (f"--{k}", value)]
        run.printed = script("diff_train", *given, *extra, *SEED_FLAGS)
        return flags["output_dir"]

    return run


def unet(folder, name="checkpoint"):
    state = load_file(folder / name / "unet" / "diffusion_pytorch_model.safetensors")
    return torch.cat([state[k].flatten() for k in sorted(state)])


def rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_run_folder_explains_itself(micro_run, scenes_dir):
    record = json.loads((micro_run / "run.json").read_text())
    assert (record["kind"], record["version"], record["finished"], record["seed"]) == ("run", 1, True, 7)
    assert record["options"]["duplication"] == "dup_both"
    assert len(record["duplicated"]) == 3  # floor(0.25 * 12)
    assert record["counterfactual"] is False
    assert record["images_per_second"] > 0
    assert record["peak_memory"]["host"] > 2**20
    captions = json.loads((micro_run / "captions.json").read_text())
    written = json.loads((scenes_dir / "captions.json").read_text())
    assert {f"train/{k}": v for k, v in captions.items()} == written
    assert set(record["duplicated"]) <= set(captions)
    assert [r["step"] for r in rows(micro_run)] == [1, 2, 3, 4]
    assert [r["samples"] for r in rows(micro_run)] == [2, 4, 6, 8]
    assert sorted(p.name for p in (micro_run / "generations").glob("*.png")) == ["0.png", "2.png", "4.png"]


def test_checkpoints_load_with_diffusers_alone(micro_run):
    from diffusers import StableDiffusionPipeline

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        last, middle = (StableDiffusionPipeline.from_pretrained(micro_run / n) for n in ("checkpoint", "checkpoint_2"))
    weight = "conv_in.weight"
    assert not torch.equal(last.unet.state_dict()[weight], middle.unet.state_dict()[weight])


def test_previews_have_the_same_prompts_and_seeds_at_every_step(micro_run):
    first, last = (json.loads((micro_run / "generations" / f"{s}.json").read_text()) for s in (0, 4))
    assert first == last
    assert len(first) == 4
    images = [np.asarray(Image.open(micro_run / "generations" / f"{s}.png")) for s in (0, 4)]
    assert images[0].shape == (2 * 6 + 16, 4 * 22 + 6, 3)
    assert not np.array_equal(*images)


def test_a_run_repeats_bit_for_bit_and_another_seed_does_not(train):
    first = unet(train())
    assert torch.equal(first, unet(train()))
    assert not torch.equal(first, unet(train(seed=8)))


# every flag, and a value that must change the weights against the plain run
CHANGES = [
    {"class_prompt": "nolevel"}, {"class_prompt": "classlevel"}, {"class_prompt": "instancelevel_random"},
    {"duplication": "dup_both", "weight_pc": 0.5}, {"trainsubset": 0.5},
    {"trainspecial": "allcaps"}, {"trainspecial": "randrepl", "trainspecial_prob": 1},
    {"trainspecial": "randwordadd", "trainspecial_prob": 1}, {"trainspecial": "wordrepeat", "trainspecial_prob": 1},
    {"rand_noise_lam": 0.5}, {"mixup_noise_lam": 0.5}, {"train_batch_size": 3}, {"max_train_steps": 4},
    {"gradient_accumulation_steps": 2}, {"learning_rate": 2e-2}, {"lr_warmup_steps": 2, "lr_scheduler": "linear"},
    {"adam_beta1": 0.5}, {"adam_beta2": 0.9}, {"adam_weight_decay": 0.5}, {"adam_epsilon": 1e-3}, {"max_grad_norm": 1e-9},
    {"resolution": 24}, {"mixed_precision": "bf16"},
]  # fmt: skip


@pytest.fixture(scope="module")
def plain(tmp_path_factory, micro_sd, scenes_dir):
    """Weights of the run that every change is compared with."""
    import diff_train

    folder = tmp_path_factory.mktemp("plain") / "run"
    diff_train.main([
        "--pretrained_model_name_or_path", str(micro_sd), "--instance_data_dir", str(scenes_dir / "train"),
        "--instance_prompt_loc", str(scenes_dir / "captions.json"), "--class_prompt", "instancelevel_blip",
        "--resolution", "16", "--train_batch_size", "2", "--max_train_steps", "3", "--save_steps", "99",
        "--sample_batch_size", "1", "--learning_rate", "1e-2", "--lr_warmup_steps", "0", "--seed", "7", "--log_steps", "1",
        "--output_dir", str(folder), *SEED_FLAGS,
    ])  # fmt: skip
    return unet(folder)


@pytest.mark.parametrize("change", CHANGES, ids=lambda c: " ".join(f"{k}={v}" for k, v in c.items()))
def test_a_flag_that_is_given_changes_the_result(train, plain, change):
    if change.get("class_prompt", "instancelevel_blip") != "instancelevel_blip":
        change = change | {"instance_prompt_loc": None}
    assert not torch.equal(unet(train(**change)), plain)


def test_previews_do_not_disturb_mixed_precision(train):
    often, never = (train(mixed_precision="bf16", save_steps=n, max_train_steps=4) for n in (1, 99))
    assert torch.equal(unet(often), unet(never))


@pytest.mark.parametrize("switches", [("--random_flip",), ("--scale_lr",)])
def test_a_switch_that_is_given_changes_the_result(train, plain, switches):
    assert not torch.equal(unet(train(*switches)), plain)


def test_center_crop_changes_what_is_not_square(train, tmp_path):
    data = tmp_path / "wide" / "a"
    data.mkdir(parents=True)
    for i in range(4):
        Image.fromarray(np.random.default_rng(i).integers(0, 255, (16, 40, 3), dtype=np.uint8)).save(data / f"{i}.png")
    flags = {"instance_data_dir": tmp_path / "wide", "class_prompt": "nolevel", "instance_prompt_loc": None}
    assert not torch.equal(unet(train("--center_crop", **flags)), unet(train(**flags)))


def test_dup_image_draws_other_captions_than_dup_both(train):
    flags = {"weight_pc": 0.99, "max_train_steps": 4}
    assert not torch.equal(unet(train(duplication="dup_image", **flags)), unet(train(duplication="dup_both", **flags)))


def test_dup_weight_is_how_often(train):
    flags = {"duplication": "dup_both", "weight_pc": 0.5, "max_train_steps": 5}
    assert not torch.equal(unet(train(dup_weight=1, **flags)), unet(train(dup_weight=50, **flags)))


def test_generation_seed_changes_the_previews_alone(train, plain):
    one, other = train(generation_seed=1), train(generation_seed=2)
    assert torch.equal(unet(one), plain)
    assert torch.equal(unet(other), plain)
    previews = [json.loads((f / "generations" / "0.json").read_text()) for f in (one, other)]
    assert previews[0] != previews[1]


def test_steps_between_previews_checkpoints_and_rows(train):
    folder = train("--modelsavesteps", 2, max_train_steps=5, save_steps=3, log_steps=2)
    assert [r["step"] for r in rows(folder)] == [2, 4, 5]
    assert sorted(p.name for p in folder.glob("checkpoint*")) == ["checkpoint", "checkpoint_2", "checkpoint_4"]
    assert sorted(p.name for p in (folder / "generations").glob("*.png")) == ["0.png", "3.png", "5.png"]


def test_a_logged_loss_is_the_mean_since_the_last_row(train):
    each = [r["loss"] for r in rows(train(max_train_steps=4))]
    pairs = [r["loss"] for r in rows(train(max_train_steps=4, log_steps=2))]
    assert pairs == pytest.approx([sum(each[:2]) / 2, sum(each[2:]) / 2], rel=1e-6)


def test_epochs_count_when_no_steps_are_given(train):
    folder = train(max_train_steps=None, num_train_epochs=2, train_batch_size=5)
    assert rows(folder)[-1]["step"] == 6  # 2 * ceil(12 / 5)


def test_a_tokenizer_of_its_own_is_used(train, micro_sd, tmp_path):
    from transformers import CLIPTokenizer

    own = CLIPTokenizer.from_pretrained(micro_sd / "tokenizer")
    swapped = {t: (i + 1) % (len(own) - 2) if i < len(own) - 2 else i for t, i in own.get_vocab().items()}
    CLIPTokenizer(vocab=swapped, merges=[], model_max_length=32).save_pretrained(tmp_path / "tok")
    assert not torch.equal(unet(train(tokenizer_name=tmp_path / "tok")), unet(train()))


def test_a_seed_that_is_not_given_is_drawn_and_recorded(train):
    seeds = [json.loads((train(seed=None, max_train_steps=1) / "run.json").read_text())["seed"] for _ in range(2)]
    assert seeds[0] != seeds[1]


def test_without_duplication_the_counterfactual_set_is_recorded(train):
    record = json.loads((train(weight_pc=0.25, max_train_steps=1) / "run.json").read_text())
    assert record["counterfactual"] is True
    assert len(record["duplicated"]) == 3


def test_dry_run_prints_and_writes_nothing(train, tmp_path):
    folder = train("--dry_run")
    shown = json.loads(train.printed)
    assert shown["images"] == 12
    assert shown["options"]["seed"] == 7
    assert str(folder / "run.json") in shown["writes"]
    assert not folder.exists()


def test_trackers_get_the_published_keys(train, monkeypatch):
    from utils.reports import tracking

    seen = []

    class Recorder(tracking.NoTracker):
        def __init__(self, **kwargs):
            seen.append(("open", kwargs["project"]))

        def log(self, row, step, group=None):
            seen.append((step, sorted(row)))

        def image(self, name, path, step):
            assert path.exists()
            seen.append((step, name))

    monkeypatch.setitem(tracking.TRACKERS, "none", Recorder)
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    train(max_train_steps=2)
    assert seen == [
        ("open", "diffrep_ft"), (0, "generations"), (1, ["loss", "lr"]), (2, ["loss", "lr"]), (2, "generations"),
    ]  # fmt: skip


def test_unreadable_images_and_empty_classes_are_named_and_left_out(train, scenes_dir, tmp_path):
    data = shutil.copytree(scenes_dir, tmp_path / "scenes")
    (data / "train" / "nothing").mkdir()
    victim = next(iter(sorted((data / "train").rglob("*.png"))))
    victim.write_bytes(victim.read_bytes()[:60])
    folder = train(instance_data_dir=data / "train", instance_prompt_loc=data / "captions.json", max_train_steps=1)
    record = json.loads((folder / "run.json").read_text())
    assert record["data"]["images"] == 11
    assert [b[0] for b in record["data"]["bad"]] == [victim.relative_to(data / "train").as_posix()]
    assert f"left out: {victim.relative_to(data / 'train').as_posix()}" in train.printed
    assert "no class: the folder 'nothing' holds no image" in train.printed


def test_a_loss_that_is_not_finite_ends_the_run_and_keeps_what_was_good(refused, micro_sd, scenes_dir, tmp_path):
    flags = [
        "--pretrained_model_name_or_path", micro_sd, "--instance_data_dir", scenes_dir / "train", "--resolution", 16,
        "--max_train_steps", 30, "--train_batch_size", 2, "--sample_batch_size", 1, "--modelsavesteps", 1, "--save_steps", 99,
        "--lr_warmup_steps", 0, "--learning_rate", 1e30, "--adam_weight_decay", 1e9, "--output_dir", tmp_path / "run",
        "--seed", 0,
    ]  # fmt: skip
    line = refused("diff_train", *flags, *SEED_FLAGS, status=1)
    assert "not finite" in line
    assert "what was saved before is kept" in line
    for saved in (tmp_path / "run").glob("checkpoint_*"):
        assert unet(saved.parent, saved.name).isfinite().all()
    assert not (tmp_path / "run" / "checkpoint").exists()
    assert json.loads((tmp_path / "run" / "run.json").read_text())["finished"] is False


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"instance_data_dir": "/no/such"}, "--instance_data_dir='/no/such' does not exist; give an existing folder"),
        ({"instance_data_dir": "EMPTY"}, "holds no images; takes a folder with"),
        ({"instance_prompt_loc": "HALF"}, "11 of 12 images have no caption, first '"),
        ({"resolution": "20"}, "--resolution=20 is not accepted"),
        ({"pretrained_model_name_or_path": "nobody/nothing"}, "could not be had from"),
        ({"pretrained_model_name_or_path": "EMPTY"}, "is not a pipeline folder: it has no model_index.json"),
        ({"output_dir": "RUN"}, "already holds a run"),
        ({"trainsubset": "0.01"}, "--trainsubset=0.01 keeps none of 12 images"),
    ],
)
def test_bad_input_ends_before_anything_is_written(refused, micro_sd, scenes_dir, micro_run, tmp_path, changes, message):
    (tmp_path / "empty").mkdir()
    key = sorted(json.loads((scenes_dir / "captions.json").read_text()))[3].removeprefix("train/")
    (tmp_path / "half.json").write_text(json.dumps({key: ["one"]}))
    places = {"EMPTY": tmp_path / "empty", "HALF": tmp_path / "half.json", "RUN": micro_run}
    flags = {
        "pretrained_model_name_or_path": micro_sd, "instance_data_dir": scenes_dir / "train", "resolution": 16,
        "instance_prompt_loc": scenes_dir / "captions.json", "class_prompt": "instancelevel_blip",
        "max_train_steps": 1, "seed": 0, "output_dir": tmp_path / "run",
    } | {k: places.get(v, v) for k, v in changes.items()}  # fmt: skip
    before = sorted(micro_run.rglob("*"))
    line = refused("diff_train", *[v for k, value in flags.items() for v in (f"--{k}", value)], *SEED_FLAGS)
    assert message in line
    assert not (tmp_path / "run").exists()
    assert sorted(micro_run.rglob("*")) == before
