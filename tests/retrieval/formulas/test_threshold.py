import math

import numpy as np
import pytest

from utils.retrieval.formulas import bootstrap, threshold


@pytest.mark.parametrize(
    ("scores", "rate", "expected"),
    [
        # none of 4 may exceed it: the largest
        ([0.1, 0.4, 0.2, 0.3], 0.01, 0.4),
        # one of 4 may: the second
        ([0.1, 0.4, 0.2, 0.3], 0.25, 0.3),
        # 0.49 of 4 is 1.96, so still one
        ([0.1, 0.4, 0.2, 0.3], 0.49, 0.3),
        ([0.1, 0.4, 0.2, 0.3], 0.0, 0.4),
        # two tied at the top: one may exceed, but both would below 0.4
        ([0.1, 0.4, 0.4, 0.3], 0.25, 0.4),
        ([0.1, 0.4, 0.4, 0.3], 0.5, 0.3),
        ([0.7], 0.99, 0.7),
        ([-0.5, -0.2], 0.5, -0.5),
    ],
)
def test_the_threshold_by_hand(scores, rate, expected):
    assert threshold.calibrated(np.array(scores), rate) == expected


def test_one_percent_of_a_hundred_is_one():
    scores = np.arange(100) / 100
    assert threshold.calibrated(scores, 0.01) == 0.98
    assert threshold.copies(scores, 0.98).sum() == 1
    assert threshold.calibrated(scores, 0.29) == 0.70  # 0.29 * 100 is 28.999999999999996
    assert threshold.allowed(300, 0.01) == 3


def test_it_is_the_lowest_score_that_few_enough_exceed():
    rng = np.random.default_rng(0)
    for _ in range(300):
        scores = rng.integers(0, 12, rng.integers(1, 30)) / 10  # with many ties
        rate = rng.choice([0, 0.01, 0.05, 0.1, 0.3, 0.5, 0.9])
        most = math.floor(rate * len(scores) + 1e-9)
        fitting = [t for t in scores if sum(s > t for s in scores) <= most]
        assert threshold.calibrated(scores, rate) == min(fitting)


def test_what_is_no_score_or_no_rate_is_refused():
    for wrong in ([], [0.1, np.nan], [np.inf]):
        with pytest.raises(ValueError, match="all of them finite"):
            threshold.calibrated(np.array(wrong), 0.01)
    for rate in (1, -0.1):
        with pytest.raises(ValueError, match="a rate of false positives is in"):
            threshold.calibrated(np.array([0.1]), rate)


def test_a_score_at_the_threshold_is_no_copy_and_nan_is_none():
    assert threshold.copies(np.array([0.5, 0.500001, np.nan, 0.4]), 0.5).tolist() == [
        False,
        True,
        False,
        False,
    ]
    assert threshold.rate_above(np.array([0.5, 0.6, np.nan, 0.7]), 0.5) == 0.5


def test_resampled_thresholds_agree_with_a_naive_loop():
    rng = np.random.default_rng(1)
    scores = rng.random(40).round(1)
    ours = threshold.resampled(scores, 0.1, seed=3, rounds=4000)
    naive = np.array(
        [threshold.calibrated(rng.choice(scores, len(scores)), 0.1) for _ in range(4000)]
    )
    assert set(ours) <= set(scores)
    for value in np.unique(scores):
        assert np.mean(ours == value) == pytest.approx(np.mean(naive == value), abs=0.04)
    again = threshold.resampled(scores, 0.1, seed=3, rounds=4000)
    assert np.array_equal(ours, again)
    assert not np.array_equal(ours, threshold.resampled(scores, 0.1, seed=4, rounds=4000))
    assert np.array_equal(ours, threshold.resampled(scores[::-1], 0.1, seed=3, rounds=4000))


def test_blocks_of_rounds_change_no_threshold(monkeypatch):
    scores = np.random.default_rng(2).random(30)
    whole = threshold.resampled(scores, 0.1, seed=0, rounds=100)
    monkeypatch.setattr(threshold, "MOST_ENTRIES", 210)
    assert np.array_equal(whole, threshold.resampled(scores, 0.1, seed=0, rounds=100))


