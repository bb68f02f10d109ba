"""Alignment of a generated image with its candidates: coarse search, refinement, agreement."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from utils.retrieval.aligning import coarse, geometry
from utils.retrieval.aligning.agreement import Agreement, agreement, copied_area, trusted
from utils.retrieval.aligning.aligned_pair import AlignedPair
from utils.retrieval.aligning.geometry import Fitted, Placements
from utils.retrieval.aligning.refine import refined

STARTS = 4  # placements of each candidate that are refined
COARSE_STEPS, FINE_STEPS = 6, 4  # iterations at 32 and at 64 pixels
KEPT_PICTURES = 600  # training pictures whose spectra stay in memory: 0.3 MB each


@dataclass(frozen=True)
class _Prepared:
    """A picture in the forms that alignment needs."""

    full: Fitted
    small: Fitted
    size: tuple[int, int]  # width and height within the square

    @classmethod
    def of(cls, picture: torch.Tensor) -> _Prepared:
        full = geometry.fitted(picture)
        return cls(full, geometry.at_side(full, coarse.SIDE), geometry.sides_of(picture))


class Aligner:
    """Aligns generated images with training pictures.

    training: [M, LENGTH] uint8, as geometry.thumbnail gives them; device: that computes"""

    def __init__(self, training: torch.Tensor, device: torch.device) -> None:
        self.training, self.device = training, device
        self._match = functools.lru_cache(KEPT_PICTURES)(self._prepare_match)

    def _prepare_match(self, index: int) -> tuple[_Prepared, coarse.Spectra]:
        prepared = _Prepared.of(self.training[index].to(self.device))
        return prepared, coarse.match_spectra(prepared.small)

    @torch.no_grad()
    def align(self, picture: torch.Tensor, candidates: Sequence[int]) -> list[AlignedPair | None]:
        """Align a generated image with training pictures.

        picture: [LENGTH] uint8
        candidates: their indices

        Returns: what was found of each candidate; None where every overlap is too small or flat."""
        query = _Prepared.of(picture.to(self.device))
        matches = [self._match(index) for index in candidates]
        starts = self._starts(query, matches)
        owner = [i for i, s in enumerate(starts) for _ in range(len(s.linear))]
        if not owner:
            return [None] * len(candidates)
        prepared = [match for match, _ in matches]
        best, owner = self._refine(query, prepared, Placements.joined(starts), owner)
        over = geometry.warped(query.full, best, geometry.SIDE)
        found = agreement(over, _stacked([prepared[o].full for o in owner]))
        pairs: list[AlignedPair | None] = [None] * len(candidates)
        for row, place in enumerate(owner):
            sizes = (query.size, prepared[place].size)
            pairs[place] = _pair(candidates[place], best, found, row, sizes)
        return pairs

    def _starts(
        self, query: _Prepared, matches: list[tuple[_Prepared, coarse.Spectra]]
    ) -> list[Placements]:
        """The placements of each candidate that are refined."""
        spectra = coarse.query_spectra(query.small)
        starts, under = [], {}
        for match, found in matches:
            if match.size not in under:
                under[match.size] = coarse.beneath(spectra, found)
            best, _ = coarse.best_placements(spectra, found, under[match.size], count=STARTS)
            whole = geometry.whole_over_whole(query.size, match.size).to(self.device)
            starts.append(Placements.joined([best, whole]))
        return starts

    def _refine(
        self, query: _Prepared, matches: list[_Prepared], start: Placements, owner: list[int]
    ) -> tuple[Placements, list[int]]:
        """Refine all starts at a small size, then the best of each candidate at full size. owner:
        position of each start's candidate. Returns: a placement for each candidate that has one,
        and the positions of these candidates."""
        small = _stacked([matches[o].small for o in owner])
        rough, alike = refined(query.small, small, start, iterations=COARSE_STEPS)
        over = geometry.warped(query.small, rough, coarse.SIDE)
        scores = trusted(alike, over.colours, small.colours, over.mask * small.mask)
        kept: dict[int, int] = {}
        for row, candidate in enumerate(owner):
            if candidate not in kept or scores[row] > scores[kept[candidate]]:
                kept[candidate] = row
        full = _stacked([matches[o].full for o in kept])
        chosen = rough.take(torch.tensor(list(kept.values()), device=self.device))
        best, _ = refined(query.full, full, chosen, iterations=FINE_STEPS)
        return best, list(kept)


def _stacked(pictures: list[Fitted]) -> Fitted:
    return Fitted(torch.cat([p.colours for p in pictures]), torch.cat([p.mask for p in pictures]))


def _pair(
    match: int,
    best: Placements,
    found: Agreement,
    row: int,
    sizes: tuple[tuple[int, int], tuple[int, int]],
) -> AlignedPair:
    """The record of one candidate. row: its row in `best` and `found`; sizes: (width, height) of
    both pictures within their squares."""
    linear, shift = best.linear[row].cpu().numpy(), best.shift[row].cpu().numpy()
    local = found.local[row].cpu().numpy()
    box_query, box_match = geometry.boxes_of(linear, shift, *sizes)
    return AlignedPair(
        match=match,
        aligned=float(found.scores[row]),
        transformation=geometry.transformation_of(linear, shift),
        box_query=box_query,
        box_match=box_match,
        copied_area=copied_area(local, found.detailed[row].cpu().numpy()),
        agreement=(255 * local).astype(np.uint8),
    )
