"""What the pages of an evaluation's gallery show: generated images beside their matches, and beside
the training image that each agrees with best."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from utils.reports import aligned_pictures, galleries
from utils.retrieval import second_look_shown
from utils.retrieval.aligning.aligned_pair import AlignedPair
from utils.retrieval.decided import Decided
from utils.retrieval.evaluation_sets import Sets
from utils.retrieval.measured import Measured

# a picture fitted into a square, and its width and height before that
Fitted = tuple[Image.Image, tuple[int, int]]

FLAT = "only flat areas are shared: nothing to align"


@dataclass(frozen=True)
class GalleryPages:
    """Draws pages, each of some generated images."""

    measured: Measured
    sets: Sets
    decided: Decided
    fitted: Callable[[bool, int], Fitted]  # opens an image: is it a training image?, its index
    columns: int  # matches in a row

    def plain(self, queries: np.ndarray) -> Image.Image:
        """A page without a second look. queries: indices of generated images. Returns: PIL RGB."""
        rows = [
            (self.fitted(False, q)[0], self._name(q), self._matches(q)) for q in map(int, queries)
        ]
        return galleries.match_page(rows, threshold=self._threshold, columns=self.columns)

    def aligned(self, queries: np.ndarray) -> Image.Image:
        """A page whose rows begin with the best aligned pair. Otherwise as `plain`."""
        copies = self.decided.copies(self.measured) if self.decided.by_alignment else None
        rows = [
            self._aligned_row(q, framed=copies is not None and bool(copies[q]))
            for q in map(int, queries)
        ]
        return aligned_pictures.aligned_page(rows, threshold=self._threshold, columns=self.columns)

    @property
    def _threshold(self) -> float | None:
        """Above which a match of the descriptor has a frame; None where alignment decides."""
        if self.decided.by_alignment:
            return None
        verdict = self.decided.verdict
        return self.measured.matches.threshold if verdict is None else verdict.threshold

    def _aligned_row(self, q: int, *, framed: bool) -> aligned_pictures.AlignedRow:
        picture, size = self.fitted(False, q)
        pair = second_look_shown.pair_of(self.measured, q)
        return aligned_pictures.AlignedRow(
            query=picture,
            size=size,
            name=self._name(q),
            pair=None if pair is None else self._pictures(pair, framed=framed),
            words=pair_in_words(pair, self.decided, q),
            matches=self._matches(q),
        )

    def _pictures(self, pair: AlignedPair, *, framed: bool) -> aligned_pictures.AlignedPictures:
        picture, size = self.fitted(True, pair.match)
        return aligned_pictures.AlignedPictures(
            match=picture,
            size=size,
            name=self.sets.training_images.keys[pair.match],
            aligned=pair.aligned,
            box_query=pair.box_query,
            box_match=pair.box_match,
            agreement=pair.agreement,
            framed=framed,
        )

    def _name(self, q: int) -> str:
        return self._names[q]

    @functools.cached_property
    def _names(self) -> list[str]:
        return shortest_endings([query.key for query in self.sets.queries])

    def _matches(self, q: int) -> list[galleries.Match]:
        matches, keys = self.measured.matches, self.sets.training_images.keys
        indices, scores = (
            values[q, : self.columns] for values in (matches.indices, matches.scores)
        )
        best = zip(indices, scores, strict=True)
        return [(self.fitted(True, int(m))[0], score, keys[m]) for m, score in best]


def shortest_endings(keys: Sequence[str]) -> list[str]:
    """The fewest last parts of each key that no other key ends with: "0.png", but "flip/0.png"
    where there is "exact/0.png".

    keys: paths with /, all different."""
    parts = [key.split("/") for key in keys]
    taken = [1] * len(keys)
    unclear = list(range(len(keys)))
    while unclear:
        ends = Counter("/".join(p[-n:]) for p, n in zip(parts, taken, strict=True))
        unclear = [
            i
            for i in unclear
            if taken[i] < len(parts[i]) and ends["/".join(parts[i][-taken[i] :])] > 1
        ]
        for i in unclear:
            taken[i] += 1
    return ["/".join(p[-n:]) for p, n in zip(parts, taken, strict=True)]


def pair_in_words(pair: AlignedPair | None, decided: Decided, query: int) -> list[str]:
    """The lines below a pair: what was done to the training picture; how much of
    it is there, whether a part was copied, and its near-duplicates."""
    if pair is None:
        return [FLAT]
    facts = [
        f"{100 * pair.copied_area:.0f} % of its details found again",
        "part copied" if decided.is_part(query) else "",
        second_look_shown.group_in_words(decided.group_of(pair.match)),
    ]
    return [pair.transformation.in_words(), ", ".join(filter(None, facts))]
