"""The second look and the verdict where the training images are an index: candidates are found
among its vectors, and their pictures are read where the index was built from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from utils.index.vector_index import VectorIndex
from utils.retrieval import features, innocents, second_look
from utils.retrieval import verdict_measurement as measuring
from utils.retrieval.decided import UNDECIDED, Decided
from utils.retrieval.evaluation_networks import Networks
from utils.retrieval.evaluation_request import EvaluationRequest
from utils.retrieval.features import ReaderSettings
from utils.retrieval.formulas.groups import NEAR_DUPLICATES
from utils.retrieval.innocents import InnocentSet
from utils.retrieval.second_look import SecondLook
from utils.runtime.errors import ToolkitError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

    from utils.runtime.parallel import Say

# matches of an innocent that are looked through for candidates that are no near-duplicates of it
MORE_MATCHES = 40

# normalised vectors [N, D], how many matches -> scores and rows, [N, k] each, the best first
Search = Callable[[np.ndarray, int], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class IndexSource:
    """Images of an index as candidates (a CandidateSource); rows of the index take the place of
    training images."""

    index: VectorIndex
    search: Search
    # similarity from which images are no innocents of each other; None: any may be
    near: float | None
    reading: ReaderSettings
    say: Say

    def nearest(
        self, views: list[torch.Tensor] | None, k: int, own: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """As CandidateSource; own: [N] rows of the index, which match neither themselves nor their
        near-duplicates."""
        processes = self.reading.processes
        sent = processes.share(None if views is None else [view.numpy() for view in views])
        found = [self.search(view, k + (0 if own is None else MORE_MATCHES)) for view in sent]
        scores, rows = (np.stack(side) for side in zip(*found, strict=True))
        if own is None:
            return scores, rows
        excluded = self._excluded(scores[0], rows[0], own)
        left = [self._without(s, r, excluded, k) for s, r in zip(scores, rows, strict=True)]
        return np.stack([s for s, _ in left]), np.stack([r for _, r in left])

    def _excluded(self, scores: np.ndarray, rows: np.ndarray, own: np.ndarray) -> list[set[int]]:
        """Rows that each image may not match: its own, and its near-duplicates among the matches of
        the image as it is."""
        near = np.inf if self.near is None else self.near
        return [
            {int(row), *found[score >= near].tolist()}
            for row, score, found in zip(own, scores, rows, strict=True)
        ]

    def _without(
        self, scores: np.ndarray, rows: np.ndarray, excluded: list[set[int]], k: int
    ) -> tuple[np.ndarray, np.ndarray]:
        pairs = zip(rows, excluded, strict=True)
        away = np.array([[int(r) in out for r in row] for row, out in pairs])
        order = np.argsort(away, axis=1, kind="stable")[:, :k]
        scores = np.where(away, -np.inf, scores)
        rows = np.where(away, -1, rows)
        return np.take_along_axis(scores, order, 1), np.take_along_axis(rows, order, 1)

    def pictures(self, rows: np.ndarray) -> torch.Tensor | None:
        """As CandidateSource. A picture that cannot be read is black, and so agrees with nothing; a
        line counts them."""
        import torch

        from utils.retrieval.aligning import geometry

        reader = {second_look.PICTURE: second_look.picture_extractor()}
        try:
            read, kept, bad = features.extract(self.index.images(rows), reader, self.reading)
        except ToolkitError as error:  # a disk or a server that fails now; vectors are enough
            read, kept, bad = {}, [], [("", str(error))]
        if bad:
            self.say(
                f"{len(rows) - len(kept)} of {len(rows)} candidates cannot be read to be aligned"
                f" ({bad[0][1]})"
            )
        if not self.reading.processes.main:
            return None
        black = torch.zeros(len(rows), geometry.LENGTH, dtype=torch.uint8)
        black[:, -2:] = geometry.SIDE
        if kept:
            black[torch.tensor(kept)] = read[second_look.PICTURE]
        return black

    def by_windows(
        self, pictures: torch.Tensor, k: int, own: np.ndarray | None
    ) -> np.ndarray | None:
        """None: an index holds no windows."""
        return None


def measure(
    request: EvaluationRequest,
    source: IndexSource,
    networks: Networks,
    read: Mapping[str, torch.Tensor],
    listed: InnocentSet | None,
    *,
    fixed: float | None,
) -> tuple[SecondLook | None, Decided]:
    """Align the generated images with their candidates, and set the threshold by innocents.

    read: {name of features: [Q, D]} of the generated images, on the main process
    listed: innocents that are pictures of their own; None: images of the index stand in
    fixed: the descriptor's threshold of a copy

    Returns: `candidates` and `match` are rows of the index; nothing decided on other processes."""
    how, reading = request.verdict, source.reading
    assert how is not None
    processes = reading.processes
    if listed is None:
        listed = _standing_in(source.index, request.flags.seed)
        source.say(f"innocents: {len(listed.images)} images of the index")
    pictures = measuring.described(read, how, main=processes.main)
    scored = measuring.score(pictures, source, None, how, processes, label="aligning")
    stamp = source.index.change_stamp
    try:
        found = measuring.score_innocents(listed, stamp, source, networks, how, reading)
    except ToolkitError as error:  # pictures of the index may be gone; its vectors are enough
        source.say(f"innocents cannot be read, so that no threshold is set by them: {error}")
        found = None
    if scored is None:
        return None, UNDECIDED
    innocent, areas = found or (None, np.empty(0))
    decided = measuring.decide(request, scored, innocent, areas, fixed=fixed, groups=None)
    return scored.look, decided


def _standing_in(index: VectorIndex, seed: int) -> InnocentSet:
    """Images of the index as innocents; an image's own group is its row."""
    rows = innocents.evenly(len(index), innocents.MOST_INNOCENTS, seed)
    return InnocentSet(index.images(rows), "training", rows, rows)


def near_of(descriptor: str, *, align: bool) -> float | None:
    """The similarity from which images are no innocents of each other: that of near-duplicates;
    None where alignment tells better which are the same picture twice, and where it is not known.

    descriptor: name of --pt_style"""
    return None if align else NEAR_DUPLICATES.get(descriptor)


def in_places(look: SecondLook | None, rows: np.ndarray) -> SecondLook | None:
    """A second look whose training images are rows of the index, with places among `rows`
    (ascending) instead."""
    if look is None:
        return None
    places = np.where(look.candidates < 0, -1, np.searchsorted(rows, look.candidates))
    pairs = [
        None if pair is None else replace(pair, match=int(np.searchsorted(rows, pair.match)))
        for pair in look.pairs
    ]
    return SecondLook(pairs, look.aligned, places)
