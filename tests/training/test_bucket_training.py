"""Training in aspect-ratio buckets, by the whole command on the random pipeline."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from tests.conftest import SEED_FLAGS
from utils.training import trainer

SIZES = "16,16;16,24;24,16"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Ten pictures: four square ones, four that are wide and two that are high."""
    folder = tmp_path_factory.mktemp("pictures")
    shapes = [(20, 20)] * 4 + [(40, 26)] * 4 + [(20, 33)] * 2
    for number, (width, height) in enumerate(shapes):
        pixels = np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


@pytest.fixture
def train(script, micro_sd, pictures):
    """train(folder, *flags) -> what the command prints."""

    def run(folder, *extra):
        return script(
            "diff_train",
            *("--pretrained_model_name_or_path", micro_sd, "--instance_data_dir", pictures),
            *("--class_prompt", "nolevel", "--resolution", 16, "--train_batch_size", 4),
            *("--save_steps", 99, "--sample_batch_size", 1, "--seed", 7, "--log_steps", 1),
            *("--learning_rate", 1e-2, "--lr_warmup_steps", 0, "--output_dir", folder),
            *("--aspect_ratio_buckets", SIZES, *SEED_FLAGS, *extra),
        )

    return run


def unet(folder):
    return load_file(folder / "checkpoint" / "unet" / "diffusion_pytorch_model.safetensors")


def test_buckets_are_printed_recorded_and_trained_and_resume_to_the_bit(
    train, tmp_path, monkeypatch
):
    shapes, inputs = [], trainer.Trainer.inputs

    def noted(self, batch, step):
        found = inputs(self, batch, step)
        height, width = batch["target_size"][0]
        shapes.append((tuple(found[0].noisy.shape), height, width))
        return found

    monkeypatch.setattr(trainer.Trainer, "inputs", noted)
    out = train(tmp_path / "whole", "--max_train_steps", 6)
    assert "(height,width: images): 16,16: 4; 16,24: 4; 24,16: 2\n" in out
    assert (
        "than the 4 of a micro-batch, which then shows some of them more than once: 24,16 (2)"
        in out
    )
    record = json.loads((tmp_path / "whole" / "run.json").read_text())
    assert record["buckets"]["counts"] == {"16,16": 4, "16,24": 4, "24,16": 2}
    assert record["buckets"]["images"]["9.png"] == "24,16"
    (factor,) = {height // latents[2] for latents, height, _ in shapes}
    assert all(latents[3] == width // factor for latents, _, width in shapes)
    assert {shape[1:] for shape in shapes} == {(16, 16), (16, 24), (24, 16)}
    train(tmp_path / "parts", "--max_train_steps", 2)
    train(tmp_path / "parts", "--max_train_steps", 6, "--resume_from_checkpoint", "latest")
    whole, parts = unet(tmp_path / "whole"), unet(tmp_path / "parts")
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_an_ensemble_trains_in_the_buckets_of_its_splits_and_kept_latents_agree(train, tmp_path):
    flags = ("--max_train_steps", 3, "--clients_num", 2, "--total_round", 2, "--center_crop")
    out = train(tmp_path / "a" / "run", *flags)
    record = json.loads((tmp_path / "a" / "run" / "run.json").read_text())
    assert record["encoded"] == ["latents", "captions"]
    for split in (0, 1):
        of = [record["buckets"]["images"][k] for k, s in record["shards"].items() if s == split]
        for size in set(of):
            small = f"{size} ({of.count(size)} in split {split})"
            assert (small in out) == (of.count(size) < 4)
    assert len(list((tmp_path / "a" / "encoded").glob("latents_*"))) == 3
    train(tmp_path / "b" / "run", *flags, "--cache_latents", "off")
    kept, anew = unet(tmp_path / "a" / "run"), unet(tmp_path / "b" / "run")
    assert max((kept[n] - anew[n]).abs().max() for n in kept) < 1e-3  # six steps of Adam at 1e-2


def test_a_plan_shows_the_bucket_of_every_image(train, tmp_path):
    found = json.loads(train(tmp_path / "run", "--dry_run"))["recognised"]["buckets"]
    assert found["counts"] == {"16,16": 4, "16,24": 4, "24,16": 2}
    assert (len(found["images"]), found["images"]["4.png"]) == (10, "16,24")


def test_sizes_that_cannot_be_are_refused(refused, micro_sd, pictures, tmp_path):
    def line(value):
        return refused(
            "diff_train",
            *("--pretrained_model_name_or_path", micro_sd, "--instance_data_dir", pictures),
            *("--resolution", 16, "--aspect_ratio_buckets", value, "--dry_run"),
        )

    assert "--aspect_ratio_buckets='16,20' is not accepted; use a multiple of 8 with" in line(
        "16, 20"
    )
    for wrong in ("16", "16,16;", "16,x", "0,16", "16,16,16", "16,99999", "square"):
        assert "use 'auto', or sizes in pixels of at most 16384, such as" in line(wrong)
    assert "(names a size twice)" in line("16,16;16,16")
