"""Precision, recall, density and coverage of generated features, from balls around features, whose
radius is the distance to the k-th nearest neighbour."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

NEIGHBOURS = {"precision": 3, "density": 5}  # k
MIN_IMAGES = max(NEIGHBOURS.values()) + 1
BLOCK_ROWS = 1024


def _blocks(rows: torch.Tensor) -> Iterator[torch.Tensor]:
    return (rows[start : start + BLOCK_ROWS] for start in range(0, len(rows), BLOCK_ROWS))


def radii(features: torch.Tensor, *ks: int) -> list[torch.Tensor]:
    """Distances of every row to its k-th nearest other row. Holds BLOCK_ROWS x N distances.

    features: [N, D]

    Returns: [N] for each k."""
    import torch

    nearest = [
        torch.cdist(block, features).topk(max(ks) + 1, dim=1, largest=False).values
        for block in _blocks(features)
    ]
    # the row itself is the first of the k + 1 nearest; another, equal row has the distance 0 too
    return [torch.cat(nearest)[:, k] for k in ks]


def prdc(generated: torch.Tensor, reference: torch.Tensor) -> dict[str, float]:
    """Precision and recall (Kynkaanniemi et al. 2019, k = 3), density and coverage (Naeem et al.
    2020, k = 5).

    A ball includes its surface, as in Kynkaanniemi et al., equation 1: around an image that has k
    duplicates it is a point, and a copy of the image lies within.

    generated: [N, D], at least MIN_IMAGES
    reference: [M, D], at least MIN_IMAGES

    Returns: {name: value}."""
    import torch

    generated, reference = generated.double(), reference.double()
    wide, narrow = radii(reference, NEIGHBOURS["density"], NEIGHBOURS["precision"])
    (around_generated,) = radii(generated, NEIGHBOURS["precision"])
    precise, balls = 0, 0
    nearest = torch.full((len(reference),), torch.inf).double()
    recalled = torch.zeros(len(reference), dtype=torch.bool)
    for block, own in zip(_blocks(generated), _blocks(around_generated), strict=True):
        distances = torch.cdist(block, reference)  # [B, M]
        precise += (distances <= narrow).any(1).sum().item()
        balls += (distances <= wide).sum().item()
        nearest = nearest.minimum(distances.amin(0))
        recalled |= (distances <= own[:, None]).any(0)
    return {
        "precision": precise / len(generated),
        "recall": recalled.double().mean().item(),
        "density": balls / (NEIGHBOURS["density"] * len(generated)),
        "coverage": (nearest <= wide).double().mean().item(),
    }
