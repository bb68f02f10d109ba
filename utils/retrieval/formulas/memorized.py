"""Memorized quantity in pixel space: a generation that is much nearer to one training image than to
its other neighbours counts as memorized.

The ratio of Carlini et al. (2023, section 4.2), counted at the thresholds of Liu et al. (2024).
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
BLOCK_ROWS = 512


def pixels(size: int) -> Extractor:
    """Extractor of the pixels themselves, in [0, 1], area-averaged to size x size.

    They are kept as float16, whose rounding (2e-4 of a value at most) is far below a grey level."""

    def network(averaged: torch.Tensor) -> torch.Tensor:
        return (averaged.flatten(1) / 255).half()

    transform = functools.partial(transforms.area_averaged, cells=size)
    record = {"mq_size": size, "dtype": "float16"}
    return Extractor(transform, network, record, as_generated=True, is_network=False)


def _mirrored(rows: torch.Tensor) -> torch.Tensor:
    """[N, 3 size size] of images -> the same of their mirror images."""
    side = round((rows.shape[1] / 3) ** 0.5)
    return rows.unflatten(1, (3, side, side)).flip(3).flatten(1)


def _squared_distances(query: torch.Tensor, train: torch.Tensor) -> torch.Tensor:
    """[Q, D], [T, D] -> [Q, T]; in float64, because the distances of copies are small differences
    of large numbers."""
    lengths = query.square().sum(1)[:, None] + train.square().sum(1)
    return (lengths - 2 * query @ train.T).clamp_min(0)


def ratios(
    generated: torch.Tensor,
    training: torch.Tensor,
    *,
    flip: bool = False,
    block_rows: int = BLOCK_ROWS,
) -> np.ndarray:
    """min d / mean of the 50 smallest d, the minimum included, where d is the squared distance to a
    training image. Holds block_rows^2 distances.

    generated: [N, D] in [0, 1]
    training: [M, D] in [0, 1], M >= 50
    flip: d is the smaller of the distances to the training image and to its mirror image

    Returns: [N] float64, in [0, 1]; 0 / 0, of an exact copy of an image that occurs 50 times, is 0:
    it is memorized."""
    import torch

    blocks = []
    for first in range(0, len(generated), block_rows):
        query = generated[first : first + block_rows].double()
        nearest = torch.empty(len(query), 0, dtype=torch.float64)
        for start in range(0, len(training), block_rows):
            chunk = training[start : start + block_rows].double()
            distances = _squared_distances(query, chunk)
            if flip:
                distances = distances.minimum(_squared_distances(query, _mirrored(chunk)))
            merged = torch.cat([nearest, distances], 1)
            nearest = merged.topk(min(NEIGHBOURS, merged.shape[1]), dim=1, largest=False).values
        mean = nearest.mean(1)
        blocks.append(nearest.amin(1) / mean.clamp_min(1e-12))
    return torch.cat(blocks).numpy()


def quantities(ratio: np.ndarray) -> dict[str, float | int]:
    """How many ratios are below each threshold, as mq_<threshold>, and their share, as
    mq_rate_<threshold>; the threshold without its dot. ratio: [N]."""
    row: dict[str, float | int] = {}
    for threshold in THRESHOLDS:
        name = f"{threshold:g}".replace(".", "")
        count = int((np.asarray(ratio) < threshold).sum())
        row |= {f"mq_{name}": count, f"mq_rate_{name}": count / len(ratio)}
    return row
