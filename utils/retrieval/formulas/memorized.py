"""Memorized quantity in pixel space: a generation that is much nearer to one training image than to
its other neighbours.

The ratio of Carlini et al. (2023, section 4.2), counted at the thresholds of Liu et al. (2024).
"""

import functools

import numpy as np

from utils.data import transforms
from utils.retrieval.descriptors.network import Extractor

NEIGHBOURS = 50
THRESHOLDS = (0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
MOST_PAIRS = 10**7  # beyond that many pairs of images it is computed only when asked for
BLOCK_ROWS = 512


def pixels(size):
    """Extractor of the pixels themselves, [0, 1], area-averaged to size x size; kept as float16,
    whose rounding (2e-4 of a value at most) is far below a grey level."""

    def network(averaged):
        return (averaged.flatten(1) / 255).half()

    transform = functools.partial(transforms.area_averaged, cells=size)
    return Extractor(transform, network, {"mq_size": size, "dtype": "float16"}, as_generated=True)


def _mirrored(rows):
    """[N, 3 size size] of images -> the same of their mirror images."""
    side = round((rows.shape[1] / 3) ** 0.5)
    return rows.unflatten(1, (3, side, side)).flip(3).flatten(1)


def _squared_distances(query, train):
    """[Q, D], [T, D] -> [Q, T]; float64, because copies are the small differences of large
    numbers."""
    lengths = query.square().sum(1)[:, None] + train.square().sum(1)
    return (lengths - 2 * query @ train.T).clamp_min(0)


def ratios(generated, training, *, flip=False, block_rows=BLOCK_ROWS):
    """min d / mean of the 50 smallest d, the minimum included; d: squared distance to a training
    image, with `flip` the smaller of that and of the one to its mirror image.

    generated: [N, D], training: [M, D], M >= 50, in [0, 1]. Holds block_rows^2 distances. Returns:
    [N] float64, in [0, 1]; 0 / 0, an exact copy of an image that is there 50 times, is 0: it is
    memorized."""
    import torch

    found = []
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
        found.append(nearest.amin(1) / mean.clamp_min(1e-12))
    return torch.cat(found).numpy()


def quantities(found):
    """mq_<threshold>: how many ratios are below it; mq_rate_<threshold>: their share. found: [N].
    Returns: flat dict."""
    row = {}
    for threshold in THRESHOLDS:
        name = f"{threshold:g}".replace(".", "")
        count = int((np.asarray(found) < threshold).sum())
        row |= {f"mq_{name}": count, f"mq_rate_{name}": count / len(found)}
    return row
