"""The loss of a model in training on the same pictures, noise and times at every check: what falls
on training pictures and not on those held out is learnt by heart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from utils.data import training_data, transforms
from utils.runtime import seeding

if TYPE_CHECKING:
    from utils.data.image_sets import ImageSet
    from utils.training.process.base import Process
    from utils.training.trainer import Trainer

MOST_PICTURES = 32  # of each kind
TIMES = 4  # of a picture
SAMPLED = 255  # random times of the process, of which TIMES even quantiles are taken

Item = dict[str, Any]  # what a draw of training holds: pixels, prompt, sizes


def chosen(count: int, most: int, *, seed: int) -> np.ndarray:
    """At most `most` of `count` pictures, drawn without replacement. Returns: ascending int64."""
    order = seeding.numpy_rng(seed, "copy-check-pictures").permutation(count)
    return np.sort(order[:most])


def read(images: ImageSet, prompts: Mapping[str, Sequence[str]], *, side: int) -> list[Item]:
    """Read pictures as squares, as training sees them under --center_crop without mirroring.

    prompts: {key: its prompts}, of which the first is taken; side: in pixels."""
    items = []
    for number, key in enumerate(images.keys):
        image = images.open(number)
        view = transforms.centred(image.size, (side, side))
        items.append(
            {
                "prompt": prompts[key][0],
                "original_size": (image.height, image.width),
                "crop": view.crop,
                "target_size": (side, side),
                "flipped": view.flipped,
                "pixels": view.pixels(image),
            }
        )
    return items


def times_of(process: Process, *, seed: int) -> torch.Tensor:
    """Times in the middle of equal parts of those that training draws. Returns: [TIMES]."""
    generator = seeding.torch_generator(seed, "copy-check-times")
    drawn, _ = torch.stack([process.draw(generator) for _ in range(SAMPLED)]).sort()
    return drawn[[(2 * n + 1) * SAMPLED // (2 * TIMES) for n in range(TIMES)]]


def mean_loss(model: Trainer, pictures: Sequence[Item], *, seed: int, batch_size: int) -> float:
    """The mean of the plain loss over pictures and times. Call it within `model.pipeline`, so that
    the weights are those of a checkpoint.

    pictures: at least one; seed: of noise and times; batch_size: samples at once."""
    times, total = times_of(model.process, seed=seed), 0.0
    for first in range(0, len(pictures), batch_size):
        batch = training_data.collate(list(pictures[first : first + batch_size]))
        numbers = range(first, first + len(batch["prompt"]))
        drawn = torch.stack([_noise(model.latent_shape(batch), seed, n) for n in numbers])
        for place, time in enumerate(times):
            losses = model.losses_at(
                batch, drawn[:, 0], drawn[:, 1 + place], time.expand(len(numbers))
            )
            total += float(losses.double().sum())
    return total / (len(pictures) * TIMES)


def _noise(shape: tuple[int, ...], seed: int, number: int) -> torch.Tensor:
    """Standard normal numbers of a picture, [1 + TIMES, C, h, w]: of the posterior sample, then of
    each time."""
    generator = seeding.torch_generator(seed, "copy-check-noise", number)
    return torch.randn(1 + TIMES, *shape, generator=generator)
