import functools

import pytest
import torch

from tests.pipelines import embed
from tests.training.conftest import flat
from utils.data import training_data
from utils.runtime import seeding
from utils.runtime.errors import TrainingError
from utils.training import optimisation, step_random, train_mitigations
from utils.training.process import diffusion
from utils.training.process.base import ProcessSettings


def first_batch(copies, steps=range(1)):
    return next(iter(training_data.loader(copies.draws[0], steps=steps, batch_size=2)))


def embedded(model, arguments):
    """The embeddings that the U-Net is given by the Denoiser's arguments."""
    return model.hooks.edit_text(arguments.own, arguments.partners, arguments.drawn)["tokens"]


def uniform_step(generator):
    return torch.randint(1000, (), generator=generator)


def drawn_for(seed, split, step, slots, *, latent_shape, embedding_shape=None):
    """Random numbers of a micro-batch as the Trainer draws them: of the latents, then, with
    embedding_shape, of the noise on embeddings. Returns: (LatentNoise, [B, T, D] or None)."""
    random = step_random.StepRandom(seed, split, step, slots)
    drawn = step_random.latent_noise(random, latent_shape=latent_shape, draw_time=uniform_step)
    if embedding_shape is None:
        return drawn, None
    edit = train_mitigations.embedding_noise(rand_noise_lam=1.0).embedding
    return drawn, edit.draw(random, embedding_shape)


def test_noise_belongs_to_the_slot_not_to_the_batch():
    make = functools.partial(drawn_for, latent_shape=(4, 2, 2), embedding_shape=(3, 2))
    (whole, whole_embedding), (second, embedding) = make(3, 0, 5, [0, 1, 2]), make(3, 0, 5, [1])
    for all_slots, one in zip((*whole, whole_embedding), (*second, embedding), strict=True):
        assert torch.equal(all_slots[1:2], one)
        assert not torch.equal(all_slots[0], all_slots[1])
    other_split, _ = make(3, 1, 5, [1])
    assert not torch.equal(other_split.noise, second.noise)
    # what is drawn for the embedding comes last: without it the rest is the same
    plain, nothing = drawn_for(3, 0, 5, [1], latent_shape=(4, 2, 2))
    assert torch.equal(plain.noise, second.noise)
    assert nothing is None


def test_timesteps_are_uniform_and_noise_is_standard_normal():
    drawn = [drawn_for(0, 0, s, range(20), latent_shape=(4, 4, 4))[0] for s in range(50)]
    t = torch.cat([d.time for d in drawn]).float()
    assert (t.min() < 20, t.max() > 980, abs(t.mean() - 499.5) < 30) == (True, True, True)
    noise = torch.cat([d.noise for d in drawn])
    assert abs(noise.mean()) < 0.02
    assert abs(noise.std() - 1) < 0.02
    # two draws, not one
    assert abs((noise * torch.cat([d.posterior for d in drawn])).mean()) < 0.02


def test_the_inputs_agree_with_a_step_written_by_hand(start):
    copies = start(noise=0.3)
    model, batch = copies.model, first_batch(copies, range(4, 5))
    arguments, wanted, timesteps = model.inputs(batch, 4)
    noisy, embeddings, parts = arguments[0], embedded(model, arguments), model.parts
    for slot in (0, 1):
        drawn, noise = drawn_for(0, 0, 4, [slot], latent_shape=(4, 8, 8), embedding_shape=(32, 16))
        with torch.no_grad():
            posterior = parts.vae.encode(batch["pixels"][slot : slot + 1]).latent_dist
            e = embed(parts, [batch["prompt"][slot]])
        z = 0.5 * (posterior.mean + posterior.std * drawn.posterior)
        a = parts.scheduler.alphas_cumprod[drawn.time]
        torch.testing.assert_close(
            noisy[slot], (a.sqrt() * z + (1 - a).sqrt() * drawn.noise)[0], rtol=1e-4, atol=1e-5
        )
        torch.testing.assert_close(embeddings[slot], (e + 0.3 * noise)[0], rtol=1e-4, atol=1e-5)
        assert timesteps[slot] == drawn.time[0]
        assert torch.equal(wanted[slot], drawn.noise[0])


