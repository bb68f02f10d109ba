"""Shares of copies that are found at a threshold that few innocents exceed, with intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

ROUNDS = 1000  # of resampling
ASKED = (0.01, 0.05)  # shares of innocents that may count as copies
Interval = tuple[float, float]


@dataclass(frozen=True)
class Side:
    """What one side, a method alone or with alignment, found in one set."""

    method: str
    aligned: bool
    cases: list[tuple[str, float]]  # (change, strength) of each row of scores
    scores: np.ndarray  # [C, Q], of the best match
    right: np.ndarray  # [C, Q] bool: the best match is the picture that was changed
    innocents: np.ndarray  # [I] scores that set the threshold
    check: np.ndarray  # [K] scores of other innocents
    seconds: float  # a picture

    @property
    def name(self) -> str:
        """Name for a reader."""
        return f"{self.method}, aligned" if self.aligned else self.method


def threshold_at(innocents: np.ndarray, asked: float) -> float:
    """The smallest score that at most a share `asked` of the innocents exceeds. innocents: [I]."""
    return float(np.sort(innocents)[::-1][math.floor(asked * len(innocents) + 1e-9)])


def wilson(hits: int, n: int) -> Interval:
    """95 % interval of a share (E. B. Wilson, J. Am. Stat. Assoc. 1927)."""
    z = 1.96
    middle = (hits + z * z / 2) / (n + z * z)
    half = z / (n + z * z) * math.sqrt(hits * (n - hits) / n + z * z / 4)
    return max(0.0, middle - half), min(1.0, middle + half)


def area_under_curve(positive: np.ndarray, negative: np.ndarray) -> float:
    """The chance that a copy scores higher than an innocent; a tie counts half."""
    ordered = np.sort(negative)
    below = np.searchsorted(ordered, positive, "left")
    up_to = np.searchsorted(ordered, positive, "right")
    return float((below + up_to).mean() / 2 / len(negative))


@dataclass(frozen=True)
class Shares:
    """Shares of copies found by a side at one rate of innocents; ends are of 95 % intervals."""

    threshold: float
    each: np.ndarray  # [C]
    each_ends: np.ndarray  # [C, 2]
    mean: float  # over changes, each the mean of its strengths
    mean_ends: Interval
    check_rate: float  # share of the innocents that did not set the threshold
    check_ends: Interval


def shares(side: Side, asked: float, *, seed: int) -> Shares:
    """The shares that a side finds. Intervals resample the pictures, the same ones in every
    change, and the innocents that set the threshold.

    asked: the share of innocents that may count."""
    threshold = threshold_at(side.innocents, asked)
    weights = weights_of(side.cases)
    found = (side.scores > threshold) & side.right
    rng = np.random.default_rng(seed)
    resampled = np.empty((ROUNDS, len(side.cases)))
    for i in range(ROUNDS):
        drawn = rng.integers(side.scores.shape[1], size=side.scores.shape[1])
        innocents = side.innocents[rng.integers(len(side.innocents), size=len(side.innocents))]
        above = side.scores[:, drawn] > threshold_at(innocents, asked)
        resampled[i] = (above & side.right[:, drawn]).mean(1)
    low, high = np.percentile(resampled @ weights, (2.5, 97.5))
    hits = int((side.check > threshold).sum())
    return Shares(
        threshold=threshold,
        each=found.mean(1),
        each_ends=np.percentile(resampled, (2.5, 97.5), axis=0).T,
        mean=float(found.mean(1) @ weights),
        mean_ends=(float(low), float(high)),
        check_rate=hits / len(side.check),
        check_ends=wilson(hits, len(side.check)),
    )


def weights_of(cases: Sequence[tuple[str, float]]) -> np.ndarray:
    """Weights of the cases in the mean over changes: [C], with sum 1."""
    names = [change for change, _ in cases]
    return np.array([1 / names.count(name) / len(set(names)) for name in names])


def areas(side: Side) -> np.ndarray:
    """The area under the curve of every case: [C]."""
    innocents = np.concatenate([side.innocents, side.check])
    return np.array([area_under_curve(scores, innocents) for scores in side.scores])


def by_change(cases: Sequence[tuple[str, float]], values: np.ndarray) -> dict[str, float]:
    """The mean over strengths of each change. values: [C]."""
    grouped: dict[str, list[float]] = {}
    for (change, _), value in zip(cases, values, strict=True):
        grouped.setdefault(change, []).append(float(value))
    return {change: float(np.mean(each)) for change, each in grouped.items()}


def lost(plain: Mapping[str, float], aligned: Mapping[str, float], margin: float) -> list[str]:
    """The changes of which alignment finds fewer copies, by more than a margin."""
    return [name for name, share in plain.items() if aligned[name] < share - margin]
