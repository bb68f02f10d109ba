import csv
import io
import json
import os
import shutil
import tarfile
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from tests import tables
from tests.conftest import SEED_FLAGS
from tests.launchers import ended
from tests.original_layout import save_as_one_file
from utils.models import loading


@pytest.fixture
def train(script, micro_sd, scenes_dir, tmp_path):
    """train(*flags, **replaced) -> the run's folder, after three steps of two images."""
    count = iter(range(100))

    def run(*extra, **replaced):
        folder = tmp_path / f"run{next(count)}"
        flags = {
            "pretrained_model_name_or_path": micro_sd,
            "instance_data_dir": scenes_dir / "train",
            "instance_prompt_loc": scenes_dir / "captions.json",
            "class_prompt": "instancelevel_blip",
            "resolution": 16,
            "train_batch_size": 2,
            "max_train_steps": 3,
            "save_steps": 99,
            "sample_batch_size": 1,
            "learning_rate": 1e-2,
            "lr_warmup_steps": 0,
            "seed": 7,
            "log_steps": 1,
            "output_dir": folder,
        } | replaced
        given = [v for k, value in flags.items() if value is not None for v in (f"--{k}", value)]
        run.printed = script("diff_train", *SEED_FLAGS, *given, *extra)
        return flags["output_dir"]

    return run


def unet(folder, name="checkpoint"):
    state = load_file(folder / name / "unet" / "diffusion_pytorch_model.safetensors")
    return torch.cat([state[k].flatten() for k in sorted(state)])


def rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_one_file_and_a_network_of_its_own_are_trained_like_the_folder(
    train, refused, micro_sd, micro_parts, scenes_dir, tmp_path
):
    file = save_as_one_file(micro_parts().assemble(), tmp_path / "model.safetensors")
    folder = train()
    one = train(pretrained_model_name_or_path=file, config=micro_sd)
    other = train(unet=micro_sd / "unet")
    models = [json.loads((run / "run.json").read_text())["model"] for run in (folder, one, other)]
    assert models[0] == models[1] == models[2]
    weights = "checkpoint/unet/diffusion_pytorch_model.safetensors"
    assert (folder / weights).read_bytes() == (one / weights).read_bytes()
    broken = shutil.copytree(micro_sd, tmp_path / "broken")
    path = broken / "text_encoder" / "model.safetensors"
    save_file({"x." + name: value for name, value in load_file(path).items()}, path)
    line = refused(
        "diff_train",
        *("--pretrained_model_name_or_path", broken, "--resolution", 16, *SEED_FLAGS),
        *("--instance_data_dir", scenes_dir / "train", "--output_dir", tmp_path / "new"),
    )
    assert "20 of 20 names are missing" in line
    assert not (tmp_path / "new").exists()


def test_a_run_folder_explains_itself(micro_run, scenes_dir):
    record = json.loads((micro_run / "run.json").read_text())
    assert (record["kind"], record["version"], record["finished"], record["seed"]) == (
        "run",
        1,
        True,
        7,
    )
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
    assert sorted(p.name for p in (micro_run / "generations").glob("*.png")) == [
        "0.png",
        "2.png",
        "4.png",
    ]


def test_checkpoints_load_with_diffusers_alone(micro_run):
    from diffusers import StableDiffusionPipeline

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        last, middle = (
            StableDiffusionPipeline.from_pretrained(micro_run / n)
            for n in ("checkpoint", "checkpoint_2")
        )
    weight = "conv_in.weight"
    assert not torch.equal(last.unet.state_dict()[weight], middle.unet.state_dict()[weight])


def test_previews_have_the_same_prompts_and_seeds_at_every_step(micro_run):
    first, last = (
        json.loads((micro_run / "generations" / f"{s}.json").read_text()) for s in (0, 4)
    )
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
    {"class_prompt": "nolevel"},
    {"class_prompt": "nolevel", "instance_prompt": "a photo of sks cat"},
    {"class_prompt": "classlevel"},
    {"class_prompt": "instancelevel_random"},
    {"duplication": "dup_both", "weight_pc": 0.5},
    {"trainsubset": 0.5},
    {"holdout": 0.5},
    {"trainspecial": "allcaps"},
    {"trainspecial": "randrepl", "trainspecial_prob": 1},
    {"trainspecial": "randwordadd", "trainspecial_prob": 1},
    {"trainspecial": "wordrepeat", "trainspecial_prob": 1},
    {"rand_noise_lam": 0.5},
    {"mixup_noise_lam": 0.5},
    {"caption_dropout": 0.5},
    {"caption_template": "a photo in sks style, {caption}"},
    {"train_batch_size": 3},
    {"max_train_steps": 4},
    {"gradient_accumulation_steps": 2},
    {"learning_rate": 2e-2},
    {"lr_warmup_steps": 2, "lr_scheduler": "linear"},
    {"adam_beta1": 0.5},
    {"adam_beta2": 0.9},
    {"adam_weight_decay": 0.5},
    {"adam_epsilon": 1e-3},
    {"max_grad_norm": 1e-9},
    {"resolution": 24},
    {"mixed_precision": "bf16"},
    {"clients_num": 2},
    {"total_round": 2},
    {"noise_offset": 0.1},
    {"snr_gamma": 1e-4},
    {"unet_from_scratch": "yes"},
]