def test_an_offset_of_the_noise_is_one_number_for_each_channel_and_is_predicted_too(start):
    plain, copies = start(), start(noise_offset=0.3)
    batch = first_batch(plain)
    (noisy, *_), wanted, timesteps = plain.model.inputs(batch, 0)
    (shifted, *_), target, times = copies.model.inputs(batch, 0)
    levels = torch.stack(
        [
            torch.randn(4, 1, 1, generator=seeding.torch_generator(0, "noise-offset", 0, 0, slot))
            for slot in batch["slot"]
        ]
    )
    assert levels.shape == (2, 4, 1, 1)
    torch.testing.assert_close(target, wanted + 0.3 * levels)
    a = plain.model.parts.scheduler.alphas_cumprod[timesteps].view(-1, 1, 1, 1)
    torch.testing.assert_close(shifted, noisy + (1 - a).sqrt() * 0.3 * levels)
    assert torch.equal(times, timesteps)


def test_mixup_mixes_with_the_partners_by_one_ratio(start):
    copies = start(mixup=0.7)
    model = copies.model
    # a step that swaps
    step = next(s for s in range(20) if training_data.mixup_partners(0, 0, s, 2)[0] == 1)
    batch = first_batch(copies, range(step, step + 1))
    embeddings = embedded(model, model.inputs(batch, step)[0])
    with torch.no_grad():
        e = embed(model.parts, batch["prompt"])
    ratio = ((embeddings[0] - e[1]) / (e[0] - e[1])).nanmedian()
    assert 0 < ratio < 1
    torch.testing.assert_close(
        embeddings, ratio * e + (1 - ratio) * e.flip(0), rtol=1e-3, atol=1e-4
    )


def test_only_the_unet_learns(start, finished):
    copies = start()
    model = copies.model
    before = [
        p.clone()
        for m in (model.parts.vae, model.parts.encoders["text_encoder"])
        for p in m.parameters()
    ]
    first = flat(model)
    found, last = finished(copies)
    assert [at.report.step for at in found] == [1, 2, 3]
    assert not torch.equal(first, last)
    after = [
        p for m in (model.parts.vae, model.parts.encoders["text_encoder"]) for p in m.parameters()
    ]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_the_text_encoder_learns_when_asked(start, finished):
    copies = start(text=True, noise=0.2, mixup=0.5)
    model = copies.model
    first = {n: p.detach().clone() for n, p in model.weights.items()}
    finished(copies)
    changed = {n.split(".")[0] for n, p in model.weights.items() if not torch.equal(p, first[n])}
    assert changed == {"unet", "text_encoder"}
    assert not any(p.requires_grad for p in model.parts.vae.parameters())


def by_hand(copies, number, *, weigh=lambda losses, timesteps: losses.mean()):
    """Gradients of a micro-batch, clipped to norm 1, worked out without Trainer.step. Returns:
    (loss, [n])."""
    model = copies.model
    batch = first_batch(copies, range(number, number + 1))
    arguments, wanted, timesteps = model.inputs(batch, number)
    pred = model.parts.denoiser(
        *arguments[:2], encoder_hidden_states=embedded(model, arguments)
    ).sample
    loss = weigh(((pred - wanted) ** 2).flatten(1).mean(1), timesteps)
    return loss.item(), torch.cat(
        [g.flatten() for g in torch.autograd.grad(loss, list(model.weights.values()))]
    )


def assert_adam_step(before, after, gradient, *, lr=1e-3):
    """The first step of AdamW: m / sqrt(v) is the gradient's sign; weight decay 1e-2."""
    gradient = gradient * min(1.0, 1.0 / (gradient.norm().item() + 1e-6))
    expected = before - lr * 1e-2 * before - lr * gradient / (gradient.abs() + 1e-8)
    moved = gradient.abs() > 1e-5  # below, Adam's epsilon and rounding decide
    assert moved.float().mean() > 0.5
    torch.testing.assert_close(after[moved], expected[moved], rtol=0, atol=5e-6)


def test_an_optimizer_step_by_hand(start, finished):
    copies = start(steps=1)
    before = flat(copies.model)
    loss, gradient = by_hand(copies, 0)
    found, after = finished(copies)
    assert found[0].report.loss.item() == pytest.approx(loss, rel=1e-5)
    assert_adam_step(before, after, gradient)


