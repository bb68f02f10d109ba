import numpy as np
import pytest
import scipy.linalg
import torch

from utils.retrieval.formulas import frechet


def features(n, d, seed, shift=0.0, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(d, d, generator=generator)
    return torch.randn(n, d, generator=generator) @ mixing * scale + shift


def naive(a, b):
    """The formula as printed, with scipy's matrix root."""
    a, b = a.double().numpy(), b.double().numpy()
    s1, s2 = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = scipy.linalg.sqrtm(s1 @ s2)
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(s1 + s2 - 2 * root.real))


@pytest.mark.parametrize(("n", "m"), [(60, 50), (200, 9)])
def test_it_agrees_with_the_formula(n, m):
    a, b = features(n, 8, 0), features(m, 8, 1, shift=0.3, scale=1.5)
    assert frechet.frechet_distance(a, b) == pytest.approx(naive(a, b), rel=1e-6)


@pytest.mark.parametrize(("n", "m"), [(6, 40), (40, 6), (5, 7)])
def test_fewer_images_than_features_agree_with_torch_fidelity(n, m):
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

    a, b = features(n, 20, 0), features(m, 20, 1, shift=0.5)
    theirs = fid_statistics_to_metric(
        *(fid_features_to_statistics(x.double()) for x in (a, b)), verbose=False
    )
    assert frechet.frechet_distance(a, b) == pytest.approx(next(iter(theirs.values())), rel=1e-5)


def test_two_squares_by_hand():
    # corners of a square of side 2 and of one of side 4: means (1, 1) and (2, 2), variances 4/3 and
    # 16/3 (ddof 1), no covariance: (1 + 1) + 2 * (4/3 + 16/3 - 2 * sqrt(4/3 * 16/3)) = 2 + 8/3
    square = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0], [2.0, 2.0]])
    assert frechet.frechet_distance(square, 2 * square) == pytest.approx(2 + 8 / 3)


def test_a_set_has_distance_zero_to_itself_and_a_shift_is_seen():
    a = features(40, 8, 0)
    assert frechet.frechet_distance(a, a) == pytest.approx(0.0, abs=1e-6)
    assert frechet.frechet_distance(a, a + 1) == pytest.approx(8.0, rel=1e-6)