@pytest.fixture(scope="module")
def plain(tmp_path_factory, micro_sd, scenes_dir):
    """Weights of the run that every change is compared with."""
    import diff_train

    folder = tmp_path_factory.mktemp("plain") / "run"
    diff_train.main(
        [
            "--pretrained_model_name_or_path",
            str(micro_sd),
            "--instance_data_dir",
            str(scenes_dir / "train"),
            "--instance_prompt_loc",
            str(scenes_dir / "captions.json"),
            "--class_prompt",
            "instancelevel_blip",
            "--resolution",
            "16",
            "--train_batch_size",
            "2",
            "--max_train_steps",
            "3",
            "--save_steps",
            "99",
            "--sample_batch_size",
            "1",
            "--learning_rate",
            "1e-2",
            "--lr_warmup_steps",
            "0",
            "--seed",
            "7",
            "--log_steps",
            "1",
            "--output_dir",
            str(folder),
            *SEED_FLAGS,
        ]
    )
    return unet(folder)


@pytest.mark.parametrize(
    "change", CHANGES, ids=lambda c: " ".join(f"{k}={v}" for k, v in c.items())
)
def test_a_flag_that_is_given_changes_the_result(train, plain, change):
    if change.get("class_prompt", "instancelevel_blip") != "instancelevel_blip":
        change = change | {"instance_prompt_loc": None}
    assert not torch.equal(unet(train(**change)), plain)


def test_what_adds_nothing_to_captions_changes_no_bit(train, plain):
    assert torch.equal(unet(train(caption_dropout=0, caption_template="{caption}")), plain)


def test_a_template_stands_around_the_captions_of_every_image(train, scenes_dir):
    folder = train(caption_template="{caption}, in sks style", holdout=0.25, max_train_steps=1)
    written = json.loads((scenes_dir / "captions.json").read_text())
    names = ("captions.json", "captions_holdout.json")
    prompts = {}
    for name in names:
        prompts |= json.loads((folder / name).read_text())
    assert {f"train/{k}": v for k, v in prompts.items()} == {
        k: [f"{text}, in sks style" for text in texts] for k, texts in written.items()
    }
    record = json.loads((folder / "run.json").read_text())
    assert record["options"]["caption_template"] == "{caption}, in sks style"


def test_one_prompt_for_all_images_is_trained_on_and_generated_from(train, script, tmp_path):
    own = {"class_prompt": None, "instance_prompt_loc": None, "instance_prompt": "photo of sks cat"}
    folder = train(**own, max_train_steps=1)
    prompts = json.loads((folder / "captions.json").read_text())
    assert set(map(tuple, prompts.values())) == {("photo of sks cat",)}
    made = tmp_path / "made"
    script(
        "diff_inference",
        *("--modelpath", folder, "-nb", 1, "--num_inference_steps", 1, "--savepath", made),
    )
    assert (made / "prompts.txt").read_text().strip() == "photo of sks cat"


def test_a_captions_file_that_is_not_used_is_read_and_said(train, refused, micro_sd, scenes_dir):
    folder = train(class_prompt="nolevel", max_train_steps=1)
    assert "captions.json' has no effect: its captions of 12 images are not used" in train.printed
    assert "--class_prompt='nolevel'; for training on them use --class_prompt inst" in train.printed
    line = refused(
        "diff_train",
        *("--pretrained_model_name_or_path", micro_sd, "--instance_data_dir", scenes_dir / "train"),
        *("--instance_prompt_loc", scenes_dir / "no.json", "--dry_run", "--resolution", 16),
        *("--output_dir", folder.parent / "other"),
    )
    assert "no.json' does not exist; give an existing file" in line


def test_previews_do_not_disturb_mixed_precision(train):
    often, never = (train(mixed_precision="bf16", save_steps=n, max_train_steps=4) for n in (1, 99))
    assert torch.equal(unet(often), unet(never))


@pytest.mark.parametrize(
    "switches", [("--random_flip",), ("--scale_lr",), ("--use_ema",), ("--train_text_encoder",)]
)
def test_a_switch_that_is_given_changes_the_result(train, plain, switches):
    assert not torch.equal(unet(train(*switches)), plain)


