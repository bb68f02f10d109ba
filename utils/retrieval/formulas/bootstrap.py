"""Intervals by resampling prompts: images of one prompt are not independent of each other."""

import numpy as np

from utils.runtime.seeding import numpy_rng

AT_ONCE = 4_000_000  # entries of [rounds, Q] that are held: 32 MB an array


def mean(values, times):
    """Mean of every resampling. values: [Q]; times: [R, Q], how often each value was drawn.
    Returns: [R]."""
    return times @ values / times.sum(1)


def percentile(q):
    """The statistic that is the linear percentile q, 0 to 100, as np.percentile has it of the
    values repeated."""

    def statistic(values, times):
        order = np.argsort(values, kind="stable")
        values, drawn = values[order], times[:, order].cumsum(1)
        position = (drawn[:, -1] - 1) * (q / 100)
        # where in sorted values the item of a rank stands: after all whose running count does not
        # exceed the rank
        low, high = (
            values[(drawn <= rank[:, None]).sum(1)]
            for rank in (np.floor(position), np.ceil(position))
        )
        return low + (position - np.floor(position)) * (high - low)

    return statistic


def resamplings(clusters, *, seed, rounds):
    """How often each image is drawn when whole prompts are drawn with replacement, in blocks of
    rounds.

    clusters: [Q], the prompt of each image. Yields: [R, Q] int64, `rounds` rows in all; the block
    size changes no draw."""
    names = {name: i for i, name in enumerate(sorted(set(clusters)))}
    number = np.array([names[name] for name in clusters])
    rng, count = numpy_rng(seed, "bootstrap"), len(names)
    step = max(1, AT_ONCE // len(number))
    for start in range(0, rounds, step):
        yield rng.multinomial(count, np.full(count, 1 / count), size=min(step, rounds - start))[
            :, number
        ]


def share(hits, clusters, *, seed):
    """95 % interval of a share, resampling prompts. hits: [Q] bool; clusters: [Q], the prompt of
    each.

    Where all or none are hits every resampling is the same, which says nothing: then the interval
    is Clopper and Pearson's of the number of *prompts*, as if the images of a prompt were one.
    Returns: (low, high)."""
    hits = np.asarray(hits, bool)
    if hits.any() and not hits.all():
        return bootstrap_statistic(hits, clusters, mean, seed=seed)
    room = 1 - 0.025 ** (1 / len(set(clusters)))
    return (1 - room, 1.0) if hits.all() else (0.0, room)


def bootstrap_statistic(values, clusters, statistic, *, seed, rounds=2000):
    """95 % interval of a statistic of `values`, resampling prompts.

    values: [Q]; clusters: [Q], the prompt of each; statistic: (values [Q], times [R, Q]) -> [R],
    such as `mean`. Returns: (low, high), the 2.5 and 97.5 percentiles of `rounds` resamplings.
    ValueError unless both have one length."""
    values = np.asarray(values, np.float64)
    if len(values) != len(clusters):
        raise ValueError(f"{len(values)} values of {len(clusters)} prompts")
    found = [statistic(values, times) for times in resamplings(clusters, seed=seed, rounds=rounds)]
    return tuple(float(v) for v in np.percentile(np.concatenate(found), (2.5, 97.5)))
