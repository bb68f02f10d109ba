"""Looks for every picture among the training pictures, with a method alone and with alignment of
its best candidates."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.copying.methods import VIEWS, Method

CANDIDATES = 10  # of a picture, that are aligned
NOT_ALIGNED = -1.0  # the score of a picture where nothing could be aligned


@dataclass(frozen=True)
class Found:
    """The best match of every picture."""

    match: np.ndarray  # [Q] int64, training pictures
    score: np.ndarray  # [Q]
    seconds: float  # that all took together


@dataclass(frozen=True)
class Searcher:
    """A method with the training pictures and, if wanted, an aligner."""

    method: Method
    training: list[Image.Image]  # RGB
    vectors: np.ndarray  # [T, D], of the training pictures
    aligner: Any = None  # has align(query [H, W, 3], candidates) -> [AlignedPair or None]

    def plain(self, pictures: Sequence[Image.Image]) -> Found:
        """The best match by the method alone."""
        started = time.perf_counter()
        scores = self.method.vectors(pictures) @ self.vectors.T
        match = scores.argmax(1)
        return Found(match, scores.max(1), time.perf_counter() - started)

    def aligned(self, pictures: Sequence[Image.Image]) -> Found:
        """The candidate that agrees best once it is aligned."""
        started = time.perf_counter()
        match, score = [], []
        training = [np.asarray(picture) for picture in self.training]
        candidates = self.candidates(pictures)
        for picture, near in zip(pictures, candidates, strict=True):
            pairs = self.aligner.align(np.asarray(picture), [training[i] for i in near])
            alike = [NOT_ALIGNED if pair is None else pair.aligned for pair in pairs]
            best = int(np.argmax(alike))
            match.append(near[best])
            score.append(alike[best])
        return Found(np.array(match), np.array(score), time.perf_counter() - started)

    def candidates(self, pictures: Sequence[Image.Image]) -> np.ndarray:
        """The training pictures nearest to any view of each picture: [Q, CANDIDATES] int64."""
        scores = [
            self.method.vectors([VIEWS[view](picture) for picture in pictures]) @ self.vectors.T
            for view in self.method.views
        ]
        best = np.max(scores, axis=0)
        return np.argsort(-best, axis=1, kind="stable")[:, :CANDIDATES]
