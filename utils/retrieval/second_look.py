"""What the second look finds: each generated image aligned with its best candidates."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from utils.retrieval.aligning.aligned_pair import AlignedPair


@dataclass(frozen=True)
class SecondLook:
    """The alignment of every generated image with its candidates. Q generated images, k
    candidates of each."""

    # [Q] best by `aligned` of each generation; None: only flat overlap, nothing to align
    pairs: list[AlignedPair | None]
    aligned: np.ndarray  # [Q, k] of every candidate; nan where not aligned
    candidates: np.ndarray  # [Q, k] int64, training images; -1: none
