import numpy as np
import pytest
import torch

from utils.data import image_sets
from utils.watch import fixed_losses

SIDE = 16


@pytest.fixture
def pictures(scenes_dir):
    images = image_sets.list_images("--d", scenes_dir / "train")
    return fixed_losses.read(images, {k: [f"picture {k}"] for k in images.keys}, side=SIDE)


def loss(model, pictures, **changes):
    with model.pipeline():
        return fixed_losses.mean_loss(model, pictures, **{"seed": 3, "batch_size": 5} | changes)


def test_the_loss_is_the_same_at_every_call_and_in_batches_of_any_size(start, pictures):
    model = start().model
    state = torch.get_rng_state()
    first = loss(model, pictures)
    assert torch.equal(torch.get_rng_state(), state)
    assert loss(model, pictures) == first
    assert loss(model, pictures, batch_size=12) == pytest.approx(first, rel=1e-5)
    assert loss(model, pictures, seed=4) != pytest.approx(first, rel=1e-3)


def test_it_agrees_with_one_written_by_hand(start, pictures):
    model = start().model
    parts, scheduler, total = model.parts, model.process.scheduler, 0.0
    times = fixed_losses.times_of(model.process, seed=3)
    count = scheduler.config.num_train_timesteps
    assert times.tolist() == sorted(times.tolist())
    assert times.float().div(count).tolist() == pytest.approx([1 / 8, 3 / 8, 5 / 8, 7 / 8], abs=0.1)
    with model.pipeline(), torch.no_grad():
        for n in range(2):
            drawn = fixed_losses._noise((4, 8, 8), 3, n)
            posterior = parts.vae.encode(pictures[n]["pixels"][None]).latent_dist
            latents = posterior.mean + posterior.std * drawn[:1]
            latents = latents * parts.vae.config.scaling_factor
            ids = parts.tokenizer(
                [pictures[n]["prompt"]], padding="max_length", truncation=True, return_tensors="pt"
            ).input_ids
            text = parts.encoders["text_encoder"](ids)[0]
            for time, t in enumerate(times[:, None]):
                noise = drawn[1 + time : 2 + time]
                noisy = scheduler.add_noise(latents, noise, t)
                predicted = parts.denoiser(noisy, t, encoder_hidden_states=text).sample
                total += float((predicted - noise).square().mean())
    assert loss(model, pictures[:2]) == pytest.approx(total / 8, rel=1e-5)


def test_the_loss_is_of_the_averaged_weights_under_ema(start, pictures):
    model = start(use_ema=True).model
    before = loss(model, pictures)
    with torch.no_grad():
        for weight in model.weights.values():
            weight.add_(0.3)
    assert loss(model, pictures) == before
    for average in model.ema.averages.values():
        average.add_(0.3)
    assert loss(model, pictures) != pytest.approx(before, rel=1e-2)


def test_pictures_are_drawn_without_repeats_and_stay_the_same():
    chosen = fixed_losses.chosen(50, 32, seed=1)
    assert len(set(chosen.tolist())) == 32
    assert np.array_equal(chosen, np.sort(chosen))
    assert np.array_equal(chosen, fixed_losses.chosen(50, 32, seed=1))
    assert not np.array_equal(chosen, fixed_losses.chosen(50, 32, seed=2))
    assert fixed_losses.chosen(3, 32, seed=1).tolist() == [0, 1, 2]
