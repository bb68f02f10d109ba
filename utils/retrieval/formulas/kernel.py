"""Kernel distance of two sets of features (Binkowski et al. 2018)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

SUBSETS, SUBSET_SIZE = 100, 1000


def kernel_distance(
    generated: torch.Tensor, reference: torch.Tensor, *, seed: int
) -> tuple[float, float]:
    """Unbiased squared maximum mean discrepancy under the cubic kernel (x.y / D + 1)^3, over 100
    seeded subsets, by torch-fidelity.

    A subset is min(1000, N, M) images of each set: with fewer than 1000 the smaller set is always
    whole.

    generated: [N, D]
    reference: [M, D]

    Returns: mean and standard deviation over the subsets."""
    from torch_fidelity.metric_kid import (
        KEY_METRIC_KID_MEAN,
        KEY_METRIC_KID_STD,
        kid_features_to_metric,
    )

    distance = kid_features_to_metric(
        generated.double(),
        reference.double(),
        kid_subsets=SUBSETS,
        kid_subset_size=min(SUBSET_SIZE, len(generated), len(reference)),
        rng_seed=seed % 2**32,
        verbose=False,
    )
    return float(distance[KEY_METRIC_KID_MEAN]), float(distance[KEY_METRIC_KID_STD])
