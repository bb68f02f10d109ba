import dataclasses
import json

import numpy as np
import pytest

from utils.retrieval import verdict
from utils.retrieval.formulas import bootstrap, threshold


def innocents(count=200, *, nan=0, source="holdout"):
    """Scores 0, 1/count, ...; the last `nan` could not be aligned. Descriptor scores 0 to 1."""
    scores = np.arange(count) / count
    scores[count - nan :] = np.nan
    return verdict.Innocents(scores, np.arange(count) / count, source)


def judged(given, **changes):
    flags = {"threshold_of": "aligned", "fixed": 0.9, "false_positives": 0.01, "seed": 0}
    return verdict.verdict_of(given, **(flags | changes))


def test_a_verdict_by_hand():
    found = judged(innocents(200))
    # two of 200 may exceed it: the third from the top
    assert found.threshold == 197 / 200
    assert found.threshold_lo <= found.threshold <= found.threshold_hi <= 199 / 200
    assert (found.threshold_of, found.innocents_n, found.innocents_from) == (
        "aligned",
        200,
        "holdout",
    )
    assert found.false_positives == 0.01
    assert found.false_positive_rate == 19 / 200  # 0.905 to 0.995
    assert found.void


@pytest.mark.parametrize(("fixed", "rate", "void"), [(0.95, 0.04, False), (0.945, 0.05, False)])
def test_up_to_five_percent_of_innocents_do_not_void_the_fixed_threshold(fixed, rate, void):
    found = judged(innocents(100), fixed=fixed)
    assert (found.false_positive_rate, found.void) == (pytest.approx(rate), void)
    assert judged(innocents(100), fixed=0.935).void  # 6 %


def test_a_descriptor_without_a_fixed_threshold_has_no_rate():
    found = judged(innocents(), fixed=None)
    assert (found.false_positive_rate, found.void) == (None, False)
    row = verdict.verdict_numbers(found, innocents(), np.zeros(3), ["a", "b", "c"], seed=0)
    assert "false_positive_rate" not in row


def test_fewer_than_twenty_innocents_set_no_threshold():
    assert judged(innocents(19)) is None
    assert judged(innocents(20)).innocents_n == 20
    # one that could not be aligned tells nothing
    assert judged(innocents(20, nan=1)) is None
    found = judged(innocents(200, nan=100))
    assert (found.innocents_n, found.threshold) == (100, 98 / 200)
    assert found.false_positive_rate == 19 / 200  # all have a descriptor


def test_numbers_of_metrics_json():
    given, scores = innocents(), np.array([0.99, 0.985, 0.5, 0.986, np.nan, 0.2])
    prompts = list("aabbcc")
    found = judged(given)
    row = verdict.verdict_numbers(found, given, scores, prompts, seed=0)
    assert row["copy_share_calibrated"] == 2 / 6  # 0.985 is the threshold itself
    assert row["copy_share_calibrated_n"] == 6
    drawn = threshold.resampled(given.scores, 0.01, seed=0)
    expected = threshold.share_interval(scores, prompts, found.threshold, drawn, seed=0)
    assert (row["copy_share_calibrated_lo"], row["copy_share_calibrated_hi"]) == expected
    assert row["innocents_calibrated_rate"] == 2 / 200
    assert row["false_positive_rate"] == 19 / 200
    assert (row["threshold"], row["innocents_n"]) == (197 / 200, 200)
    assert (row["threshold_lo"], row["threshold_hi"]) == (found.threshold_lo, found.threshold_hi)
    assert json.loads(json.dumps(row)) == row


def test_the_rate_of_innocents_is_never_above_the_one_asked_for():
    rng = np.random.default_rng(0)
    for rate in (0.0, 0.01, 0.05, 0.3):
        given = verdict.Innocents(rng.integers(0, 9, 90) / 9, rng.random(90), "training")
        found = judged(given, false_positives=rate)
        row = verdict.verdict_numbers(found, given, rng.random(8), list("aabbccdd"), seed=0)
        assert row["innocents_calibrated_rate"] <= rate


def test_part_copies_are_counted_apart():
    parts, prompts = np.array([True, False, False, True, False, False]), list("aabbcc")
    row = verdict.part_numbers(parts, prompts, seed=2)
    low, high = bootstrap.share(parts, prompts, seed=2)
    assert row == {
        "part_copied_share": 2 / 6,
        "part_copied_share_lo": low,
        "part_copied_share_hi": high,
        "part_copied_share_n": 6,
    }


def test_settings_of_metrics_json():
    assert verdict.verdict_settings(judged(innocents())) == {
        "threshold_of": "aligned",
        "innocents_from": "holdout",
        "false_positives": 0.01,
        "fixed_threshold_void": True,
    }
    assert set(verdict.verdict_settings(None).values()) == {None}


@pytest.mark.parametrize(
    ("share", "words"),
    [(0.12, "12"), (0.004, "0.4"), (0.0004, "0.04"), (0, "0"), (1, "100"), (0.995, "99.5")],
)
def test_shares_in_percent(share, words):
    assert verdict.percent(share) == words


def test_the_sentences():
    assert verdict.few_innocents_sentence(12) == (
        "12 innocent pictures are too few to set a threshold (20 are needed): copies are counted"
        " by the fixed threshold alone."
    )
    found = judged(innocents())
    assert verdict.tellable_sentence(found) is None
    few = dataclasses.replace(found, innocents_n=60)
    assert verdict.tellable_sentence(few) == (
        "60 innocent pictures can vouch for a rate of 5 %, not of 1 % (rule of three): give more"
        " with --innocent_dir."
    )
    assert verdict.tellable_sentence(dataclasses.replace(few, false_positives=0.1)) is None
