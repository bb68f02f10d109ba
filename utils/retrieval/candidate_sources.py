"""Where candidates for alignment come from when all training images were read: their descriptors,
and their pictures."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from utils.retrieval.formulas import groups as near_duplicates
from utils.retrieval.formulas import similarity as sim
from utils.retrieval.innocents import matches_of_others

if TYPE_CHECKING:
    import torch

    from utils.retrieval.aligning.windows import WindowSearch

MOST_GROUPED = 20_000  # training images whose near-duplicates are looked for: the cost is quadratic


@dataclass(frozen=True)
class ReadTraining:
    """Training images that were all read (a CandidateSource); empty on processes other than the
    main one."""

    descriptors: torch.Tensor | None = None  # [M, D], normalised
    thumbnails: torch.Tensor | None = None  # [M, LENGTH] uint8; None: nothing is aligned
    # [M], labels of the images with which an image that stands in for an innocent is not compared
    own: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    near_duplicates: np.ndarray | None = None  # [M], labels of their groups; None: not known
    options: Mapping[str, Any] | None = None  # of similarity.top_matches

    @functools.cached_property
    def _windows(self) -> WindowSearch | None:
        """The windows of all training images: both generated images and innocents are searched."""
        from utils.retrieval.aligning.windows import MOST_PICTURES, WindowSearch

        if self.thumbnails is None or len(self.thumbnails) > MOST_PICTURES:
            return None
        return WindowSearch(self.thumbnails, self.thumbnails.device)

    def nearest(
        self, views: list[torch.Tensor] | None, k: int, own: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """As CandidateSource; own: [N], labels of groups."""
        if views is None or self.descriptors is None:
            return np.empty((0, 0, k)), np.empty((0, 0, k), np.int64)
        options = dict(self.options or {})
        found = []
        for view in views:
            if own is None:
                best = sim.top_matches(view, self.descriptors, k=k, **options)
                found.append(tuple(part.numpy() for part in best))
            else:
                found.append(
                    matches_of_others(
                        view, self.descriptors, own_group=own, groups=self.own, k=k, **options
                    )
                )
        return np.stack([scores for scores, _ in found]), np.stack([rows for _, rows in found])

    def pictures(self, rows: np.ndarray) -> torch.Tensor | None:
        """As CandidateSource."""
        return None if self.thumbnails is None else self.thumbnails[rows]

    def by_windows(
        self, pictures: torch.Tensor, k: int, own: np.ndarray | None
    ) -> np.ndarray | None:
        """As CandidateSource; None of more than windows.MOST_PICTURES training images."""
        search = self._windows
        if search is None:
            return None
        found = np.full((len(pictures), min(k, len(search.vectors))), -1, np.int64)
        for n, picture in enumerate(pictures):
            scores = search.scores(picture).cpu().numpy()
            if own is not None:
                scores = np.where(self.own == own[n], -np.inf, scores)
            order = np.argsort(-scores, kind="stable")[: found.shape[1]]
            found[n] = np.where(np.isfinite(scores[order]), order, -1)
        return found


def labels_of(
    descriptors: torch.Tensor, descriptor: str, device: torch.device
) -> np.ndarray | None:
    """The groups of near-duplicates among training images, as --dedup finds them; None where the
    descriptor has no threshold for them, or there are more than MOST_GROUPED.

    descriptors: [M, D], normalised; descriptor: name of --pt_style"""
    threshold = near_duplicates.NEAR_DUPLICATES.get(descriptor)
    if threshold is None or len(descriptors) > MOST_GROUPED:
        return None
    return near_duplicates.group_labels(descriptors, threshold, device=device)
