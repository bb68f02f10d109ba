"""Prior preservation and output preservation, by the command, on the twelve scenes."""

import json

import pytest
import torch
from safetensors.torch import load_file

from tests.conftest import SEED_FLAGS
from utils.models import families

PRIOR = ("--with_prior_preservation", "--class_data_prompt", "a photo of things")
DOP = ("--trigger_word", "circle", "--trigger_class", "shape")


@pytest.fixture
def train(script, micro_sd, scenes_dir, tmp_path, monkeypatch):
    """train(name, *flags) -> the run's folder, after three steps of two images; class images take
    two denoising steps."""
    monkeypatch.setattr(families, "default_sampling", lambda name: (2, 3.0))

    def run(name, *extra):
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
            "output_dir": tmp_path / name,
        }
        given = [v for k, value in flags.items() for v in (f"--{k}", value)]
        run.printed = script("diff_train", *SEED_FLAGS, *given, *extra)
        return tmp_path / name

    return run


def weights(folder):
    state = load_file(folder / "checkpoint" / "unet" / "diffusion_pytorch_model.safetensors")
    return torch.cat([state[k].flatten() for k in sorted(state)])


def rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_run_with_class_images_says_where_they_are_and_they_are_nothing_else(train, tmp_path):
    classes = tmp_path / "class"
    run = train(
        "run",
        *(*PRIOR, "--class_data_dir", classes, "--num_class_images", "3", "--mem_ratio", "1.01"),
        *("--holdout", "0.2", "--duplication", "dup_both", "--weight_pc", "0.3"),
    )
    assert "3 images (3 new) in" in train.printed
    record = json.loads((run / "run.json").read_text())
    assert record["places"]["class_data_dir"] == "../class"
    found = record["class_images"]
    assert (found["images"], found["generated"]) == (3, 3)
    assert found["prompt"] == "a photo of things"
    assert record["data"]["images"] == 10
    named = [*json.loads((run / "captions.json").read_text()), *record["duplicated"]]
    named += [*record["holdout"], *(run / "skips.csv").read_text().split()]
    assert not any("generations/" in key for key in named)
    # one line of the loss bank for each training image drawn, none for a class image
    lines = (run / "skips.csv").read_text().splitlines()[1:]
    assert sum(int(line.rsplit(",", 2)[1]) for line in lines) == 6
    assert all(row["extra_loss"] > 0 for row in rows(run))


def test_a_resumed_run_ends_with_the_same_bits_and_refuses_other_class_images(
    train, refused, tmp_path
):
    flags = (*PRIOR, *DOP, "--class_data_dir", tmp_path / "class", "--num_class_images", "3")
    whole = train("whole", *flags)
    train("part", *flags, "--max_train_steps", "2")
    part = train("part", *flags, "--resume_from_checkpoint", "latest")
    assert torch.equal(weights(whole), weights(part))
    assert [r["extra_loss"] for r in rows(whole)] == [r["extra_loss"] for r in rows(part)]
    plain = train("plain")
    assert not torch.equal(weights(plain), weights(whole))
    assert all("extra_loss" not in row for row in rows(plain))
    # the draws of the training images are those of the run without: their first loss is too
    assert rows(plain)[0]["loss"] == rows(whole)[0]["loss"]
    (tmp_path / "class" / "generations" / "1.png").write_bytes(
        (tmp_path / "class" / "generations" / "0.png").read_bytes()
    )
    with pytest.raises(SystemExit):
        train("part", *flags, "--max_train_steps", "4", "--resume_from_checkpoint", "latest")


def test_what_is_cached_is_what_would_be_computed(train, tmp_path):
    flags = (*PRIOR, *DOP, "--class_data_dir", tmp_path / "class", "--num_class_images", "2")
    flags += ("--center_crop", "--max_train_steps", "40", "--log_steps", "40")
    flags += ("--aspect_ratio_buckets", "16,16;16,32")
    kept, computed = train("kept", *flags), train("computed", *flags, "--cache_latents", "off")
    assert json.loads((kept / "run.json").read_text())["encoded"] == [
        "latents",
        "captions",
        "class_images",
    ]
    one, other = rows(kept)[0], rows(computed)[0]
    assert one["loss"] == pytest.approx(other["loss"], rel=1e-3)
    assert one["extra_loss"] == pytest.approx(other["extra_loss"], rel=1e-3)


def test_a_dry_run_says_what_would_be_generated(train, tmp_path):
    train("run", *PRIOR, "--class_data_dir", tmp_path / "class", "--dry_run")
    shown = json.loads(train.printed[train.printed.index("{") :])
    assert shown["recognised"]["class_images"] == {"found": 0, "added": 100}
    assert str(tmp_path / "class" / "manifest.json") in shown["writes"]
    assert not (tmp_path / "class").exists()


def test_flags_that_do_not_go_together_are_refused(refused, micro_sd, scenes_dir, tmp_path):
    def line(*flags):
        return refused(
            "diff_train",
            *("--pretrained_model_name_or_path", micro_sd, "--resolution", 16, *SEED_FLAGS),
            *("--instance_data_dir", scenes_dir / "train", "--output_dir", tmp_path / "new"),
            *("--sample_batch_size", 1, *flags),
        )

    assert "--with_prior_preservation needs --class_data_dir" in line(*PRIOR)
    inside = line(*PRIOR, "--class_data_dir", scenes_dir / "train" / "class")
    assert "and --instance_data_dir=" in inside
    inside = line(*PRIOR, "--class_data_dir", tmp_path / "new" / "class")
    assert "and --output_dir=" in inside
    assert "give both or neither" in line("--trigger_word", "sks")
    holds = line("--trigger_word", "sks", "--trigger_class", "sks dog")
    assert "--trigger_class='sks dog' holds --trigger_word='sks'" in holds
    assert "stands in no caption" in line("--trigger_word", "sks", "--trigger_class", "dog")
    scratch = line("--trigger_word", "a", "--trigger_class", "b", "--unet_from_scratch", "yes")
    assert "--unet_from_scratch=yes starts from random weights" in scratch
    assert not (tmp_path / "new").exists()