def test_center_crop_changes_what_is_not_square(train, tmp_path):
    data = tmp_path / "wide" / "a"
    data.mkdir(parents=True)
    for i in range(4):
        Image.fromarray(
            np.random.default_rng(i).integers(0, 255, (16, 40, 3), dtype=np.uint8)
        ).save(data / f"{i}.png")
    flags = {
        "instance_data_dir": tmp_path / "wide",
        "class_prompt": "nolevel",
        "instance_prompt_loc": None,
    }
    assert not torch.equal(unet(train("--center_crop", **flags)), unet(train(**flags)))


def test_dup_image_draws_other_captions_than_dup_both(train):
    flags = {"weight_pc": 0.99, "max_train_steps": 4}
    assert not torch.equal(
        unet(train(duplication="dup_image", **flags)), unet(train(duplication="dup_both", **flags))
    )


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
    assert sorted(p.name for p in folder.glob("checkpoint*")) == [
        "checkpoint",
        "checkpoint_2",
        "checkpoint_4",
    ]
    assert sorted(p.name for p in (folder / "generations").glob("*.png")) == [
        "0.png",
        "3.png",
        "5.png",
    ]


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
    swapped = {
        t: (i + 1) % (len(own) - 2) if i < len(own) - 2 else i for t, i in own.get_vocab().items()
    }
    CLIPTokenizer(vocab=swapped, merges=[], model_max_length=32).save_pretrained(tmp_path / "tok")
    assert not torch.equal(unet(train(tokenizer_name=tmp_path / "tok")), unet(train()))


def test_a_seed_that_is_not_given_is_drawn_and_recorded(train):
    seeds = [
        json.loads((train(seed=None, max_train_steps=1) / "run.json").read_text())["seed"]
        for _ in range(2)
    ]
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
    found = shown["recognised"]
    assert (found["images"]["formats"], found["captions"]["images"]) == ({".png": 12}, 12)
    assert found["captions"]["from"].endswith("captions.json")
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
        ("open", "diffrep_ft"),
        (0, "generations"),
        (1, ["images_per_second", "loss", "lr"]),
        (2, ["images_per_second", "loss", "lr"]),
        (2, "generations"),
    ]


def test_unreadable_images_and_empty_classes_are_named_and_left_out(train, scenes_dir, tmp_path):
    data = shutil.copytree(scenes_dir, tmp_path / "scenes")
    (data / "train" / "nothing").mkdir()
    victim = next(iter(sorted((data / "train").rglob("*.png"))))
    victim.write_bytes(victim.read_bytes()[:60])
    folder = train(
        instance_data_dir=data / "train",
        instance_prompt_loc=data / "captions.json",
        max_train_steps=1,
    )
    record = json.loads((folder / "run.json").read_text())
    assert record["data"]["images"] == 11
    assert [b[0] for b in record["data"]["bad"]] == [victim.relative_to(data / "train").as_posix()]
    assert f"skipped: {victim.relative_to(data / 'train').as_posix()}" in train.printed
    assert "the folder 'nothing' holds no image and is not a class" in train.printed