def test_accumulation_is_one_step_of_the_mean(start, finished):
    copies = start(steps=1, accumulation=2)
    before, gradients = flat(copies.model), [by_hand(copies, n)[1] for n in (0, 1)]
    found, after = finished(copies)
    assert [at.report.step for at in found] == [1]
    assert_adam_step(before, after, (gradients[0] + gradients[1]) / 2)


def test_snr_weights_weigh_each_sample(start, finished):
    copies = start(steps=1, process=ProcessSettings(snr_gamma=5.0))
    scheduler = copies.model.process.scheduler

    def weigh(losses, timesteps):
        return (losses * diffusion.snr_weights(scheduler, timesteps, 5.0)).mean()

    before, (loss, gradient) = flat(copies.model), by_hand(copies, 0, weigh=weigh)
    found, after = finished(copies)
    assert found[0].report.loss.item() == pytest.approx(loss, rel=1e-5)
    assert_adam_step(before, after, gradient)


def test_dropped_samples_weigh_nothing_and_are_not_counted_in_the_mean(start, finished):
    """One of two samples dropped: the step is that of the other alone, not half of it."""
    copies = start(steps=1, ratio=1.0)
    model = copies.model
    batch = first_batch(copies)
    at = model.inputs(batch, 0)[2]
    model_bank = torch.zeros(1000)
    model_bank[at[0]] = 1e6  # its loss is far below what this timestep usually has
    before, (loss, gradient) = flat(model), by_hand(copies, 0, weigh=lambda losses, _: losses[1])
    plain = by_hand(copies, 0, weigh=lambda losses, _: losses[0])[0]
    load, model.load_copy = (
        model.load_copy,
        lambda split, state: load(split, {"control/bank": model_bank}),
    )
    found, after = finished(copies)
    assert found[0].report.loss.item() == pytest.approx(loss, rel=1e-5)
    assert found[0].report.skipped.item() == 0.5
    assert_adam_step(before, after, gradient)
    assert model.counts[batch["row"]].tolist() == [[1, 1], [1, 0]]
    assert model.counts.sum(0).tolist() == [2, 1]
    assert model.loss_rule.bank[at[0]].item() == pytest.approx(0.8 * 1e6 + 0.2 * plain, rel=1e-5)


def test_loss_control_looks_at_each_micro_batch_of_a_step(start, finished, micro_parts):
    """One timestep, bias corrected, rho = 1: of four samples in two micro-batches the first two are
    kept, as nothing was seen before; the others are kept when their loss is at least the mean that
    the first two left."""
    parts = micro_parts()
    one = type(parts.scheduler).from_config(parts.scheduler.config, num_train_timesteps=1)
    parts.replace(scheduler=one)
    copies = start(
        parts=parts,
        steps=1,
        accumulation=2,
        ratio=1.0,
        bias_correction=True,
    )
    model, losses = copies.model, []
    for number in (0, 1):
        batch = first_batch(copies, range(number, number + 1))
        arguments, wanted, _ = model.inputs(batch, number)
        with torch.no_grad():
            losses += (model.denoiser(*arguments) - wanted).square().flatten(1).mean(1).tolist()
    usual = (0.8 * 0.2 * losses[0] + 0.2 * losses[1]) / (1 - 0.8**2)
    dropped = [loss < usual for loss in losses[2:]]
    found, _ = finished(copies)
    assert found[0].report.skipped.item() == pytest.approx(sum(dropped) / 4)
    assert model.loss_rule.visits[0].item() == model.loss_rule.visits.sum().item() == 4
    bank = 0.0
    for loss in losses:
        bank = 0.8 * bank + 0.2 * loss
    assert model.loss_rule.bank[0].item() == pytest.approx(bank, rel=1e-4)


def test_snr_weights_do_not_reach_the_bank(start, finished):
    plain, weighted = (
        start(steps=1, ratio=1.25, process=ProcessSettings(snr_gamma=g)) for g in (None, 5.0)
    )
    for copies in (plain, weighted):
        finished(copies)
    assert torch.equal(plain.model.loss_rule.bank, weighted.model.loss_rule.bank)
    assert plain.model.loss_rule.bank.count_nonzero() == 2


def test_the_rate_counts_optimizer_steps(start, finished):
    found, _ = finished(start(steps=4, schedule="linear", warmup=2, lr=1.0e-3, accumulation=2))
    assert [at.report.lr for at in found] == pytest.approx([0.0, 0.5e-3, 1e-3, 0.5e-3])


