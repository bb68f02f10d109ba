"""Intervals by resampling prompts: images of one prompt are not independent of each other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from utils.runtime.seeding import numpy_rng

MOST_ENTRIES = 4_000_000  # of [rounds, Q] that are held at once: 32 MB an array
ROUNDS = 2000

# (values [Q], times [R, Q] that each value was drawn) -> its value in each resampling, [R]
Statistic = Callable[[np.ndarray, np.ndarray], np.ndarray]


def mean(values: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Mean of every resampling (a Statistic)."""
    return times @ values / times.sum(1)


def percentile(q: float) -> Statistic:
    """The statistic that is the linear percentile q, 0 to 100, as np.percentile computes it from
    the repeated values."""

    def statistic(values: np.ndarray, times: np.ndarray) -> np.ndarray:
        order = np.argsort(values, kind="stable")
        values, drawn = values[order], times[:, order].cumsum(1)
        position = (drawn[:, -1] - 1) * (q / 100)
        # index, in the sorted values, of the item of a rank: after all values whose running count
        # does not exceed the rank
        low, high = (
            values[(drawn <= rank[:, None]).sum(1)]
            for rank in (np.floor(position), np.ceil(position))
        )
        return low + (position - np.floor(position)) * (high - low)

    return statistic


def resamplings(clusters: Sequence[str], *, seed: int, rounds: int) -> Iterator[np.ndarray]:
    """How often each image is drawn when whole prompts are drawn with replacement, in blocks of
    rounds.

    clusters: [Q], the prompt of each image

    Yields: [R, Q] int64, `rounds` rows in all; the size of the blocks changes no draw."""
    names = {name: i for i, name in enumerate(sorted(set(clusters)))}
    number = np.array([names[name] for name in clusters])
    rng, count = numpy_rng(seed, "bootstrap"), len(names)
    step = max(1, MOST_ENTRIES // len(number))
    for start in range(0, rounds, step):
        size = min(step, rounds - start)
        yield rng.multinomial(count, np.full(count, 1 / count), size=size)[:, number]


def share(hits: np.ndarray, clusters: Sequence[str], *, seed: int) -> tuple[float, float]:
    """95 % interval of a share, by resampling prompts.

    Where all or none are hits every resampling is the same and shows no uncertainty. The interval
    is then Clopper and Pearson's for the number of *prompts*, as if each had one image.

    hits: [Q] bool
    clusters: [Q], the prompt of each image

    Returns: low end, high end."""
    return shares(np.asarray(hits, bool)[:, None], clusters, seed=seed)[0]


def shares(hits: np.ndarray, clusters: Sequence[str], *, seed: int) -> list[tuple[float, float]]:
    """`share` of each column of hits, [Q, S] bool, from the same resamplings. Returns: S pairs."""
    width = 1 - 0.025 ** (1 / len(set(clusters)))
    settled = {True: (1 - width, 1.0), False: (0.0, width)}
    mixed = [column for column in range(hits.shape[1]) if len(set(hits[:, column].tolist())) > 1]
    found = {}
    if mixed:
        values = hits[:, mixed].astype(np.float64)
        for column, ends in zip(mixed, _intervals(values, clusters, seed=seed), strict=True):
            found[column] = ends
    return [found.get(c) or settled[bool(hits[0, c])] for c in range(hits.shape[1])]


def _intervals(
    values: np.ndarray, clusters: Sequence[str], *, seed: int
) -> list[tuple[float, float]]:
    """95 % intervals of the means of columns, [Q, S]. ValueError as `bootstrap_statistic`."""
    if len(values) != len(clusters):
        raise ValueError(f"{len(values)} values of {len(clusters)} prompts")
    blocks = [
        times @ values / times.sum(1)[:, None]
        for times in resamplings(clusters, seed=seed, rounds=ROUNDS)
    ]
    ends = np.percentile(np.concatenate(blocks), (2.5, 97.5), axis=0)
    return [(float(low), float(high)) for low, high in ends.T]


def bootstrap_statistic(
    values: Sequence[float] | np.ndarray,
    clusters: Sequence[str],
    statistic: Statistic,
    *,
    seed: int,
    rounds: int = ROUNDS,
) -> tuple[float, float]:
    """95 % interval of a statistic, by resampling prompts.

    values: [Q]
    clusters: [Q], the prompt of each image; ValueError if there are not as many

    Returns: the 2.5 and 97.5 percentiles over `rounds` resamplings."""
    values = np.asarray(values, np.float64)
    if len(values) != len(clusters):
        raise ValueError(f"{len(values)} values of {len(clusters)} prompts")
    blocks = [statistic(values, times) for times in resamplings(clusters, seed=seed, rounds=rounds)]
    low, high = np.percentile(np.concatenate(blocks), (2.5, 97.5))
    return float(low), float(high)
