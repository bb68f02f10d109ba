"""Extra losses against the same losses written by hand."""

import pytest
import torch

from tests.training.conftest import flat
from utils.data import training_data
from utils.models.adapters import AdapterShape
from utils.runtime import seeding
from utils.training import latents, step_random
from utils.training.methods import lora
from utils.training.process.base import ProcessSettings
from utils.training.regularisation import CLASS_IMAGES, OutputPreservation, PriorPreservation

WORD, CLASS = "circle", "shape"


def first_batch(copies, step=0):
    return next(
        iter(training_data.loader(copies.draws[0], steps=range(step, step + 1), batch_size=2))
    )


def gradients(model, loss):
    found = torch.autograd.grad(loss, list(model.weights.values()))
    return torch.cat([g.flatten() for g in found])


def accumulated(model):
    """The gradients that a micro-batch left, which are removed."""
    found = torch.cat([p.grad.flatten() for p in model.weights.values()])
    for parameter in model.weights.values():
        parameter.grad = None
    return found


def predicted(model, unet, noisy, time, prompts):
    text = model.frozen.text(prompts)
    return model.family.predict(unet, noisy, time, text, {})


def test_prior_preservation_by_hand(start):
    """Equation 4 of Ruiz et al.: loss(instance) + weight * loss(class), each with its own noise."""
    plain, copies = start(), start(regularisations=(PriorPreservation("a dog", 0.7),))
    batch, model = first_batch(copies, 4), copies.model
    loss, _, extra = model._micro_step(batch, 4, last=True)
    after = accumulated(model)
    # the part of the training images is that of a run without
    without, _, nothing = plain.model._micro_step(first_batch(plain, 4), 4, last=True)
    assert nothing is None
    assert torch.equal(loss, without)
    classes = batch[CLASS_IMAGES]
    assert classes["prompt"] == ["a dog"] * 2
    random = step_random.StepRandom(seeding.derive_seed(0, "class-draws"), 0, 4, classes["slot"])
    noises = step_random.latent_noise(random, latent_shape=(4, 8, 8), draw_time=model.process.draw)
    z = model.frozen.latents(classes, noises.posterior)
    a = model.process.scheduler.alphas_cumprod[noises.time].view(-1, 1, 1, 1)
    noisy = a.sqrt() * z + (1 - a).sqrt() * noises.noise
    pred = predicted(model, model.parts.denoiser, noisy, noises.time, classes["prompt"])
    by_hand = 0.7 * ((pred - noises.noise) ** 2).mean()
    assert extra.item() == pytest.approx(by_hand.item(), rel=1e-5)
    torch.testing.assert_close(
        after, accumulated(plain.model) + gradients(model, by_hand), rtol=1e-3, atol=1e-6
    )


def test_class_images_have_noise_of_their_own_and_no_edit(start):
    prior = (PriorPreservation("a dog", 1.0),)
    copies, noised = start(regularisations=prior), start(regularisations=prior, noise=0.5)
    own, classes = copies.draws[0], copies.draws[0].beside[CLASS_IMAGES]
    # the same pictures are drawn in another order
    assert [own.order[i] for i in range(24)] != [classes.order[i] for i in range(24)]
    losses = [c.model._micro_step(first_batch(c), 0, last=True) for c in (copies, noised)]
    assert losses[0][0] != losses[1][0]
    assert losses[0][2] == losses[1][2]


def test_output_preservation_by_hand(start, finished):
    """|f(x_t, t, c') - f_base(x_t, t, c')|^2 of the captions with the word, at the noise of the
    training images; nothing is lost before the first step."""
    copies = start(steps=2, regularisations=(OutputPreservation(WORD, CLASS, 0.5),))
    model, before = copies.model, flat(copies.model)
    found, _ = finished(copies)
    assert found[0].report.extra.item() == pytest.approx(0, abs=1e-12)
    assert found[1].report.extra > 0
    base = start().model  # the random pipeline again
    assert torch.equal(flat(base), before)
    step = next(
        s
        for s in range(50)
        if [WORD in p for p in first_batch(copies, s)["prompt"]] == [True, False]
    )
    batch = first_batch(copies, step)
    arguments, _, time = model.inputs(batch, step)
    prompts = [p.replace(WORD, CLASS) for p in batch["prompt"]]
    given = (arguments.noisy, time, prompts)
    with torch.no_grad():
        wanted = predicted(base, base.parts.denoiser, *given)
    pred = predicted(model, model.parts.denoiser, *given)
    by_hand = 0.5 * latents.squared_error(pred, wanted)[0]  # the second caption lacks the word
    *_, extra = model._micro_step(batch, step, last=True)
    assert extra.item() == pytest.approx(by_hand.item(), rel=1e-4)


def test_the_base_model_stays_what_it_was_where_the_text_encoder_learns_too(start, finished):
    copies = start(text=True, lr=1e-2, regularisations=(OutputPreservation(WORD, CLASS, 1.0),))
    model, batch = copies.model, first_batch(copies)
    base = model.extra_losses.base
    assert base.bytes == 4 * flat(model).numel()
    arguments, *_ = model.inputs(batch, 0)
    given = (arguments.noisy, arguments.time, arguments.own, arguments.extras)
    before = base.predict(*given)
    assert torch.equal(before, model.denoiser(*arguments[:3], None, None, arguments.extras))
    finished(copies)
    assert torch.equal(base.predict(*given), before)
    assert not torch.equal(model.denoiser(*arguments[:3], None, None, {}), before)


def test_the_base_of_adapters_is_the_model_with_adapters_off(start, finished):
    def copies(base):
        method = lora.Lora(lora.Adapting(AdapterShape(rank=2, alpha=2.0), seed=0), "m", {})
        extra = (OutputPreservation(WORD, CLASS, 1.0),) if base else ()
        return start(method=method, lr=1e-2, steps=2, regularisations=extra)

    trained = copies(True)
    model = trained.model
    base, (arguments, *_) = model.extra_losses.base, model.inputs(first_batch(trained), 0)
    given = (arguments.noisy, arguments.time, arguments.own, arguments.extras)
    before = base.predict(*given)
    assert base.bytes == 0
    learns = [p.requires_grad for p in model.parts.denoiser.parameters()]
    found, _ = finished(trained)
    assert found[0].report.extra.item() == pytest.approx(0, abs=1e-10)
    assert found[1].report.extra > 1e-9
    assert torch.equal(base.predict(*given), before)
    assert not torch.equal(model.denoiser(*arguments[:3], None, None, {}), before)
    assert [p.requires_grad for p in model.parts.denoiser.parameters()] == learns


def test_weights_of_times_count_for_class_images_too(start):
    def extra(**options):
        copies = start(regularisations=(PriorPreservation("a dog", 1.0),), **options)
        return copies.model._micro_step(first_batch(copies), 0, last=True)[2]

    assert 0 < extra(process=ProcessSettings(snr_gamma=0.01)) < 0.5 * extra()
