"""Thresholds, shares and areas of the benchmark of copies, by hand and against naive versions."""

import numpy as np
import pytest

from benchmarks.copying import results
from benchmarks.copying.results import Side


def test_the_threshold_is_the_smallest_that_at_most_the_asked_share_exceeds():
    scores = np.arange(100) / 100
    assert results.threshold_at(scores, 0.01) == 0.98  # 0.99 alone is above
    assert results.threshold_at(scores, 0.05) == 0.94
    assert results.threshold_at(scores, 0.0) == 0.99
    assert results.threshold_at(scores[:50], 0.01) == 0.49  # less than one of fifty: none is above
    tied = np.array([0.5] * 10 + [0.9] * 3)
    assert (tied > results.threshold_at(tied, 0.1)).mean() <= 0.1


def test_wilsons_interval_by_hand():
    low, high = results.wilson(1, 100)
    assert low == pytest.approx(0.0018, abs=2e-4)
    assert high == pytest.approx(0.0545, abs=2e-4)
    assert results.wilson(0, 20)[0] == 0
    assert results.wilson(20, 20)[1] == 1


def test_the_area_under_the_curve_equals_counting_pairs():
    rng = np.random.default_rng(0)
    positive, negative = rng.integers(3, 9, 40) / 10, rng.integers(0, 7, 50) / 10
    pairs = [(p > n) + (p == n) / 2 for p in positive for n in negative]
    assert results.area_under_curve(positive, negative) == pytest.approx(np.mean(pairs))


def side(**fields):
    given = {
        "method": "pixel",
        "aligned": False,
        "cases": [("exact", 1.0), ("blurred", 0.1), ("blurred", 0.2)],
        "scores": np.array([[1.0, 1.0, 1.0, 1.0], [0.9, 0.9, 0.1, 0.1], [0.9, 0.1, 0.1, 0.1]]),
        "right": np.ones((3, 4), bool),
        "innocents": np.full(20, 0.5),
        "check": np.array([0.4] * 9 + [0.6]),
        "seconds": 0.1,
    }
    return Side(**(given | fields))


def test_shares_count_right_matches_above_the_threshold():
    found = results.shares(side(), 0.05, seed=0)
    assert found.each.tolist() == [1.0, 0.5, 0.25]
    assert found.mean == pytest.approx((1 + (0.5 + 0.25) / 2) / 2)
    assert found.mean_ends[0] < found.mean < found.mean_ends[1]
    assert found.check_rate == 0.1
    wrong = np.ones((3, 4), bool)
    wrong[0, 0] = False
    assert results.shares(side(right=wrong), 0.05, seed=0).each.tolist() == [0.75, 0.5, 0.25]


def test_the_interval_takes_in_what_the_innocents_leave_open():
    """All pictures score the same; only the threshold can make the share uncertain."""
    scores = np.full((3, 4), 0.7)
    innocents = np.array([0.5] * 18 + [0.8] * 2)
    found = results.shares(side(scores=scores, innocents=innocents), 0.1, seed=0)
    assert found.each.tolist() == [1.0, 1.0, 1.0]
    assert found.each_ends.tolist() == [[0.0, 1.0]] * 3


def test_a_change_of_which_alignment_finds_fewer_is_named():
    plain = results.by_change([("a", 1.0), ("b", 1.0), ("b", 2.0)], np.array([1.0, 0.5, 0.7]))
    assert plain == {"a": 1.0, "b": pytest.approx(0.6)}
    assert results.lost(plain, {"a": 0.96, "b": 0.5}, 0.05) == ["b"]