def test_a_loss_that_is_not_finite_ends_the_run_and_keeps_what_was_good(
    refused, micro_sd, scenes_dir, tmp_path
):
    flags = [
        "--pretrained_model_name_or_path",
        micro_sd,
        "--instance_data_dir",
        scenes_dir / "train",
        "--resolution",
        16,
        "--max_train_steps",
        30,
        "--train_batch_size",
        2,
        "--sample_batch_size",
        1,
        "--modelsavesteps",
        1,
        "--save_steps",
        99,
        "--lr_warmup_steps",
        0,
        "--learning_rate",
        1e30,
        "--adam_weight_decay",
        1e9,
        "--output_dir",
        tmp_path / "run",
        "--seed",
        0,
    ]
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
        (
            {"instance_data_dir": "/no/such"},
            "--instance_data_dir='/no/such' does not exist; give an existing folder",
        ),
        ({"instance_data_dir": "EMPTY"}, "holds no images; use a folder with"),
        (
            {"caption_template": "sks", "class_prompt": "instancelevel_blip"},
            "--caption_template='sks' is not accepted; use a text with {caption} in it",
        ),
        (
            {"caption_template": "sks {caption}", "class_prompt": "nolevel"},
            "--class_prompt='nolevel' has none; use --class_prompt instancelevel_blip or",
        ),
        (
            {"instance_prompt": "sks cat", "class_prompt": "instancelevel_blip"},
            "--class_prompt='instancelevel_blip' gives each its own; use --class_prompt nolevel, or",
        ),
        ({"caption_dropout": "1"}, "--caption_dropout='1' is not accepted; use a number from 0"),
        ({"instance_prompt_loc": "HALF"}, "11 of 12 images have no caption, first '"),
        ({"resolution": "20"}, "--resolution=20 is not accepted"),
        ({"pretrained_model_name_or_path": "nobody/nothing"}, "could not be loaded from"),
        (
            {"pretrained_model_name_or_path": "EMPTY"},
            "is not a pipeline folder: it has no model_index.json",
        ),
        ({"output_dir": "RUN"}, "already holds a run"),
        ({"trainsubset": "0.01"}, "--trainsubset=0.01 keeps none of 12 images"),
        (
            {"holdout": "0.05"},
            "--holdout=0.05 of 12 images sets none aside; use at least 0.0834, or 0 for none",
        ),
        ({"holdout": "1"}, "--holdout='1' is not accepted; use a number from 0 to below 1"),
        ({"holdout": "0.5", "trainsubset": "0.1"}, "--trainsubset=0.1 keeps none of 6 images"),
        ({"clients_num": "7", "holdout": "0.5"}, "--clients_num=7 splits of 6 images"),
        (
            {"clients_num": "13"},
            "--clients_num=13 splits of 12 images: use at most one split per image",
        ),
        ({"clients_num": "2", "trainsubset": "0.1"}, "--clients_num=2 splits of 1 images"),
        ({"weights_file": "HALF"}, "use a number, at least 0"),
        (
            {"weights_file": "ZERO", "clients_num": "12"},
            "leaves nothing to draw in a split or subset",
        ),
        ({"class_prompt": "instancelevel_random"}, "needs lists of token ids, not the caption 'a "),
        ({"instance_data_dir": "MIXED"}, "holds tar files and images; use a folder of one kind"),
        (
            {"resume_from_checkpoint": "state_3"},
            "--resume_from_checkpoint='state_3' is not a state of --output_dir",
        ),
        ({"instance_data_dir": "shards/{0..1}.tar"}, "does not exist; use tar files"),
    ],
)
def test_bad_input_ends_before_anything_is_written(
    refused, micro_sd, scenes_dir, micro_run, tmp_path, changes, message
):
    (tmp_path / "empty").mkdir()
    key = sorted(json.loads((scenes_dir / "captions.json").read_text()))[3].removeprefix("train/")
    (tmp_path / "half.json").write_text(json.dumps({key: ["one"]}))
    (tmp_path / "zero.json").write_text(json.dumps({key: 0}))
    mixed = shutil.copytree(scenes_dir / "train", tmp_path / "mixed")
    (mixed / "backup.tar").write_bytes(b"x")
    places = {
        "EMPTY": tmp_path / "empty",
        "HALF": tmp_path / "half.json",
        "RUN": micro_run,
        "MIXED": mixed,
        "ZERO": tmp_path / "zero.json",
    }
    flags = {
        "pretrained_model_name_or_path": micro_sd,
        "instance_data_dir": scenes_dir / "train",
        "resolution": 16,
        "instance_prompt_loc": scenes_dir / "captions.json",
        "class_prompt": "instancelevel_blip",
        "max_train_steps": 1,
        "seed": 0,
        "output_dir": tmp_path / "run",
    } | {k: places.get(v, v) for k, v in changes.items()}
    before = sorted(micro_run.rglob("*"))
    line = refused(
        "diff_train", *[v for k, value in flags.items() for v in (f"--{k}", value)], *SEED_FLAGS
    )
    assert message in line
    assert not (tmp_path / "run").exists()
    assert sorted(micro_run.rglob("*")) == before


@pytest.fixture(scope="module")
def short_sd(tmp_path_factory):
    """The random pipeline with three timesteps, so that loss control sees each of them often."""
    from tests.conftest import _micro_parts

    parts = _micro_parts()
    scheduler = type(parts.scheduler).from_config(parts.scheduler.config, num_train_timesteps=3)
    folder = tmp_path_factory.mktemp("models") / "short-sd"
    parts.replace(scheduler=scheduler)
    parts.assemble().save_pretrained(folder)
    return folder


def test_loss_control_and_its_knobs_change_the_result(train, short_sd):
    """A rate so small that losses stay alike: with rho = 0.9 some are dropped, with another decay
    others."""
    flags = {
        "pretrained_model_name_or_path": short_sd,
        "max_train_steps": 8,
        "sample_batch_size": 1,
        "save_steps": 99,
    }
    plain, folder = train(**flags), train(mem_ratio=0.9, **flags)
    assert not torch.equal(unet(plain), unet(folder))
    skipped = [r["skipped"] for r in rows(folder)]
    assert 0 < sum(skipped) < len(skipped)
    with open(folder / "skips.csv", newline="") as handle:
        table = list(csv.DictReader(handle))
    assert [r["image"] for r in table] == list(json.loads((folder / "captions.json").read_text()))
    assert sum(int(r["drawn"]) for r in table) == 16
    assert sum(int(r["skipped"]) for r in table) == round(2 * sum(skipped))
    assert not (plain / "skips.csv").exists()
    assert "skipped" not in rows(plain)[0]
    for knob in (("--arr_ema_decay", 0.2), ("--agc_bias_correction",)):
        assert not torch.equal(unet(train(*knob, mem_ratio=0.9, **flags)), unet(folder)), knob


