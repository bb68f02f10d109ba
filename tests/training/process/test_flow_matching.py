import math

import pytest
import torch

from utils.runtime import seeding
from utils.training.process import flow_matching
from utils.training.process.base import ProcessSettings
from utils.training.process.flow_matching import FlowMatching, Weighting


def draws(process, count=4000):
    generator = seeding.torch_generator(0, "noise")
    return torch.stack([process.draw(generator) for _ in range(count)])


def published_density(weighting, shares):
    """u as the trainers of diffusers draw it, for uniform numbers (a normal one by its quantile)."""
    if weighting.scheme == "logit_normal":
        normal = torch.distributions.Normal(weighting.logit_mean, weighting.logit_std)
        return torch.sigmoid(normal.icdf(shares))
    if weighting.scheme == "mode":
        u = 1 - shares
        return 1 - u - weighting.mode_scale * (torch.cos(math.pi * u / 2) ** 2 - 1 + u)
    return shares


@pytest.mark.parametrize(
    "weighting",
    [
        Weighting(),
        Weighting("logit_normal"),
        Weighting("logit_normal", logit_mean=0.7, logit_std=0.5),
        Weighting("mode"),
        Weighting("mode", mode_scale=-0.8),
        Weighting("cosmap"),
    ],
    ids=lambda w: f"{w.scheme} {w.logit_mean} {w.mode_scale}",
)
def test_a_sigma_is_the_published_one_at_the_same_quantile(weighting):
    """Published: the timestep at index int(1000 * u) of 1000 descending ones, shifted by 3."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    shares = (torch.arange(100, dtype=torch.float64) + 0.5) / 100
    # descending timesteps: the share below u is the share above sigma
    index = (published_density(weighting, 1 - shares) * 1000).long()
    published = FlowMatchEulerDiscreteScheduler(shift=3.0).timesteps[index] / 1000
    process = FlowMatching(weighting, shift=3.0)
    # within one of the thousand steps, which the shift makes at most three times as wide
    torch.testing.assert_close(process._sigmas(shares), published, rtol=0, atol=3.1e-3)


def test_a_step_by_hand():
    process = FlowMatching(Weighting(), shift=1.0)
    latents, noise = torch.tensor([2.0, 4.0]), torch.tensor([-1.0, 1.0])
    latents, noise = latents.view(2, 1, 1, 1), noise.view(2, 1, 1, 1)
    time = torch.tensor([0.25, 1.0])
    assert process.noisy(latents, noise, time).flatten().tolist() == [1.25, 1.0]
    assert process.target(latents, noise, time).flatten().tolist() == [-3.0, -3.0]
    assert process.network_time(time).tolist() == [250.0, 1000.0]
    assert process.weights(time) is None


def test_weights_by_hand():
    sigmas = torch.tensor([0.5, 0.25, 1.0])
    sigma_sqrt = FlowMatching(Weighting("sigma_sqrt"), shift=1.0).weights(sigmas)
    assert sigma_sqrt.tolist() == [4.0, 16.0, 1.0]
    cosmap = FlowMatching(Weighting("cosmap"), shift=1.0).weights(sigmas)
    torch.testing.assert_close(cosmap * math.pi, torch.tensor([4.0, 3.2, 2.0]))


def test_a_static_shift_by_hand():
    # 3 * 1/2 / (1 + 2 * 1/2) = 3/4; the ends stay
    found = flow_matching.shifted(torch.tensor([0.0, 0.25, 0.5, 1.0]), 3.0)
    torch.testing.assert_close(found, torch.tensor([0.0, 0.5, 0.75, 1.0]))


FLUX = {
    "use_dynamic_shifting": True,
    "base_shift": 0.5,
    "max_shift": 1.15,
    "base_image_seq_len": 256,
    "max_image_seq_len": 4096,
}


@pytest.mark.parametrize(("tokens", "mu"), [(256, 0.5), (4096, 1.15), (2176, 0.825)])
def test_a_dynamic_shift_is_that_of_the_pipeline(tokens, mu):
    from diffusers import FlowMatchEulerDiscreteScheduler

    factor = flow_matching.family_shift(FLUX, tokens)
    assert factor == pytest.approx(math.exp(mu))
    scheduler = FlowMatchEulerDiscreteScheduler.from_config(FLUX)
    scheduler.set_timesteps(sigmas=[1.0, 0.6, 0.2], mu=mu)
    torch.testing.assert_close(
        flow_matching.shifted(torch.tensor([1.0, 0.6, 0.2]), factor), scheduler.sigmas[:3]
    )


def test_shifts_of_other_schedulers():
    assert flow_matching.family_shift({"shift": 3.0}, 4096) == 3.0
    assert flow_matching.family_shift({}, 4096) == 1.0
    assert flow_matching.family_shift(FLUX | {"time_shift_type": "linear"}, 256) == 0.5


def test_a_shift_that_grows_with_the_image_is_that_of_its_size():
    """1024 px, and 1216 x 832: the same number, shifted as the pipeline samples each."""

    def of(**settings):
        chosen = ProcessSettings(**settings)
        return FlowMatching.of(FLUX, chosen, side=128, patch=2, published="none")

    def drawn(draw):
        return draw(seeding.torch_generator(3, "noise"))

    auto, share = of(), drawn(of(timestep_shift="none").draw)
    assert torch.equal(drawn(auto.drawn_at(128, 128)), drawn(auto.draw))
    for height, width, tokens in ((128, 128, 4096), (152, 104, 76 * 52), (64, 64, 1024)):
        mu = 0.5 + 0.65 * (tokens - 256) / (4096 - 256)
        wanted = math.exp(mu) * share / (1 + (math.exp(mu) - 1) * share)
        assert drawn(auto.drawn_at(height, width)).item() == pytest.approx(wanted.item(), rel=1e-5)
    for fixed in (of(timestep_shift=2.0), of(timestep_shift="none")):
        assert torch.equal(drawn(fixed.drawn_at(64, 64)), drawn(fixed.draw))


@pytest.mark.parametrize("scheme", ["none", "logit_normal", "mode"])
def test_bins_are_visited_equally(scheme):
    process = FlowMatching(Weighting(scheme), shift=3.0, bins=10)
    sigmas = draws(process)
    visits = torch.bincount(process.bin(sigmas), minlength=10)
    assert visits.sum() == 4000
    assert (visits - 400).abs().max() < 80  # four standard deviations
    # by equal widths of sigma, three in four bins would be far from it
    by_width = torch.bincount((sigmas * 10).long().clamp_max(9), minlength=10)
    assert (by_width - 400).abs().max() > 200


def test_bins_follow_one_another_in_sigma():
    process = FlowMatching(Weighting("logit_normal"), shift=3.0, bins=7)
    middles = process._sigmas((torch.arange(7, dtype=torch.float64) + 0.5) / 7)
    assert process.bin(middles).tolist() == list(range(7))


def test_the_smallest_and_largest_time_are_finite():
    process = FlowMatching(Weighting("sigma_sqrt"), shift=1.0)
    ends = process._sigmas(torch.tensor([0.0, 1.0], dtype=torch.float64))
    assert ends.tolist() == pytest.approx([1e-3, 1.0])
    assert process.weights(ends).isfinite().all()
    assert process.bin(ends).tolist() == [0, 999]
    logit = FlowMatching(Weighting("logit_normal"), shift=1.0)
    assert logit._sigmas(torch.zeros(1, dtype=torch.float64)).item() == pytest.approx(1e-3)


def test_a_draw_takes_one_number():
    process = FlowMatching(Weighting("logit_normal"), shift=3.0)
    one, other = (seeding.torch_generator(0, "noise") for _ in range(2))
    assert process.draw(one).dtype == torch.float32
    torch.rand((), generator=other, dtype=torch.float64)
    assert torch.equal(torch.randn(3, generator=one), torch.randn(3, generator=other))


def test_errors_of_every_prediction_are_the_flows_times_a_weight_of_the_time():
    """So a usual loss of the same time is met by all of them, or by none."""
    process = FlowMatching(Weighting(), shift=1.0)
    generator = torch.Generator().manual_seed(0)
    latents, noise, velocity = (torch.randn(3, 1, 2, 2, generator=generator) for _ in range(3))
    time = torch.tensor([0.25, 0.5, 0.75])
    noisy, wanted = process.noisy(latents, noise, time), process.target(latents, noise, time)
    sigmas = time.view(-1, 1, 1, 1)
    flow = (velocity - wanted).square().flatten(1).mean(1)
    of_image = (noisy - sigmas * velocity - latents).square().flatten(1).mean(1)
    of_noise = (noisy + (1 - sigmas) * velocity - noise).square().flatten(1).mean(1)
    torch.testing.assert_close(of_image, time**2 * flow)
    torch.testing.assert_close(of_noise, (1 - time) ** 2 * flow)
