import functools

import pytest
import torch

from utils import devices
from utils.data import captions, image_sets, training_data, transforms
from utils.diffusion import mitigation, models, training
from utils.errors import TrainingError

SIDE = 16


@pytest.fixture
def start(scenes_dir, micro_parts):
    """start(**changes) -> (Training, Draws) over the scenes, nothing trained yet."""

    def made(
        *,
        parts=None,
        noise=0.0,
        mixup=0.0,
        steps=3,
        schedule="constant",
        warmup=0,
        lr=1e-3,
        accumulation=1,
        batch=2,
        still=False,
    ):
        parts = parts or micro_parts()
        images = image_sets.list_images("--d", scenes_dir / "train")
        texts, _ = captions.read_captions(scenes_dir / "captions.json", images)
        data, _ = training_data.captioned_images(images, texts, style="nodup", share=0, weight=1, seed=0)
        hooks = mitigation.train_hooks(
            duplication="nodup", special=None, p=0, noise=noise, mixup=mixup, tokenizer=parts.tokenizer
        )
        draws = training_data.Draws(
            data, seed=0, global_batch=batch, choose_caption=hooks.choose_caption, partners=bool(mixup),
            transform=functools.partial(transforms.training_input, resolution=SIDE, center_crop=True, random_flip=False),
        )  # fmt: skip
        optimisation = training.Optimisation(lr, (0.9, 0.999), 1e-2, 1e-8, 1.0, schedule, warmup, steps)
        accelerator = devices.accelerator(mixed_precision="no", gradient_accumulation_steps=accumulation)
        model = training.Training(
            parts, accelerator=accelerator, dtype=torch.float32, optimisation=optimisation, hooks=hooks, seed=0,
            resolution=SIDE, still=still,
        )  # fmt: skip
        return model, draws

    return made


def weights(model):
    return torch.cat([p.detach().flatten().clone() for p in model.parts.unet.parameters()])


def finished(model, draws, *, batch=2, accumulation=1):
    reports = list(model.run(draws, batch_size=batch, accumulation=accumulation, num_workers=0))
    return reports, weights(model)


def test_noise_belongs_to_the_slot_not_to_the_batch():
    make = functools.partial(
        training.step_noise, 3, 0, 5, latent_shape=(4, 2, 2), embedding_shape=(3, 2), num_timesteps=1000
    )  # fmt: skip
    whole, second = make([0, 1, 2]), make([1])
    for name in ("timesteps", "posterior", "noise", "embedding"):
        assert torch.equal(whole[name][1:2], second[name])
        assert not torch.equal(whole[name][0], whole[name][1])
    # what is drawn for the embedding comes last: without it the rest is the same
    plain = training.step_noise(3, 0, 5, [1], latent_shape=(4, 2, 2), embedding_shape=None, num_timesteps=1000)
    assert torch.equal(plain["noise"], second["noise"])
    assert plain["embedding"] is None


def test_timesteps_are_uniform_and_noise_is_standard_normal():
    drawn = [
        training.step_noise(0, 0, s, range(20), latent_shape=(4, 4, 4), embedding_shape=None, num_timesteps=1000)
        for s in range(50)
    ]
    t = torch.cat([d["timesteps"] for d in drawn]).float()
    assert (t.min() < 20, t.max() > 980, abs(t.mean() - 499.5) < 30) == (True, True, True)
    noise = torch.cat([d["noise"] for d in drawn])
    assert abs(noise.mean()) < 0.02
    assert abs(noise.std() - 1) < 0.02
    assert abs((noise * torch.cat([d["posterior"] for d in drawn])).mean()) < 0.02  # two draws, not one