def test_the_text_encoder_of_a_checkpoint_is_the_trained_one(train, micro_sd):
    def text(folder):
        return load_file(folder / "text_encoder" / "model.safetensors")

    trained, base = text(train("--train_text_encoder") / "checkpoint"), text(micro_sd)
    assert any(not torch.equal(trained[k], base[k]) for k in base)
    frozen = text(train() / "checkpoint")
    assert all(torch.equal(frozen[k], base[k]) for k in base)


def test_half_precision_trains_float32_weights(train, micro_sd):
    folder = train(mixed_precision="bf16")
    assert unet(folder).dtype == torch.float32
    assert not torch.equal(unet(folder), unet(folder).bfloat16().float())
    base = load_file(micro_sd / "vae" / "diffusion_pytorch_model.safetensors")
    kept = load_file(folder / "checkpoint" / "vae" / "diffusion_pytorch_model.safetensors")
    assert all(torch.equal(base[k], kept[k]) for k in base)


def test_weights_of_a_file_decide_what_is_drawn(train, scenes_dir, tmp_path):
    keys = sorted(
        k.removeprefix("train/") for k in json.loads((scenes_dir / "captions.json").read_text())
    )
    (tmp_path / "w.json").write_text(json.dumps({k: float(k == keys[4]) for k in keys}))
    folder = train(weights_file=tmp_path / "w.json", mem_ratio=1.0)
    with open(folder / "skips.csv", newline="") as handle:
        drawn = {r["image"]: int(r["drawn"]) for r in csv.DictReader(handle)}
    assert drawn == {k: 6 * (k == keys[4]) for k in keys}


def test_networks_are_checkpointed_and_compiled_when_asked(train, monkeypatch):
    from diffusers import UNet2DConditionModel

    asked = []
    enable = UNet2DConditionModel.enable_gradient_checkpointing
    monkeypatch.setattr(
        UNet2DConditionModel,
        "enable_gradient_checkpointing",
        lambda self: asked.append("less") or enable(self),
    )
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: asked.append(type(self).__name__))
    train("--gradient_checkpointing", max_train_steps=1)
    train("--compile", max_train_steps=1)
    assert asked == ["less", "Denoiser"]


def test_what_frozen_networks_compute_is_kept_beside_the_run_and_changes_nothing(train):
    flags = {"max_train_steps": 15, "log_steps": 5}
    kept = train("--center_crop", "--random_flip", **flags)
    cache = kept.parent / "encoded"
    assert sorted(p.name.split("_")[0] for p in cache.iterdir()) == ["embeddings", "latents"]
    stamps = {p: p.stat().st_mtime_ns for p in cache.rglob("*.npy")}
    again = train("--center_crop", "--random_flip", **flags)
    assert {p: p.stat().st_mtime_ns for p in cache.rglob("*.npy")} == stamps  # found, not made anew
    anew = train("--center_crop", "--random_flip", "--cache_latents", "off", **flags)
    assert torch.equal(unet(kept), unet(again))
    start = unet(kept, "checkpoint") - unet(anew)
    assert start.norm() < 0.01 * unet(anew).norm()
    assert not torch.equal(unet(anew), unet(train("--center_crop", **flags)))


def test_dropped_captions_are_among_the_embeddings_that_are_kept(train):
    flags = {"max_train_steps": 15, "caption_dropout": 0.5, "mixup_noise_lam": 0.5}
    kept = train("--center_crop", **flags)
    assert json.loads((kept / "run.json").read_text())["encoded"] == ["latents", "captions"]
    anew = train("--center_crop", "--cache_latents", "off", **flags)
    assert (unet(kept) - unet(anew)).norm() < 0.01 * unet(anew).norm()
    without = train("--center_crop", **flags | {"caption_dropout": 0})
    assert (unet(kept) - unet(without)).norm() > 2 * (unet(kept) - unet(anew)).norm()


@pytest.mark.parametrize(
    ("extra", "replaced", "said"),
    [
        (
            (),
            {"max_train_steps": 9},
            "latents are not cached: without --center_crop every draw has a different crop",
        ),
        (
            ("--center_crop", "--random_flip"),
            {"max_train_steps": 9},
            "the run draws 18 and a cache would hold 24",
        ),
    ],
)
def test_why_latents_are_not_kept_is_said(train, extra, replaced, said):
    folder = train(*extra, **replaced)
    assert said in train.printed
    assert not list((folder.parent / "encoded").glob("latents*"))


