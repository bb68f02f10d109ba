"""Kernel distance of two sets of features (Binkowski et al. 2018)."""

SUBSETS, SUBSET_SIZE = 100, 1000


def kernel_distance(generated, reference, *, seed):
    """Unbiased squared maximum mean discrepancy under the cubic kernel (x.y / D + 1)^3, of 100
    seeded subsets.

    generated: [N, D], reference: [M, D]; a subset is min(1000, N, M) images of each, so with fewer
    than 1000 the smaller set is always whole. Returns: (mean, std over subsets), by torch-fidelity.
    """
    from torch_fidelity.metric_kid import (
        KEY_METRIC_KID_MEAN,
        KEY_METRIC_KID_STD,
        kid_features_to_metric,
    )

    found = kid_features_to_metric(
        generated.double(),
        reference.double(),
        kid_subsets=SUBSETS,
        kid_subset_size=min(SUBSET_SIZE, len(generated), len(reference)),
        rng_seed=seed % 2**32,
        verbose=False,
    )
    return float(found[KEY_METRIC_KID_MEAN]), float(found[KEY_METRIC_KID_STD])