@pytest.mark.parametrize(
    "schedule",
    ["linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup"],
)
def test_the_rate_of_a_step_is_that_of_the_librarys_schedule(schedule):
    from diffusers.optimization import get_scheduler

    settings = optimisation.Optimisation(
        optimisation.Adam(learning_rate=2e-3), optimisation.Schedule(schedule, 3, 12)
    )
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=2e-3)
    library = get_scheduler(schedule, optimizer, num_warmup_steps=3, num_training_steps=12)
    rate = optimisation.rate_at(settings)
    for step in range(12):
        assert rate(step) == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-12)
        library.step()


def test_finite_stays_false_once_something_was_not(start, finished):
    copies = start(steps=3)
    with torch.no_grad():
        next(copies.model.parts.denoiser.parameters()).fill_(float("nan"))
    found, _ = finished(copies)
    assert not any(at.report.finite for at in found)
    with pytest.raises(TrainingError, match="weights are not finite after step 3"):
        copies.model.require_finite(3)


def test_ema_follows_the_weights_and_is_what_is_shown(start, finished):
    copies = start(steps=4, use_ema=True)
    model = copies.model
    first = flat(model)
    average = first.clone()
    for at in copies.run(batch_size=2):
        n = at.position - 1
        average = average.lerp(flat(model), 1 - min(0.9999, (1 + n) / (10 + n)))
    found = torch.cat([t.flatten() for t in model.ema.averages.values()])
    torch.testing.assert_close(found, average, rtol=0, atol=1e-6)
    trained = flat(model)
    with model.pipeline() as pipeline:
        shown = torch.cat([p.flatten() for p in pipeline.unet.parameters()])
        assert torch.equal(shown, found)
        assert not pipeline.unet.training
    assert torch.equal(flat(model), trained)
    assert model.parts.denoiser.training


def test_checkpointing_computes_the_same(start, finished):
    plain, less = start(), start()
    less.model.parts.denoiser.enable_gradient_checkpointing()
    assert less.model.parts.denoiser.is_gradient_checkpointing
    torch.testing.assert_close(finished(plain)[1], finished(less)[1], rtol=0, atol=1e-6)


def test_velocity_prediction_trains(start, micro_parts):
    copies = start(parts=micro_parts("v_prediction"))
    model, batch = copies.model, first_batch(copies)
    (noisy, *_), wanted, timesteps = model.inputs(batch, 0)
    # noisy = a z + s n and v = a n - s z, so a noisy - s v = z and s noisy + a v = n
    a = model.parts.scheduler.alphas_cumprod[timesteps].view(-1, 1, 1, 1)
    drawn, _ = drawn_for(0, 0, 0, [0, 1], latent_shape=(4, 8, 8))
    torch.testing.assert_close(
        (1 - a).sqrt() * noisy + a.sqrt() * wanted, drawn.noise, rtol=1e-4, atol=1e-4
    )


def test_timesteps_reach_the_end_of_any_schedule(start, micro_parts):
    parts = micro_parts()
    short = type(parts.scheduler).from_config(parts.scheduler.config, num_train_timesteps=37)
    parts.replace(scheduler=short)
    copies = start(parts=parts)
    seen = {
        int(t)
        for s in range(60)
        for t in copies.model.inputs(first_batch(copies, range(s, s + 1)), s)[2]
    }
    assert max(seen) in (35, 36)
    assert min(seen) <= 1


def test_the_ratio_of_mixup_is_drawn_for_the_split_and_step(start):
    copies = start(mixup=0.7)
    ratios = [
        copies.model.inputs(first_batch(copies, range(s, s + 1)), s)[0].drawn for s in range(3)
    ]
    assert ratios == [
        (float(seeding.numpy_rng(0, "mixup", 0, s, 1).beta(0.7, 1)),) for s in range(3)
    ]


def test_the_first_pass_is_measured_and_computes_what_others_compute(start, finished):
    measured, plain = start(steps=2), start(steps=2)
    plain.model.pass_memory.bytes = 0  # as if it had been
    found = [finished(copies)[1] for copies in (measured, plain)]
    assert torch.equal(*found)
    weights = sum(p.numel() * 4 for p in measured.model.weights.values())
    # at least the gradients, which all are there after it
    assert weights < measured.model.pass_memory.bytes < 20 * weights
    assert plain.model.pass_memory.bytes == 0