def test_a_disk_that_is_too_small_for_the_cache_is_said_and_the_run_goes_on(train, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    folder = train("--center_crop", max_train_steps=9)
    assert "latents are not cached: 0.00 GiB are needed in" in train.printed
    assert (folder / "checkpoint").exists()
    assert not (folder.parent / "encoded").exists()


def test_where_tensorboard_writes_and_what_is_only_recorded(
    train, script, micro_sd, scenes_dir, tmp_path, monkeypatch
):
    # set first, so that the test's end takes back what is set within
    for name in ("RANK", "LOCAL_RANK"):
        monkeypatch.setenv(name, "0")
    monkeypatch.delenv("RANK")
    monkeypatch.delenv("LOCAL_RANK")
    script(
        "diff_train",
        "--pretrained_model_name_or_path",
        micro_sd,
        "--instance_data_dir",
        scenes_dir / "train",
        "--resolution",
        16,
        "--max_train_steps",
        1,
        "--sample_batch_size",
        1,
        "--seed",
        1,
        "--num_workers",
        0,
        "--output_dir",
        tmp_path / "r",
        "--report_to",
        "tensorboard",
        "--logging_dir",
        "events",
        "--dataset_name",
        "mine",
        "--local_rank",
        0,
    )
    assert list((tmp_path / "r" / "events").glob("events.out.*"))
    record = json.loads((tmp_path / "r" / "run.json").read_text())
    assert record["options"]["dataset_name"] == "mine"
    # alone it would start a process group that nobody else joins
    assert "LOCAL_RANK" not in os.environ


def test_an_old_launcher_s_local_rank_is_heard(refused, micro_sd, monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.delenv("LOCAL_RANK")
    refused(
        "diff_train",
        "--pretrained_model_name_or_path",
        micro_sd,
        "--instance_data_dir",
        "/no/such",
        "--local_rank",
        3,
    )
    assert os.environ["LOCAL_RANK"] == "3"


def test_processes_that_are_wanted_but_not_there_are_told_how_to_start(train):
    train(trainggpu=4, max_train_steps=1)
    assert (
        "--trainggpu=4: 1 process(es) take part; to use 4: accelerate launch --num_processes 4"
        " diff_train.py" in train.printed
    )
    train(trainggpu=1, max_train_steps=1)
    assert "--trainggpu" not in train.printed


def test_an_upload_gets_the_final_checkpoint_and_no_record_gets_the_token(train, monkeypatch):
    from utils.files import hub

    sent = []
    monkeypatch.setattr(hub, "push", lambda *what: sent.append(what) or "address")
    folder = train(
        "--push_to_hub", hub_token="hf_secret", hub_model_id="me/model", max_train_steps=1
    )
    assert sent == [(folder / "checkpoint", "me/model", "hf_secret")]
    assert "uploaded to address" in train.printed
    told = [p.read_bytes() for p in folder.rglob("*") if p.is_file()]
    assert not any(b"hf_secret" in content for content in told)
    assert json.loads((folder / "run.json").read_text())["options"]["hub_token"] == "redacted"


def test_shards_of_tar_files_and_metadata_train(train, scenes_dir, tmp_path):
    texts = json.loads((scenes_dir / "captions.json").read_text())
    with tarfile.open(tmp_path / "0.tar", "w") as archive:
        for i, key in enumerate(sorted(texts)):
            archive.add(scenes_dir / key, f"{i:04d}.png")
            info = tarfile.TarInfo(f"{i:04d}.txt")
            info.size = len(texts[key][0])
            archive.addfile(info, io.BytesIO(texts[key][0].encode()))
    folder = train(instance_data_dir=tmp_path / "0.tar", instance_prompt_loc=None)
    captions = json.loads((folder / "captions.json").read_text())
    assert captions["0.tar/0003.png"] == texts[sorted(texts)[3]][:1]
    data = shutil.copytree(scenes_dir / "train", tmp_path / "meta")
    lines = [
        json.dumps({"file_name": k.removeprefix("train/"), "text": v[0]}) for k, v in texts.items()
    ]
    (data / "metadata.jsonl").write_text("\n".join(lines))
    other = train(instance_data_dir=data, instance_prompt_loc=None)
    named = json.loads((other / "captions.json").read_text())
    assert {f"train/{k}": v for k, v in named.items()} == {k: v[:1] for k, v in texts.items()}


def test_parquet_and_arrow_files_train_to_the_weights_of_the_same_pictures(
    train, scenes_dir, tmp_path
):
    columns = tables.scenes_columns(scenes_dir)
    parquet = tables.write_parquet(tmp_path / "train.parquet", columns, group=5)
    arrow = tables.save_to_disk(tmp_path / "arrow", columns, files=2)
    given = unet(train())
    for source in (parquet, arrow):
        folder = train(instance_data_dir=source, instance_prompt_loc=None, num_workers=1)
        assert "12 images of the column 'image' in" in train.printed
        assert torch.equal(unet(folder), given)
        captions = json.loads((folder / "captions.json").read_text())
        assert [texts[0] for texts in captions.values()] == columns["text"]


def test_parquet_trains_without_encoding_ahead(train, scenes_dir, tmp_path):
    columns = tables.scenes_columns(scenes_dir)
    source = tables.write_parquet(tmp_path / "train.parquet", columns, group=5)
    how = {"cache_latents": "off", "instance_prompt_loc": None, "num_workers": 2}
    given = train(**how | {"instance_prompt_loc": scenes_dir / "captions.json"})
    assert torch.equal(unet(train(instance_data_dir=source, **how)), unet(given))


@pytest.fixture
def repeated(scenes_dir, tmp_path):
    """The scenes in folders as kohya's trainer reads them: seven in 1_scene, five in 10_sks cat."""
    for i, path in enumerate(sorted((scenes_dir / "train").rglob("*.png"))):
        folder = tmp_path / "kohya" / "img" / ("10_sks cat" if i < 5 else "1_scene")
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, folder / f"{i}.png")
    return tmp_path / "kohya"


def test_repeats_of_folders_are_weights_and_their_classes_are_prompts(train, repeated):
    flags = {"instance_data_dir": repeated, "instance_prompt_loc": None, "max_train_steps": 1}
    folder = train(**flags | {"class_prompt": "classlevel"})
    assert "'img/10_sks cat' has weight 10 and class 'sks cat'" in train.printed
    record = json.loads((folder / "run.json").read_text())
    assert record["classes"] == ["scene", "sks cat"]
    assert record["folder_classes"] == {"img/1_scene": "scene", "img/10_sks cat": "sks cat"}
    texts = json.loads((folder / "captions.json").read_text())
    assert texts["img/10_sks cat/0.png"] == ["An image of sks cat"]
    plain = train("--no_folder_repeats", **flags | {"class_prompt": "classlevel"})
    record_of_names = json.loads((plain / "run.json").read_text())
    assert record_of_names["classes"] == ["1_scene", "10_sks cat"]
    assert record_of_names["weights"] != record["weights"]
    assert not torch.equal(unet(folder), unet(plain))


def test_images_without_a_text_have_the_class_of_their_folder_as_caption(train, repeated):
    (repeated / "img" / "1_scene" / "7.txt").write_text("a caption of its own")
    folder = train(instance_data_dir=repeated, instance_prompt_loc=None)
    assert "11 of 12 images have no text: their caption is their class" in train.printed
    texts = json.loads((folder / "captions.json").read_text())
    assert texts["img/1_scene/7.png"] == ["a caption of its own"]
    assert texts["img/1_scene/8.png"] == ["scene"]
    assert texts["img/10_sks cat/0.png"] == ["sks cat"]


def test_a_run_of_folder_names_resumes_without_repeats_only(train, repeated, refused):
    flags = {"instance_data_dir": repeated, "instance_prompt_loc": None}
    flags |= {"class_prompt": "classlevel"}
    folder = train("--no_folder_repeats", **flags)
    record = json.loads((folder / "run.json").read_text())
    del record["folder_classes"], record["options"]["no_folder_repeats"]  # as 0.2.0 wrote it
    (folder / "run.json").write_text(json.dumps(record))
    again = flags | {"output_dir": folder, "resume_from_checkpoint": "latest", "max_train_steps": 4}
    with pytest.raises(SystemExit):
        train(**again)
    train("--no_folder_repeats", **again)


def test_a_subset_s_prompts_are_its_own(train):
    folder = train(trainsubset=0.5)
    assert len(json.loads((folder / "captions.json").read_text())) == 6


def test_a_run_records_what_it_held_out_and_shows_none_of_it(train, scenes_dir):
    flags = {"sample_batch_size": 12, "max_train_steps": 12, "mem_ratio": 1.0}
    folder = train(holdout=0.5, **flags)
    assert "--holdout=0.5: 6 of 12 images are set aside and never drawn" in train.printed
    record, texts = (json.loads((folder / f"{n}.json").read_text()) for n in ("run", "captions"))
    held = json.loads((folder / "captions_holdout.json").read_text())
    assert record["holdout"] == list(held)
    assert record["data"]["images"] == len(texts) == len(held) == 6
    given = json.loads((scenes_dir / "captions.json").read_text())
    assert {f"train/{k}": v for k, v in (texts | held).items()} == given
    shown = json.loads((folder / "generations" / "0.json").read_text())
    assert {row["image"] for row in shown} <= set(texts)
    with open(folder / "skips.csv", newline="") as handle:
        assert {r["image"] for r in csv.DictReader(handle) if int(r["drawn"])} == set(texts)
    plain = train()
    assert json.loads((plain / "run.json").read_text())["holdout"] == []
    assert not (plain / "captions_holdout.json").exists()
    assert "set aside" not in train.printed


def test_no_tracker_gets_the_token(micro_sd, scenes_dir, tmp_path, monkeypatch):
    """A real offline run of wandb, which records the command line, in a process of its own."""
    flags = {
        "--pretrained_model_name_or_path": micro_sd,
        "--instance_data_dir": scenes_dir / "train",
        "--resolution": 16,
        "--max_train_steps": 1,
        "--sample_batch_size": 1,
        "--num_workers": 0,
        "--report_to": "wandb",
        "--hub_token": "hf_s3cretS3CRET",
        "--hub_model_id": "me/m",
        "--output_dir": tmp_path / "r",
    }
    words = ["--push_to_hub", *(word for pair in flags.items() for word in pair)]
    monkeypatch.chdir(tmp_path)  # what is written beside the run is searched, too
    ((status, out, error),) = ended([("diff_train.py", words, {"WANDB_MODE": "offline"})])
    assert status == 1  # offline, so the upload fails, when everything else is done
    assert "--push_to_hub: 'me/m' could not be written" in error
    files = [p for p in tmp_path.rglob("*") if p.is_file()]
    assert any(p.suffix == ".wandb" for p in files)
    assert not [p for p in files if b"hf_s3cretS3CRET" in p.read_bytes()]
    assert "hf_s3cret" not in out + error


def test_names_of_the_tracker_and_the_revision_reach_the_libraries(train, monkeypatch):
    from utils.reports import tracking

    opened, loaded = {}, []
    load = loading.load_pipeline

    class Recorder(tracking.NoTracker):
        def __init__(self, **kwargs):
            opened.update(kwargs)

    monkeypatch.setitem(tracking.TRACKERS, "none", Recorder)
    monkeypatch.setattr(
        loading,
        "load_pipeline",
        lambda *a, choice, **k: loaded.append(choice.revision) or load(*a, choice=choice, **k),
    )
    train(wandb_project="mine", run_name="tuesday", revision="fp32", max_train_steps=1)
    assert (opened["project"], opened["name"], loaded) == ("mine", "tuesday", ["fp32"])
    assert opened["config"]["seed"] == 7


def test_how_many_bad_images_are_accepted_and_how_many_workers_read(
    train, refused, scenes_dir, micro_sd, tmp_path, monkeypatch
):
    from utils.data import training_data

    data = shutil.copytree(scenes_dir, tmp_path / "scenes")
    for victim in sorted((data / "train").rglob("*.png"))[:2]:
        victim.write_bytes(victim.read_bytes()[:60])
    named = {
        "instance_data_dir": data / "train",
        "instance_prompt_loc": data / "captions.json",
        "max_train_steps": 1,
    }
    line = refused(
        "diff_train",
        "--pretrained_model_name_or_path",
        micro_sd,
        "--instance_data_dir",
        data / "train",
        "--resolution",
        16,
        "--output_dir",
        tmp_path / "no",
    )
    assert "has 2 of 12 images that cannot be read" in line
    assert "--max_bad_images=0.01 accepts 1" in line
    asked = []
    make = training_data.loader
    monkeypatch.setattr(
        training_data,
        "loader",
        lambda *a, num_workers, **k: asked.append(num_workers) or make(*a, **k),
    )
    folder = train(max_bad_images=0.2, **named)
    assert json.loads((folder / "run.json").read_text())["data"]["images"] == 10
    train("-j", 2, max_bad_images=0.2, **named)
    assert asked == [0, 2]


def test_images_of_a_preview(train):
    for count in (1, 3):
        folder = train(sample_batch_size=count, max_train_steps=1)
        assert len(json.loads((folder / "generations" / "0.json").read_text())) == count
    own = ("--validation_prompt", "a red cat", "--validation_prompt", "a blue cat")
    folder = train(*own, sample_batch_size=1, max_train_steps=1)
    for step in (0, 1):
        rows = json.loads((folder / "generations" / f"{step}.json").read_text())
        assert [row["prompt"] for row in rows[1:]] == ["a red cat", "a blue cat"]


def test_an_output_of_this_toolkit_is_no_folder_of_training_pictures(
    refused, micro_run, micro_sd, tmp_path
):
    told = refused(
        "diff_train",
        "--pretrained_model_name_or_path",
        micro_sd,
        "--instance_data_dir",
        micro_run,
        "--output_dir",
        tmp_path / "new",
        *SEED_FLAGS,
    )
    assert (
        f"--instance_data_dir={str(micro_run)!r} is a training run, not a folder of pictures; give the pictures themselves: "
        in told
    )
    assert not (tmp_path / "new").exists()
