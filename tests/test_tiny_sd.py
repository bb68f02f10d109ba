"""The model that the project carries: it loads with diffusers alone, and it knows its world."""

import json

import numpy as np
import pytest
import torch

from benchmarks import scene_reader
from utils.data import scenes
from utils.retrieval.descriptors.extractors import EXTRACTORS
from utils.retrieval.descriptors.network import Wanted
from utils.retrieval.formulas.similarity import normalised, top_matches
from utils.runtime import seeding


@pytest.fixture(scope="module")
def pipeline(tiny_sd):
    from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline

    loaded = StableDiffusionPipeline.from_pretrained(tiny_sd)  # bare, as a user would
    loaded.set_progress_bar_config(disable=True)
    loaded.scheduler = DPMSolverMultistepScheduler.from_config(loaded.scheduler.config)
    return loaded


def test_it_is_small_and_float32_safetensors(tiny_sd, pipeline):
    files = [p for p in tiny_sd.rglob("*") if p.is_file()]
    assert sum(p.stat().st_size for p in files) < 14 * 2**20
    assert not [p.name for p in files if p.suffix in (".bin", ".pt", ".pkl", ".ckpt")]
    assert {
        p.dtype
        for m in (pipeline.unet, pipeline.vae, pipeline.text_encoder)
        for p in m.parameters()
    } == {torch.float32}
    assert pipeline.safety_checker is None


def test_its_scheduler_has_stable_diffusions_settings(tiny_sd):
    config = json.loads((tiny_sd / "scheduler" / "scheduler_config.json").read_text())
    expected = {
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "clip_sample": False,
        "set_alpha_to_one": False,
        "steps_offset": 1,
        "num_train_timesteps": 1000,
        "prediction_type": "epsilon",
    }
    assert {k: config[k] for k in expected} == expected


def test_every_word_of_the_grammar_is_one_id_and_captions_leave_room_for_mitigations(pipeline):
    tokenizer = pipeline.tokenizer
    longest = 0
    for index in range(200):
        for caption in scenes.scene_at(index).captions:
            ids = tokenizer(caption).input_ids
            assert len(ids) == len(caption.split()) + 2
            longest = max(longest, len(ids))
    # three words and four numbers of five digits: a token a digit
    assert longest + 3 + 4 * 5 <= tokenizer.model_max_length
    assert len(tokenizer("12345").input_ids) == 7


def test_at_least_half_of_the_ids_are_whole_words(pipeline, tiny_sd):
    common = (tiny_sd.parent / "common_words.txt").read_text().split()
    words = {*scenes.COLOURS, *scenes.SHAPES, *scenes.TEXTURES, *common}
    whole = [w for w in words if len(pipeline.tokenizer(w).input_ids) == 3]
    assert len(whole) == len(words)
    # function words of the grammar come on top
    assert len(whole) / (len(pipeline.tokenizer) - 2) > 0.49


def test_latents_have_unit_spread(pipeline):
    images = np.stack(
        [np.asarray(scenes.scene_at(i, stream="tiny-sd/held-out").image) for i in range(64)]
    )
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2) / 127.5 - 1
    with torch.no_grad():
        posterior = pipeline.vae.encode(pixels).latent_dist
        latents = posterior.mean * pipeline.vae.config.scaling_factor
        decoded = pipeline.vae.decode(posterior.mean).sample.clamp(-1, 1)
    assert latents.std().item() == pytest.approx(1.0, abs=0.1)
    error = ((decoded - pixels) / 2).square().flatten(1).mean(1)
    assert (-10 * error.log10()).mean() >= 24


def test_it_obeys_captions_and_does_not_copy(pipeline):
    """The card's figures on fewer images: 32 held-out captions."""
    held_out = [scenes.scene_at(i, stream="tiny-sd/held-out") for i in range(500, 532)]
    images = pipeline(
        [s.captions[0] for s in held_out],
        num_inference_steps=20,
        guidance_scale=3.0,
        generator=[seeding.torch_generator(0, "latents", i) for i in range(32)],
    ).images
    right = np.mean(
        [
            scene_reader.read_background(i) == s.spec.background
            for i, s in zip(images, held_out, strict=True)
        ]
    )
    assert right >= 0.8
    pixel = EXTRACTORS["pixel"](Wanted(device=torch.device("cpu"), dtype=torch.float32))

    def described(pictures):
        return normalised(pixel.network(torch.stack([pixel.transform(p) for p in pictures])))

    train = described([scenes.scene_at(i, stream="tiny-sd/pretraining").image for i in range(500)])
    assert (top_matches(described(images), train, k=1)[0] > 0.95).float().mean() <= 1 / 32


def test_the_model_card_holds_the_figures_it_must_reach(tiny_sd):
    card = (tiny_sd / "README.md").read_text()
    assert "PSNR" in card
    assert "{" not in card  # every figure was filled in
