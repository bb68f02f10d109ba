"""The training steps of Stable Diffusion XL, 3 and Flux, on random miniatures."""

import functools

import numpy as np
import pytest
import torch

from tests.pipelines import MINIATURES, VARIANTS, miniature
from tests.training.conftest import flat
from tests.training.steps.recipes import RECIPES
from utils.data import training_data
from utils.models import loading
from utils.models.parts import Parts
from utils.runtime import seeding
from utils.runtime.errors import UsageError
from utils.training import step_random, steps
from utils.training.frozen_networks import FrozenNetworks
from utils.training.process import flow_matching
from utils.training.process.base import ProcessSettings
from utils.training.steps import flux
from utils.training.steps.base import StepSettings
from utils.training.steps.ddpm import DdpmStep

PROMPTS = ["a red circle", "two small blue squares"]
LENGTH = 20  # tokens of T5
TRAINED = ("SDXL", "SD 3, 2 blocks", "SD 3.5", "SD 3 without T5", "Flux")


@pytest.fixture(scope="module")
def parts_of():
    """parts_of(name) -> the parts of a miniature; no test that takes it trains them."""
    return functools.cache(lambda name: Parts(miniature(name)))


def first_batch(copies, step=0):
    loader = training_data.loader(copies.draws[0], steps=range(step, step + 1), batch_size=2)
    return next(iter(loader))


def drawn(model, step=0):
    """The random numbers of a micro-batch, as the Trainer draws them."""
    random = step_random.StepRandom(0, 0, step, [0, 1])
    return step_random.latent_noise(random, latent_shape=(4, 8, 8), draw_time=model.process.draw)


def length_of(name):
    return None if name == "SDXL" else LENGTH


