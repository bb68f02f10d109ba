"""The flow-matching model that the project carries: it loads with diffusers alone, it knows its
world, and the scripts train it and generate from it."""

import json

import numpy as np
import pytest
import torch

from benchmarks import scene_reader
from tests.conftest import ROOT, SEED_FLAGS
from utils.data import scenes
from utils.runtime import seeding

TINY_SD3 = ROOT / "assets" / "tiny-sd3"


@pytest.fixture(scope="module")
def pipeline():
    from diffusers import StableDiffusion3Pipeline

    loaded = StableDiffusion3Pipeline.from_pretrained(
        TINY_SD3, text_encoder_3=None, tokenizer_3=None
    )
    loaded.set_progress_bar_config(disable=True)
    return loaded


def test_it_is_small_and_float32_safetensors(pipeline):
    files = [p for p in TINY_SD3.rglob("*") if p.is_file()]
    assert sum(p.stat().st_size for p in files) < 14 * 2**20
    assert not [p.name for p in files if p.suffix in (".bin", ".pt", ".pkl", ".ckpt")]
    networks = (pipeline.transformer, pipeline.vae, pipeline.text_encoder, pipeline.text_encoder_2)
    assert {p.dtype for m in networks for p in m.parameters()} == {torch.float32}


def test_it_obeys_the_background_of_captions(pipeline):
    """The card's figure on fewer images: 12 captions that it was not measured on."""
    held_out = [scenes.scene_at(i, stream="tiny-sd/held-out") for i in range(500, 512)]
    images = pipeline(
        [s.captions[0] for s in held_out],
        num_inference_steps=10,
        guidance_scale=3.0,
        max_sequence_length=1,
        generator=[seeding.torch_generator(0, "latents", i) for i in range(12)],
    ).images
    right = [
        scene_reader.read_background(image) == s.spec.background
        for image, s in zip(images, held_out, strict=True)
    ]
    assert np.mean(right) >= 0.75


def test_two_steps_of_lora_and_an_image_of_the_run(script, scenes_dir, tmp_path):
    run = tmp_path / "run"
    script(
        "diff_train",
        *("--pretrained_model_name_or_path", TINY_SD3, "--lora_rank", 4, "--resolution", 64),
        *("--instance_data_dir", scenes_dir / "train", "--class_prompt", "instancelevel_blip"),
        *("--instance_prompt_loc", scenes_dir / "captions.json", "--output_dir", run),
        *("--max_train_steps", 2, "--save_steps", 99, "--sample_batch_size", 1),
        *("--train_batch_size", 2, "--learning_rate", 1e-3, "--seed", 3, *SEED_FLAGS),
    )
    script(
        "diff_inference",
        *("--modelpath", run, "-nb", 1, "--num_inference_steps", 2, "--savepath", tmp_path / "m"),
    )
    settings = json.loads((tmp_path / "m" / "manifest.json").read_text())["settings"]
    assert "max_sequence_length" not in settings  # the one that the model's folder records
    assert len(list((tmp_path / "m" / "generations").iterdir())) == 1


def test_the_model_card_holds_its_figures():
    card = (TINY_SD3 / "README.md").read_text()
    assert "background colour is the caption's" in card
    assert "{" not in card  # every figure was filled in
