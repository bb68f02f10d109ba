import numpy as np
import pytest

from utils.retrieval.formulas import bootstrap
from utils.runtime.seeding import numpy_rng


@pytest.fixture
def images():
    """Values and prompts of 40 images, 1 to 5 a prompt, in no order; some values equal."""
    rng = np.random.default_rng(0)
    prompts = np.repeat([f"p{i}" for i in range(14)], rng.integers(1, 6, 14))
    rng.shuffle(prompts)
    return rng.integers(0, 30, len(prompts)) / 30, list(prompts)


@pytest.mark.parametrize(
    ("statistic", "naive"),
    [
        (bootstrap.mean, np.mean),
        (bootstrap.percentile(95), lambda v: np.percentile(v, 95)),
        (bootstrap.percentile(50), np.median),
    ],
)
def test_it_agrees_with_a_loop_over_the_same_draws(images, statistic, naive):
    values, prompts = images
    names = sorted(set(prompts))
    rng, found = numpy_rng(3, "bootstrap"), []
    for _ in range(150):
        drawn = rng.multinomial(len(names), np.full(len(names), 1 / len(names)))
        again = [
            v
            for name, times in zip(names, drawn, strict=True)
            for v, p in zip(values, prompts, strict=True)
            if p == name
            for _ in range(times)
        ]
        found.append(naive(again))
    expected = np.percentile(found, (2.5, 97.5))
    assert expected[0] < expected[1]
    interval = bootstrap.bootstrap_statistic(values, prompts, statistic, seed=3, rounds=150)
    assert interval == pytest.approx(expected, abs=1e-12)


def test_percentiles_of_repeated_values_by_hand():
    # 10 once, 20 never, 30 twice: of [10, 30, 30] the median is 30, the 25th percentile half way
    # from 10 to 30
    values, times = np.array([30.0, 10.0, 20.0]), np.array([[2, 1, 0], [0, 0, 5]])
    assert bootstrap.percentile(50)(values, times).tolist() == [30, 20]
    assert bootstrap.percentile(25)(values, times).tolist() == [20, 20]
    assert bootstrap.percentile(0)(values, times).tolist() == [10, 20]
    assert bootstrap.percentile(100)(values, times).tolist() == [30, 20]
    assert bootstrap.mean(values, times).tolist() == [70 / 3, 20]


def test_blocks_change_no_draw(images, monkeypatch):
    _, prompts = images
    (whole,) = bootstrap.resamplings(prompts, seed=0, rounds=50)
    assert whole.shape == (50, len(prompts))
    for size, blocks in ((1, 50), (7 * len(prompts), 8)):
        monkeypatch.setattr(bootstrap, "MOST_ENTRIES", size)
        found = list(bootstrap.resamplings(prompts, seed=0, rounds=50))
        assert len(found) == blocks
        assert np.array_equal(np.concatenate(found), whole)


def test_the_interval_of_a_share_agrees_with_resampled_prompts():
    rng = np.random.default_rng(0)
    clusters = np.repeat(np.arange(12), rng.integers(1, 6, 12))
    hits = rng.random(len(clusters)) < 0.4
    shares = []
    for _ in range(4000):
        drawn = rng.integers(0, 12, 12)
        shares.append(np.concatenate([hits[clusters == c] for c in drawn]).mean())
    found = bootstrap.bootstrap_statistic(hits, clusters, bootstrap.mean, seed=1)
    assert found == pytest.approx(np.percentile(shares, (2.5, 97.5)), abs=0.03)
    assert bootstrap.bootstrap_statistic(hits, clusters, bootstrap.mean, seed=1) == found
    assert bootstrap.bootstrap_statistic(hits, clusters, bootstrap.mean, seed=2) != found
    assert bootstrap.bootstrap_statistic(np.ones(8, bool), range(8), bootstrap.mean, seed=0) == (
        1.0,
        1.0,
    )


def test_a_share_of_none_or_all_has_an_interval_too():
    # none of 16 prompts: up to 1 - 0.025^(1/16) = 20.6 % would show none once in forty times
    low, high = bootstrap.share(np.zeros(32, bool), np.repeat(np.arange(16), 2), seed=0)
    assert (low, high) == (0, pytest.approx(0.2059, abs=1e-4))
    assert (1 - high) ** 16 == pytest.approx(0.025)
    low, high = bootstrap.share(np.ones(4, bool), ["a", "b", "c", "c"], seed=0)
    assert (low, high) == (pytest.approx(0.025 ** (1 / 3)), 1)
    hits = np.array([True, False, True, False])
    assert bootstrap.share(hits, range(4), seed=0) == bootstrap.bootstrap_statistic(
        hits, range(4), bootstrap.mean, seed=0
    )


def test_prompts_are_resampled_not_images():
    # 10 prompts of 20 equal images tell no more than 10 images
    values = np.repeat(np.arange(10.0), 20)
    low, high = bootstrap.bootstrap_statistic(
        values, np.repeat(np.arange(10), 20), bootstrap.mean, seed=0
    )
    assert (low, high) == (pytest.approx(2.8, abs=0.4), pytest.approx(6.2, abs=0.4))
    narrow = bootstrap.bootstrap_statistic(values, np.arange(200), bootstrap.mean, seed=0)
    assert narrow[1] - narrow[0] < 1


def test_lengths_must_agree():
    with pytest.raises(ValueError, match="3 values of 2 prompts"):
        bootstrap.bootstrap_statistic([1, 2, 3], ["a", "b"], bootstrap.mean, seed=0)
