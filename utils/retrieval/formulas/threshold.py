"""The calibrated threshold: the score that few enough innocents exceed, innocents being pictures
that nobody copied; and the share of copies by it, with the uncertainty of both."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from utils.retrieval.formulas.bootstrap import MOST_ENTRIES, ROUNDS, resamplings
from utils.runtime.seeding import numpy_rng


def allowed(count: int, false_positives: float) -> int:
    """How many of `count` innocents may exceed the threshold: floor(false_positives * count),
    without rounding errors of floats.

    false_positives: in [0, 1); ValueError otherwise."""
    if not 0 <= false_positives < 1:
        raise ValueError(f"a rate of false positives is in [0, 1), not {false_positives}")
    return math.floor(round(false_positives * count, 9))


def calibrated(scores: np.ndarray, false_positives: float) -> float:
    """The lowest score that at most the share `false_positives` of the innocents exceed.

    It is one of their scores: with m = allowed(N, false_positives), the m + 1st from the top. Equal
    scores exceed it together or not at all, so that fewer than m may exceed it.

    scores: [N] of innocents, N at least 1; ValueError if one is not finite."""
    scores = _finite(scores)
    return float(np.sort(scores)[::-1][allowed(len(scores), false_positives)])


def _finite(scores: np.ndarray) -> np.ndarray:
    scores = np.asarray(scores, np.float64)
    if not len(scores) or not np.isfinite(scores).all():
        raise ValueError("a threshold needs the scores of innocents, all of them finite")
    return scores


def resampled(
    scores: np.ndarray, false_positives: float, *, seed: int, rounds: int = ROUNDS
) -> np.ndarray:
    """The calibrated thresholds of innocents that are drawn with replacement.

    None is above the largest score that was seen: with few innocents the true uncertainty reaches
    further up, see `tellable_rate`.

    scores: [N] of innocents, as in `calibrated`. Returns: float64 [rounds]."""
    descending = np.sort(_finite(scores))[::-1]
    count, parts = len(descending), []
    exceeding = allowed(count, false_positives)
    rng, step = numpy_rng(seed, "bootstrap-innocents"), max(1, MOST_ENTRIES // count)
    for start in range(0, rounds, step):
        size = min(step, rounds - start)
        times = rng.multinomial(count, np.full(count, 1 / count), size=size)
        # the first place up to which more are drawn than may exceed the threshold
        parts.append(descending[(times.cumsum(1) > exceeding).argmax(1)])
    return np.concatenate(parts)


def interval(values: np.ndarray) -> tuple[float, float]:
    """The 2.5 and 97.5 percentiles of resampled values [R]."""
    low, high = np.percentile(values, (2.5, 97.5))
    return float(low), float(high)


def copies(scores: np.ndarray, threshold: float) -> np.ndarray:
    """Which scores are above a threshold; nan, for want of anything to compare, is not. [Q] ->
    [Q] bool."""
    return np.asarray(scores, np.float64) > threshold


def share_interval(
    scores: np.ndarray,
    clusters: Sequence[str],
    threshold: float,
    thresholds: np.ndarray,
    *,
    seed: int,
) -> tuple[float, float]:
    """95 % interval of the share of scores above a threshold that is itself uncertain: in every
    round, prompts are drawn with replacement and another threshold is taken.

    Where all or none are above the threshold, the interval is at least that of Clopper and Pearson
    for the number of prompts, as in `bootstrap.share`.

    scores: [Q]; nan is not above; clusters: [Q], the prompt of each image; thresholds: [R], of
    `resampled`. Returns: low end, high end."""
    scores, parts, first = np.asarray(scores, np.float64), [], 0
    for times in resamplings(clusters, seed=seed, rounds=len(thresholds)):
        drawn = thresholds[first : first + len(times), None]
        parts.append((times * (scores > drawn)).sum(1) / times.sum(1))
        first += len(times)
    low, high = interval(np.concatenate(parts))
    hits = copies(scores, threshold)
    width = 1 - 0.025 ** (1 / len(set(clusters)))
    if hits.all():
        return min(low, 1 - width), 1.0
    return (low, high) if hits.any() else (0.0, max(high, width))


def tellable_rate(count: int) -> float:
    """The lowest rate of false positives that `count` innocents can vouch for: where none of them
    exceeds a threshold, the true rate is below 3 / count with 95 % confidence (the rule of three:
    Hanley and Lippman-Hand, JAMA 1983). count: at least 1. In (0, 1]."""
    return min(1.0, 3 / count)


def rate_above(scores: np.ndarray, threshold: float) -> float:
    """The share of scores [N] above a threshold; nan is not above."""
    return float(copies(scores, threshold).mean())
