"""LoRA on the networks of Stable Diffusion XL, 3 and Flux."""

import numpy as np
import pytest
import torch

from tests.pipelines import miniature
from tests.training.conftest import flat
from tests.training.steps.recipes import RECIPES
from tests.training.steps.test_families import drawn, first_batch, length_of, loss_at
from utils.models.adapters import AdapterShape
from utils.models.parts import Parts
from utils.runtime import seeding
from utils.training import step_random
from utils.training.methods.lora import Adapting, Lora
from utils.training.regularisation import CLASS_IMAGES, OutputPreservation, PriorPreservation

ADAPTED = ("SDXL", "SD 3, 2 blocks", "SD 3.5", "Flux")


@pytest.fixture
def adapted(start):
    """adapted(name, **settings) -> copies of a miniature on which adapters learn."""

    def new(name, **settings):
        method = Lora(Adapting(AdapterShape(rank=4, alpha=8), seed=0), "base", {})
        parts = Parts(miniature(name))
        return start(parts=parts, length=length_of(name), method=method, **settings)

    return new


def said(copies, step):
    """Which captions of a micro-batch have the trigger word."""
    return ["circle" in prompt for prompt in first_batch(copies, step)["prompt"]]


def moved(model):
    """Adapters start at no change; give both factors of each a value."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.weights.values():
            weight.add_(0.1 * torch.randn(weight.shape, generator=generator))


@pytest.mark.parametrize("name", ADAPTED)
def test_gradients_of_adapters_are_those_of_the_published_recipe(adapted, name):
    copies = adapted(name)
    model = copies.model
    moved(model)
    batch, weights = first_batch(copies), list(model.weights.values())
    arguments, wanted, _ = model.inputs(batch, 0)
    loss = (model.denoiser(*arguments) - wanted).square().mean()
    own = torch.autograd.grad(loss, weights)
    lengths = {} if name == "SDXL" else {"length": length_of(name)}
    prediction, target = RECIPES[name](model.parts.pipeline, batch, drawn(model), **lengths)
    published = (prediction - target).square().mean()
    assert loss.item() == pytest.approx(published.item(), rel=1e-5)
    for one, other in zip(own, torch.autograd.grad(published, weights), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", ["SDXL", "SD 3, 2 blocks", "Flux"])
def test_extra_losses_of_adapters_are_those_of_the_published_steps(adapted, name):
    """Class images have noise, sizes and corners of their own; what class captions shall predict is
    what a model without adapters does."""
    prior = PriorPreservation("a dog", 0.7)
    output = OutputPreservation("circle", "shape", 20.0)
    copies = adapted(name, regularisations=(prior, output), center_crop=False)
    model, lengths = copies.model, {} if name == "SDXL" else {"length": length_of(name)}
    moved(model)
    step = next(s for s in range(50) if said(copies, s) == [True, False])
    batch = first_batch(copies, step)
    *_, extra = model._micro_step(batch, step, last=True)
    recipe, classes = RECIPES[name], batch[CLASS_IMAGES]
    random = step_random.StepRandom(seeding.derive_seed(0, "class-draws"), 0, step, [0, 1])
    noises = step_random.latent_noise(random, latent_shape=(4, 8, 8), draw_time=model.process.draw)
    with torch.no_grad():
        predicted, target = recipe(model.parts.pipeline, classes, noises, **lengths)
        by_hand = 0.7 * (predicted - target).square().mean()
        given = ({**batch, "prompt": output.prompts(batch["prompt"])}, drawn(model, step))
        predicted, _ = recipe(model.parts.pipeline, *given, **lengths)
        wanted, _ = recipe(miniature(name), *given, **lengths)
    assert classes["prompt"] == ["a dog"] * 2
    # the second caption lacks the word
    preserved = 20 * (predicted - wanted)[0].square().mean()
    assert preserved > 0.01 * by_hand
    assert extra.item() == pytest.approx((by_hand + preserved).item(), rel=1e-4)


@pytest.mark.parametrize("name", ADAPTED)
def test_forty_steps_of_adapters_lower_the_loss(adapted, finished, name):
    copies = adapted(name, steps=40, lr=5e-2)
    batches = [first_batch(copies, step) for step in range(6)]
    before = loss_at(copies.model, batches)
    finished(copies)
    assert loss_at(copies.model, batches) < 0.97 * before


def image(pipeline):
    with torch.no_grad():
        return pipeline(
            "a red circle",
            height=16,
            width=16,
            num_inference_steps=2,
            generator=torch.Generator().manual_seed(0),
            output_type="np",
        ).images


@pytest.mark.parametrize("name", ADAPTED)
def test_diffusers_reads_every_tensor_of_an_adapter(adapted, tmp_path, name):
    copies = adapted(name, text=True)
    moved(copies.model)
    with copies.model.pipeline() as pipeline:
        own = image(pipeline)
        copies.model.method.save(pipeline, tmp_path)
    fresh = miniature(name)
    plain = image(fresh)
    fresh.load_lora_weights(tmp_path)
    np.testing.assert_allclose(image(fresh), own, atol=1e-5)
    assert np.abs(plain - own).max() > 1e-3


@pytest.mark.parametrize("name", ["SDXL", "SD 3.5", "Flux"])
def test_an_ensemble_of_adapters_continues_to_the_bit(adapted, finished, name):
    """Iterative ensemble training: two splits, two rounds, with anti-gradient control."""

    def new():
        return adapted(name, steps=2, splits=2, rounds=2, ratio=1.25, lr=1e-2)

    found, whole = finished(new())
    stopped = new()
    finished(stopped, until=5)
    state = stopped.state()
    continued = new()
    continued.load(state)
    _, weights = finished(continued, position=5)
    assert torch.equal(weights, whole)
    assert not torch.equal(whole, flat(new().model))
    assert sum(at.round_over for at in found) == 2
