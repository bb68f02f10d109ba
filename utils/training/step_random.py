"""Random numbers of one micro-batch, each a function of (seed, stream, split, step, slot)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch

from utils.runtime import seeding

if TYPE_CHECKING:
    import numpy as np


class StepRandom:
    """Generators of one micro-batch by the names of their streams (utils/runtime/seeding.STREAMS).

    Every sample has a generator of its own, so that its numbers do not depend on the batch. Numbers
    that are drawn from one generator follow one another: who draws first must always draw first.
    """

    def __init__(self, seed: int, split: int, step: int, slots: Sequence[int]):
        """split: of the ensemble; step: micro-batch of the copy, from 0; slots: numbers of the
        samples in the global batch."""
        self.seed, self.split, self.step, self.slots = seed, split, step, slots
        self._of_samples: dict[str, list[torch.Generator]] = {}
        self._of_steps: dict[str, np.random.Generator] = {}

    def of_samples(self, stream: str) -> list[torch.Generator]:
        """A generator for each sample, on the CPU."""
        if stream not in self._of_samples:
            self._of_samples[stream] = [
                seeding.torch_generator(self.seed, stream, self.split, self.step, slot)
                for slot in self.slots
            ]
        return self._of_samples[stream]

    def of_step(self, stream: str) -> np.random.Generator:
        """One generator for the global batch: the same in every process."""
        if stream not in self._of_steps:
            # the last index is 1: under 0 the stream "mixup" draws the partners
            self._of_steps[stream] = seeding.numpy_rng(self.seed, stream, self.split, self.step, 1)
        return self._of_steps[stream]


class LatentNoise(NamedTuple):
    """Random numbers of the latents of a micro-batch, on the CPU."""

    time: torch.Tensor  # [B], as the process draws it
    posterior: torch.Tensor  # [B, C, h, w] standard normal, for the sample of the posterior
    # [B, C, h, w] standard normal, with --noise_offset of a wider channel's mean; what the network
    # has to predict
    noise: torch.Tensor


def latent_noise(
    random: StepRandom,
    *,
    latent_shape: tuple[int, ...],
    draw_time: Callable[[torch.Generator], torch.Tensor],
    offset: float = 0.0,
) -> LatentNoise:
    """Draw time, posterior sample and noise of each sample, from the stream "noise".

    latent_shape: (C, h, w); draw_time: of the process; offset: standard deviation of one more
    number for each channel of a sample, which is added to its noise everywhere (--noise_offset).
    Call it before anything else draws from that stream.
    """
    rows = []
    for generator in random.of_samples("noise"):
        time = draw_time(generator)
        posterior = torch.randn(latent_shape, generator=generator)
        noise = torch.randn(latent_shape, generator=generator)
        rows.append((time, posterior, noise))
    times, posteriors, noises = map(torch.stack, zip(*rows, strict=True))
    if offset:
        levels = [
            torch.randn((latent_shape[0], 1, 1), generator=generator)
            for generator in random.of_samples("noise-offset")
        ]
        noises = noises + offset * torch.stack(levels)
    return LatentNoise(times, posteriors, noises)


@contextlib.contextmanager
def seeded(device: torch.device, seed: int, stream: str, *index: int) -> Iterator[None]:
    """Seed torch's own generators of the CPU and of a device from (seed, stream, index), and put
    them back afterwards."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seeding.derive_seed(seed, stream, *index))
        yield
