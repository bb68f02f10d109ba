"""Looks for every picture among the training pictures, with a method alone and with alignment of
its best candidates."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from PIL import Image

from benchmarks.copying.methods import Method
from utils.retrieval import candidates
from utils.retrieval.aligning import geometry
from utils.retrieval.aligning.aligned_pair import AlignedPair

CANDIDATES = 10  # of a picture, that are aligned
NOT_ALIGNED = -1.0  # the score of a picture where nothing could be aligned


class Aligns(Protocol):
    """What `utils.retrieval.aligning.align.Aligner` does."""

    def align(
        self, picture: torch.Tensor, candidates: Sequence[int]
    ) -> Sequence[AlignedPair | None]:
        """Align a picture with training pictures. picture: as geometry.thumbnail gives it."""


@dataclass(frozen=True)
class SecondLook:
    """What alignment needs of the training pictures, whichever method ranks them."""

    aligner: Aligns
    # picture as geometry.thumbnail gives it -> [T], how alike windows of both are
    windows: Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Found:
    """The best match of every picture."""

    match: np.ndarray  # [Q] int64, training pictures
    score: np.ndarray  # [Q]
    seconds: float  # that all took together
    candidates: np.ndarray  # [Q, k] int64, the training pictures that were looked at


@dataclass(frozen=True)
class Searcher:
    """A method with the training pictures and, if wanted, a second look."""

    method: Method
    vectors: np.ndarray  # [T, D], of the training pictures
    second: SecondLook | None = None

    def plain(self, pictures: Sequence[Image.Image]) -> Found:
        """The best match by the method alone."""
        started = time.perf_counter()
        scores = self.method.vectors(pictures) @ self.vectors.T
        match = scores.argmax(1)
        return Found(match, scores.max(1), time.perf_counter() - started, match[:, None])

    def aligned(self, pictures: Sequence[Image.Image]) -> Found:
        """The candidate that agrees best once it is aligned."""
        assert self.second is not None
        started = time.perf_counter()
        small = [geometry.thumbnail(picture) for picture in pictures]
        near = self.candidates(pictures, small)
        match, score = [], []
        for picture, row in zip(small, near, strict=True):
            kept = row[row >= 0]
            pairs = self.second.aligner.align(picture, kept.tolist())
            alike = [NOT_ALIGNED if pair is None else pair.aligned for pair in pairs]
            best = int(np.argmax(alike))
            match.append(kept[best])
            score.append(alike[best])
        return Found(np.array(match), np.array(score), time.perf_counter() - started, near)

    def candidates(
        self, pictures: Sequence[Image.Image], small: Sequence[torch.Tensor]
    ) -> np.ndarray:
        """The training pictures nearest to any view of each picture, and those whose windows are.
        small: the pictures as geometry.thumbnail gives them. [Q, CANDIDATES] int64."""
        assert self.second is not None
        views = []
        for view in self.method.views:
            seen = [candidates.VIEWS[view](picture) for picture in pictures]
            views.append(self.method.vectors(seen) @ self.vectors.T)
        scores = np.stack(views)
        indices = np.argsort(-scores, axis=2, kind="stable")[:, :, :CANDIDATES]
        best = np.take_along_axis(scores, indices, 2)
        first = candidates.best_of_views(best, indices, CANDIDATES)
        windows = np.stack([self.second.windows(picture).cpu().numpy() for picture in small])
        second = np.argsort(-windows, axis=1, kind="stable")[:, :CANDIDATES]
        return candidates.alternated(first, second, CANDIDATES)