def test_the_inputs_agree_with_a_step_written_by_hand(start):
    model, draws = start(noise=0.3)
    batch = next(iter(training_data.loader(draws, steps=range(4, 5), batch_size=2)))
    noisy, timesteps, embeddings, wanted = model.inputs(batch, 4)
    parts = model.parts
    for slot in (0, 1):
        drawn = training.step_noise(
            0, 0, 4, [slot], latent_shape=(4, 8, 8), embedding_shape=(32, 16), num_timesteps=1000
        )  # fmt: skip
        with torch.no_grad():
            posterior = parts.vae.encode(batch["pixels"][slot : slot + 1]).latent_dist
            e = models.embed(parts.tokenizer, parts.text_encoder, [batch["prompt"][slot]], device="cpu")
        z = 0.5 * (posterior.mean + posterior.std * drawn["posterior"])
        a = parts.scheduler.alphas_cumprod[drawn["timesteps"]]
        torch.testing.assert_close(noisy[slot], (a.sqrt() * z + (1 - a).sqrt() * drawn["noise"])[0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(embeddings[slot], (e + 0.3 * drawn["embedding"])[0], rtol=1e-4, atol=1e-5)
        assert timesteps[slot] == drawn["timesteps"][0]
        assert torch.equal(wanted[slot], drawn["noise"][0])


def test_mixup_mixes_with_the_partners_by_one_ratio(start):
    model, draws = start(mixup=0.7)
    step = next(s for s in range(20) if training_data.mixup_partners(0, 0, s, 2)[0] == 1)  # a step that swaps
    batch = next(iter(training_data.loader(draws, steps=range(step, step + 1), batch_size=2)))
    _, _, embeddings, _ = model.inputs(batch, step)
    with torch.no_grad():
        e = models.embed(model.parts.tokenizer, model.parts.text_encoder, batch["prompt"], device="cpu")
    ratio = ((embeddings[0] - e[1]) / (e[0] - e[1])).nanmedian()
    assert 0 < ratio < 1
    torch.testing.assert_close(embeddings, ratio * e + (1 - ratio) * e.flip(0), rtol=1e-3, atol=1e-4)


def test_only_the_unet_learns(start):
    model, draws = start()
    before = [p.clone() for m in (model.parts.vae, model.parts.text_encoder) for p in m.parameters()]
    first = weights(model)
    reports, last = finished(model, draws)
    assert [r.step for r in reports] == [1, 2, 3]
    assert not torch.equal(first, last)
    after = [p for m in (model.parts.vae, model.parts.text_encoder) for p in m.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_a_run_repeats_bit_for_bit(start, micro_parts):
    assert torch.equal(finished(*start())[1], finished(*start())[1])


def test_posteriors_that_are_kept_train_the_same_and_are_encoded_once(start):
    kept, draws = start(still=True, steps=12)
    encoded, encode = [], kept.vae.encode
    kept.vae.encode = lambda pixels: encoded.append(len(pixels)) or encode(pixels)
    plain, _ = start(steps=12)
    torch.testing.assert_close(finished(kept, draws)[1], finished(plain, draws)[1], rtol=1e-4, atol=1e-6)
    assert sum(encoded) == 12  # twelve images, twenty-four draws


def test_an_optimizer_step_by_hand(start):
    """One step of plain AdamW on the mean of the two samples' errors, clipped to norm 1."""
    model, draws = start(steps=1, lr=1e-3)
    batch = next(iter(training_data.loader(draws, steps=range(1), batch_size=2)))
    noisy, timesteps, embeddings, wanted = model.inputs(batch, 0)
    unet = model.parts.unet
    pred = unet(noisy, timesteps, encoder_hidden_states=embeddings).sample
    loss = ((pred - wanted) ** 2).mean()
    params = list(unet.parameters())
    gradients = torch.cat([g.flatten() for g in torch.autograd.grad(loss, params)])
    gradients = gradients * min(1.0, 1.0 / (gradients.norm().item() + 1e-6))
    w = weights(model)
    expected = w - 1e-3 * 1e-2 * w - 1e-3 * gradients / (gradients.abs() + 1e-8)  # first step: m/sqrt(v) = sign
    reports, found = finished(model, draws)
    assert reports[0].loss.item() == pytest.approx(loss.item(), rel=1e-5)
    moved = gradients.abs() > 1e-6  # below, the sign hangs on rounding
    torch.testing.assert_close(found[moved], expected[moved], rtol=0, atol=2e-6)


def test_accumulation_is_one_step_of_the_mean(start):
    """Two micro-batches, one step: the gradient is the mean of theirs, worked out without accelerate."""
    model, draws = start(steps=1, accumulation=2, lr=1e-3)
    unet, gradients = model.parts.unet, []
    for step, batch in zip(range(2), training_data.loader(draws, steps=range(2), batch_size=2), strict=True):
        noisy, timesteps, embeddings, wanted = model.inputs(batch, step)
        loss = ((unet(noisy, timesteps, encoder_hidden_states=embeddings).sample - wanted) ** 2).mean()
        gradients.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(unet.parameters()))]))
    mean = (gradients[0] + gradients[1]) / 2
    w = weights(model)
    expected = w - 1e-3 * 1e-2 * w - 1e-3 * mean.sign()
    reports, found = finished(model, draws, accumulation=2)
    assert [r.step for r in reports] == [1]
    moved = mean.abs() > 1e-5  # below, Adam's epsilon and rounding decide
    assert moved.float().mean() > 0.5
    torch.testing.assert_close(found[moved], expected[moved], rtol=0, atol=5e-6)


def test_the_schedule_counts_optimizer_steps(start):
    model, draws = start(steps=4, schedule="linear", warmup=2, lr=1.0e-3, accumulation=2)
    reports, _ = finished(model, draws, accumulation=2)
    assert [r.lr for r in reports] == pytest.approx([0.0, 0.5e-3, 1e-3, 0.5e-3])


def test_a_loss_that_is_not_finite_stops_the_run_with_its_step(start):
    model, draws = start(steps=3)
    with torch.no_grad():
        next(model.parts.unet.parameters()).fill_(float("nan"))
    reports, _ = finished(model, draws)
    with pytest.raises(TrainingError, match="not finite between steps 1 and 3; what was saved before is kept"):
        training.mean_loss(model.accelerator, reports)


def test_velocity_prediction_trains(start, micro_parts):
    model, draws = start(parts=micro_parts("v_prediction"))
    batch = next(iter(training_data.loader(draws, steps=range(1), batch_size=2)))
    noisy, timesteps, _, wanted = model.inputs(batch, 0)
    # noisy = a z + s n and v = a n - s z, so a noisy - s v = z and s noisy + a v = n
    a = model.parts.scheduler.alphas_cumprod[timesteps].view(-1, 1, 1, 1)
    drawn = training.step_noise(0, 0, 0, [0, 1], latent_shape=(4, 8, 8), embedding_shape=None, num_timesteps=1000)
    torch.testing.assert_close((1 - a).sqrt() * noisy + a.sqrt() * wanted, drawn["noise"], rtol=1e-4, atol=1e-4)
