"""Rows of the study with given scores."""

import numpy as np

from benchmarks.study.rows import COMPLEXITY, Row


def row(
    arm,
    seed=1,
    *,
    score,
    source=None,
    duplicated=None,
    agreement=None,
    fd=100.0,
    key=None,
    **complexity,
):
    """A Row whose images are of prompts 0, 1, 2 ... unless `source` says otherwise."""
    count = len(score)
    return Row(
        key=key or f"{arm}-{seed}",
        arm=arm,
        seed=seed,
        images=4,
        training_seconds=60.0,
        seconds=6.0,
        date="2026-11-22",
        machine="a machine, 2 cores",
        metrics={
            "sim_mean": float(np.mean(score)),
            "sim_95pc": 0.9,
            "sim_dup": 0.75,
            "sim_nodup": 0.5,
            "fd": fd,
        },
        source=np.array(range(count) if source is None else source),
        score=np.array(score, float),
        duplicated=np.array([0] * count if duplicated is None else duplicated),
        agreement=np.array([0.6] * count if agreement is None else agreement, float),
        colours=np.array([0.9] * count),
        **{name: np.array(complexity.get(name, []), float) for name in COMPLEXITY},
    )