def test_the_largest_of_n_is_drawn_in_63_percent_of_rounds():
    # by hand: it is missing from a round with probability (1 - 1/50)^50 = 0.364
    scores = np.arange(50) / 50
    thresholds = threshold.resampled(scores, 0.01, seed=0, rounds=4000)
    assert np.mean(thresholds == 0.98) == pytest.approx(1 - 0.98**50, abs=0.03)
    low, high = threshold.interval(thresholds)
    assert low < high == 0.98


def test_the_share_s_interval_without_uncertainty_of_the_threshold_is_that_of_prompts():
    scores = np.random.default_rng(3).random(60)
    clusters = [f"p{i // 4}" for i in range(60)]
    fixed = np.full(bootstrap.ROUNDS, 0.7)
    ours = threshold.share_interval(scores, clusters, 0.7, fixed, seed=5)
    assert ours == bootstrap.share(scores > 0.7, clusters, seed=5)


def test_the_share_s_interval_takes_in_the_threshold_s_own_uncertainty():
    rng = np.random.default_rng(4)
    scores, innocents = rng.random(200), rng.random(60)
    clusters = [f"p{i // 2}" for i in range(200)]
    limit = threshold.calibrated(innocents, 0.2)
    drawn = threshold.resampled(innocents, 0.2, seed=6)
    low, high = threshold.share_interval(scores, clusters, limit, drawn, seed=6)
    narrow = bootstrap.share(scores > limit, clusters, seed=6)
    assert low < narrow[0] < np.mean(scores > limit) < narrow[1] < high
    # a naive joint resampling
    names = sorted(set(clusters))
    members = {n: [i for i, c in enumerate(clusters) if c == n] for n in names}
    naive = []
    for _ in range(2000):
        chosen = [i for n in rng.choice(names, len(names)) for i in members[n]]
        other = threshold.calibrated(rng.choice(innocents, len(innocents)), 0.2)
        naive.append(np.mean(scores[chosen] > other))
    expected = np.percentile(naive, (2.5, 97.5))
    assert (low, high) == pytest.approx(tuple(expected), abs=0.02)


def test_blocks_of_prompts_keep_their_thresholds(monkeypatch):
    rng = np.random.default_rng(5)
    scores, clusters = rng.random(30), [str(i) for i in range(30)]
    drawn = threshold.resampled(rng.random(25), 0.1, seed=1)
    whole = threshold.share_interval(scores, clusters, 0.9, drawn, seed=1)
    monkeypatch.setattr(bootstrap, "MOST_ENTRIES", 30 * 7)
    assert threshold.share_interval(scores, clusters, 0.9, drawn, seed=1) == whole


def test_none_and_all_have_the_exact_interval_of_their_prompts():
    clusters = [str(i) for i in range(10)]
    fixed = np.full(bootstrap.ROUNDS, 0.5)
    width = 1 - 0.025 ** (1 / 10)  # Clopper and Pearson, 0 of 10
    assert threshold.share_interval(np.zeros(10), clusters, 0.5, fixed, seed=0) == (0.0, width)
    assert threshold.share_interval(np.ones(10), clusters, 0.5, fixed, seed=0) == (1 - width, 1.0)
    # none at the threshold, but all below it: the interval must reach them
    half = np.where(np.arange(bootstrap.ROUNDS) % 2, 0.5, 0.3)
    assert threshold.share_interval(np.full(10, 0.4), clusters, 0.5, half, seed=0) == (0.0, 1.0)
    nothing = np.full(10, np.nan)
    assert threshold.share_interval(nothing, clusters, 0.5, fixed, seed=0) == (0.0, width)


def test_the_rule_of_three():
    assert threshold.tellable_rate(300) == 0.01
    assert threshold.tellable_rate(60) == 0.05
    assert threshold.tellable_rate(2) == 1.0
    # the exact bound: 0.05 is (1 - rate)^count
    for count in (30, 60, 300):
        exact = 1 - 0.05 ** (1 / count)
        assert exact < threshold.tellable_rate(count) < 1.06 * exact


def test_innocents_that_did_not_set_the_threshold_exceed_it_as_rarely_as_asked():
    rng = np.random.default_rng(6)
    rates = [
        threshold.rate_above(rng.normal(size=500), threshold.calibrated(rng.normal(size=300), 0.05))
        for _ in range(200)
    ]
    # expected share above the 16th of 300: 16 / 301
    assert np.mean(rates) == pytest.approx(16 / 301, abs=0.004)