# One step -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RECIPES)
def test_a_step_is_that_of_the_published_recipe(start, name):
    copies = start(parts=Parts(miniature(name)), length=length_of(name), center_crop=False)
    model, pipeline = copies.model, copies.model.parts.pipeline
    batch = first_batch(copies)
    arguments, wanted, time = model.inputs(batch, 0)
    loss, _ = model._loss(
        (model.denoiser(*arguments) - wanted).square().flatten(1).mean(1), time, batch["row"]
    )
    own = torch.autograd.grad(loss, list(model.weights.values()), allow_unused=True)
    lengths = {} if name == "SDXL" else {"length": LENGTH}
    prediction, target = RECIPES[name](pipeline, batch, drawn(model), **lengths)
    published = (prediction - target).square().mean()
    assert loss.item() == pytest.approx(published.item(), rel=1e-5)
    theirs = torch.autograd.grad(published, list(model.weights.values()), allow_unused=True)
    assert max(float(g.abs().max()) for g in theirs if g is not None) > 1e-3
    for one, other in zip(own, theirs, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


def test_times_of_flux_are_shifted_by_the_size_of_the_bucket(start):
    """Two sizes of one batch, with the shift that the pipeline's scheduler has for each."""
    parts = Parts(miniature("Flux"))
    scheduler = type(parts.scheduler).from_config(parts.scheduler.config, use_dynamic_shifting=True)
    parts.replace(scheduler=scheduler)
    copies = start(parts=parts, length=LENGTH)
    batch, random = first_batch(copies), step_random.StepRandom(0, 0, 0, [0, 1])
    square = copies.model.noised(batch, random).time
    half = {"pixels": batch["pixels"][:, :, :8], "target_size": [(8, 16)] * 2}
    random = step_random.StepRandom(0, 0, 0, [0, 1])
    time = copies.model.noised(batch | half, random).time
    factors = [flow_matching.family_shift(scheduler.config, tokens) for tokens in (16, 8)]
    share = square / (factors[0] - (factors[0] - 1) * square)  # as it is drawn
    torch.testing.assert_close(time, flow_matching.shifted(share, factors[1]))
    assert (time < square).all()


def test_flux_is_trained_with_the_guidance_that_is_asked_for(start):
    copies = start(parts=Parts(miniature("Flux")), length=LENGTH, guidance=3.5)
    model, batch = copies.model, first_batch(copies)
    arguments, _, _ = model.inputs(batch, 0)
    recipe = functools.partial(RECIPES["Flux"], model.parts.pipeline, batch, drawn(model))
    with torch.no_grad():
        own = model.denoiser(*arguments)
        torch.testing.assert_close(own, recipe(length=LENGTH, guidance=3.5)[0])
        assert not torch.allclose(own, recipe(length=LENGTH, guidance=1.0)[0], atol=1e-3)


@pytest.mark.parametrize("name", ["SD 3, 2 blocks", "Flux"])
def test_an_offset_of_the_noise_of_a_flow_by_hand(start, name):
    """Published: x = (1 - sigma) z + sigma n, and the network predicts n - z; n has the offset."""
    plain, copies = (
        start(parts=Parts(miniature(name)), length=LENGTH, noise_offset=offset)
        for offset in (0.0, 0.3)
    )
    batch = first_batch(plain)
    (noisy, *_), wanted, sigmas = plain.model.inputs(batch, 0)
    (shifted, *_), target, times = copies.model.inputs(batch, 0)
    levels = torch.stack(
        [
            torch.randn(4, 1, 1, generator=seeding.torch_generator(0, "noise-offset", 0, 0, slot))
            for slot in batch["slot"]
        ]
    )
    torch.testing.assert_close(target, wanted + 0.3 * levels)
    torch.testing.assert_close(shifted, noisy + 0.3 * sigmas.view(-1, 1, 1, 1) * levels)
    assert torch.equal(times, sigmas)


def test_mixup_mixes_pooled_embeddings_by_the_ratio_of_the_tokens(start):
    copies = start(parts=Parts(miniature("SDXL")), mixup=0.7)
    model = copies.model
    step = next(s for s in range(20) if training_data.mixup_partners(0, 0, s, 2)[0] == 1)
    arguments, _, _ = model.inputs(first_batch(copies, step), step)
    own, (ratio,) = arguments.own, arguments.drawn
    text = model.hooks.edit_text(own, arguments.partners, arguments.drawn)
    assert 0 < ratio < 1
    for name in ("tokens", "pooled"):
        mixed = ratio * own[name] + (1 - ratio) * own[name].flip(0)
        torch.testing.assert_close(text[name], mixed)


def test_noise_goes_on_the_tokens_alone(start):
    copies = start(parts=Parts(miniature("SD 3, 2 blocks")), length=LENGTH, noise=0.5)
    model = copies.model
    arguments, _, _ = model.inputs(first_batch(copies), 0)
    text = model.hooks.edit_text(arguments.own, None, arguments.drawn)
    assert torch.equal(text["pooled"], arguments.own["pooled"])
    spread = (text["tokens"] - arguments.own["tokens"]).std()
    assert spread.item() == pytest.approx(0.5, rel=0.05)


# Text ---------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("name", [*TRAINED, "Flux without guidance"])
@pytest.mark.parametrize("length", [None, LENGTH])
def test_text_is_that_of_the_pipeline(parts_of, name, length):
    parts = parts_of(name)
    if name == "SDXL" and length:
        pytest.skip("no T5")
    step = steps.of(parts, StepSettings(length))
    found = step.text(parts.encoders, step.token_ids(parts, PROMPTS))
    settings = {} if length is None else {"max_sequence_length": length}
    if name.startswith("Flux"):
        tokens, pooled, _ = parts.pipeline.encode_prompt(PROMPTS, None, device="cpu", **settings)
    else:
        others = () if name == "SDXL" else (None, None)
        tokens, _, pooled, _ = parts.pipeline.encode_prompt(
            PROMPTS, *others, device="cpu", do_classifier_free_guidance=False, **settings
        )
    assert torch.equal(found["tokens"], tokens)
    assert torch.equal(found["pooled"], pooled)
    assert {n: tuple(each.shape[1:]) for n, each in found.items()} == step.text_shapes(parts)


def test_packing_and_places_of_flux_are_those_of_the_pipeline(parts_of):
    own = parts_of("Flux").pipeline
    latents = torch.arange(2.0 * 4 * 6 * 8).view(2, 4, 6, 8)
    packed = own._pack_latents(latents, 2, 4, 6, 8)
    assert torch.equal(flux.pack(latents), packed)
    assert torch.equal(flux.unpack(packed, 6, 8), latents)
    places = own._prepare_latent_image_ids(2, 3, 4, "cpu", torch.float32)
    assert torch.equal(flux.image_ids(6, 8, torch.device("cpu")), places)


def test_sizes_and_corners_of_xl_are_in_the_pipelines_order(parts_of):
    parts = parts_of("SDXL")
    batch = {
        "original_size": [(40, 30), (16, 64)],
        "crop": [(3, 0), (0, 24)],
        "target_size": [(16, 16), (16, 24)],
    }
    found = steps.of(parts).extras(batch, 16)["time_ids"]
    for i, row in enumerate(found):
        published = parts.pipeline._get_add_time_ids(
            batch["original_size"][i],
            batch["crop"][i],
            batch["target_size"][i],
            dtype=torch.float32,
            text_encoder_projection_dim=16,
        )
        assert torch.equal(row[None], published)


# A run --------------------------------------------------------------------------------------------


def loss_at(model, batches):
    with torch.no_grad():
        found = []
        for number, batch in enumerate(batches):
            arguments, wanted, _ = model.inputs(batch, number)
            found.append((model.denoiser(*arguments) - wanted).square().mean())
    return torch.stack(found).mean().item()


@pytest.fixture(scope="module")
def trained():
    """{name: (copies, loss before, loss after)} of miniatures that took 40 steps."""
    return {}


@pytest.mark.parametrize("name", TRAINED)
def test_forty_steps_lower_the_loss(start, finished, trained, name):
    copies = start(parts=Parts(miniature(name)), length=length_of(name), steps=40, lr=3e-3)
    batches = [first_batch(copies, step) for step in range(6)]
    before = loss_at(copies.model, batches)
    finished(copies)
    assert loss_at(copies.model, batches) < 0.95 * before


@pytest.mark.parametrize("name", TRAINED)
def test_a_checkpoint_makes_the_images_of_the_model(start, finished, tmp_path, name):
    copies = start(parts=Parts(miniature(name)), length=length_of(name), steps=2, lr=1e-2)
    finished(copies)

    def image(pipeline):
        made = pipeline(
            "a red circle",
            height=16,
            width=16,
            num_inference_steps=2,
            generator=torch.Generator().manual_seed(0),
            output_type="np",
        )
        return made.images

    with torch.no_grad(), copies.model.pipeline() as pipeline:
        own = image(pipeline)
        copies.model.method.save(pipeline, tmp_path)
    assert np.array_equal(own, image(loading.load_pipeline("--m", tmp_path)))
    assert not np.array_equal(own, image(miniature(name)))


@pytest.mark.parametrize("name", ["SDXL", "SD 3.5", "Flux"])
def test_a_run_continues_to_the_bit(start, finished, name):
    def new():
        return start(
            parts=Parts(miniature(name)), length=length_of(name), steps=3, mixup=0.5, ratio=1.25
        )

    _, whole = finished(new())
    stopped = new()
    finished(stopped, until=1)
    state = stopped.state()
    continued = new()
    continued.load(state)
    _, weights = finished(continued, position=1)
    assert torch.equal(weights, whole)
    assert not torch.equal(weights, flat(new().model))


@pytest.mark.parametrize(
    ("name", "learning"),
    [
        ("SDXL", {"unet", "text_encoder", "text_encoder_2"}),
        ("SD 3, 2 blocks", {"transformer", "text_encoder", "text_encoder_2"}),
        ("Flux", {"transformer", "text_encoder"}),
    ],
)
def test_the_clip_encoders_learn_when_asked_and_t5_does_not(start, finished, name, learning):
    copies = start(parts=Parts(miniature(name)), length=length_of(name), text=True, steps=1)
    model = copies.model
    before = {n: p.detach().clone() for n, p in model.weights.items()}
    finished(copies)
    changed = {n.split(".")[0] for n, p in model.weights.items() if not torch.equal(p, before[n])}
    assert changed == learning
    frozen = [e for n, e in model.parts.encoders.items() if n not in learning]
    assert not any(p.requires_grad for each in frozen for p in each.parameters())


# Refusals -----------------------------------------------------------------------------------------


def test_flags_of_the_other_process_are_refused():
    flow, diffusion = (steps.STEPS[f"{n}Pipeline"] for n in ("Flux", "StableDiffusionXL"))
    with pytest.raises(UsageError, match=r"--snr_gamma=5.0 weighs by .* use --weighting_scheme"):
        flow.require_process(ProcessSettings(snr_gamma=5.0), "m")
    with pytest.raises(UsageError, match="--timestep_shift='auto' is of models that match flows"):
        diffusion.require_process(ProcessSettings(timestep_shift="auto"), "m")
    flow.require_process(ProcessSettings(timestep_shift="auto"), "m")
    diffusion.require_process(ProcessSettings(snr_gamma=5.0), "m")


def test_parameters_of_a_density_that_is_not_used_are_refused():
    flux_step, sd3 = (steps.STEPS[f"{n}Pipeline"] for n in ("Flux", "StableDiffusion3"))
    mean = ProcessSettings(logit_mean=0.5)
    sd3.require_process(mean, "m")  # its published scheme
    with pytest.raises(UsageError, match="--logit_mean=0.5 is of --weighting_scheme logit_normal"):
        flux_step.require_process(mean, "m")
    with pytest.raises(UsageError, match="--mode_scale=1.0 is of --weighting_scheme mode; give it"):
        sd3.require_process(ProcessSettings(mode_scale=1.0), "m")


def test_flux_is_refused_in_float16_and_t5_beside_encoders_that_learn():
    def require(name, precision, *parts, learns=False):
        steps.STEPS[f"{name}Pipeline"].require_precision(
            precision, "m", parts=parts, learns_text=learns
        )

    with pytest.raises(UsageError, match="'fp16': the transformer of 'm' overflows in float16"):
        require("Flux", "fp16")
    require("Flux", "bf16", "text_encoder_2", learns=True)
    with pytest.raises(UsageError, match="with --train_text_encoder: the T5 of 'm' overflows"):
        require("StableDiffusion3", "fp16", "text_encoder_3", learns=True)
    require("StableDiffusion3", "fp16", "text_encoder_3")
    require("StableDiffusion3", "fp16", "text_encoder", learns=True)


def frozen(name, dtype):
    parts = Parts(miniature(name))
    step = steps.of(parts, StepSettings(length_of(name)))
    return FrozenNetworks(parts, step, device=torch.device("cpu"), dtype=dtype)


@pytest.mark.parametrize(
    ("name", "half", "bfloat"),
    [
        ("SD 1", [], []),
        ("SDXL", ["vae"], ["vae"]),
        ("SD 3, 2 blocks", ["vae", "text_encoder_3"], ["vae"]),
    ],
)
def test_what_overflows_computes_in_float32(name, half, bfloat):
    assert frozen(name, torch.float16).in_float32() == half
    assert frozen(name, torch.bfloat16).in_float32() == bfloat
    assert frozen(name, torch.float32).in_float32() == []


def test_every_miniature_has_a_step():
    names = {type(miniature(name)).__name__ for name in (*MINIATURES, *VARIANTS)}
    # DDPMs, which read no text, have tests of their own in tests/training/test_ddpm_training.py
    assert names == {name for name, step in steps.STEPS.items() if step is not DdpmStep}
