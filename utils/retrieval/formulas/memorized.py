"""Memorized quantity in pixel space: a generation that is much nearer to one training image than to
its other neighbours counts as memorized.

The ratio of Liu et al. (2024), of squared distances, at their thresholds; and nL2, that of
distances (Carlini et al. 2023; Chen et al. 2024).
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np

from utils.data import transforms
from utils.retrieval.descriptors.network import Extractor

if TYPE_CHECKING:
    import torch

NEIGHBOURS = 50
THRESHOLDS = (0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
MOST_PAIRS = 10**7  # pairs of images beyond which it is computed only if it is named
ALPHA = 0.5  # of the mean distance in nL2
NL2_THRESHOLD = 1.4  # below it a generation counts as memorized (Chen et al. 2024)
TINY = 1e-12  # smallest mean that is divided by


def pixels(size: int) -> Extractor:
    """Extractor of the pixels themselves, in [0, 1], area-averaged to size x size.

    They are kept as float16, whose rounding (2e-4 of a value at most) is far below a grey level."""

    def network(averaged: torch.Tensor) -> torch.Tensor:
        return (averaged.flatten(1) / 255).half()

    transform = functools.partial(transforms.area_averaged, cells=size)
    record = {"mq_size": size, "dtype": "float16"}
    return Extractor(transform, network, record, as_generated=True, is_network=False)


def ratios(nearest: torch.Tensor) -> np.ndarray:
    """min d / mean d of squared distances d to the NEIGHBOURS nearest training images, the nearest
    included (Liu et al. 2024).

    nearest: [N, NEIGHBOURS] float64, as pixel_neighbours.nearest

    Returns: [N], in [0, 1]; 0 / 0, of an exact copy of an image that occurs 50 times, is 0: it is
    memorized."""
    return (nearest.amin(1) / nearest.mean(1).clamp_min(TINY)).numpy()


def normalised_distances(nearest: torch.Tensor) -> np.ndarray:
    """nL2: distance to the nearest training image over ALPHA times the mean distance to the
    NEIGHBOURS nearest, the nearest included; distances are not squared here (Carlini et al. 2023,
    for CIFAR-10; Chen et al. 2024 name it nL2).

    nearest: squared distances, as `ratios`

    Returns: [N], in [0, 1 / ALPHA]; 0 / 0 is 0."""
    return ratios(nearest.sqrt()) / ALPHA


def threshold_names() -> list[str]:
    """The thresholds as keys have them, without the dot: 015, 02, ..."""
    return [f"{threshold:g}".replace(".", "") for threshold in THRESHOLDS]


def below(ratio: np.ndarray) -> np.ndarray:
    """Which ratios are below each threshold. ratio: [N]. Returns: bool [N, thresholds]."""
    return np.asarray(ratio)[:, None] < np.array(THRESHOLDS)
