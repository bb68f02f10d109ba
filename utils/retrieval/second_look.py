"""The second look: each generated image is aligned with its best candidates, in all processes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from utils.retrieval import candidates
from utils.retrieval.aligning.aligned_pair import AlignedPair
from utils.retrieval.descriptors.network import Extractor

if TYPE_CHECKING:
    import torch
    from PIL import Image

    from utils.runtime.parallel import Processes

# torch and the modules of alignment are imported where they are used: the options read the views,
# and --help must answer at once

PICTURE = "picture"  # name of the features that are pictures for alignment
# training images that agree more than this once aligned are the same picture twice, and no
# innocents of each other
SAME = 0.95


@dataclass(frozen=True)
class SecondLook:
    """The alignment of every generated image with its candidates. Q generated images, k
    candidates of each."""

    # [Q] best by `aligned` of each generation; None: only flat overlap, nothing to align
    pairs: list[AlignedPair | None]
    aligned: np.ndarray  # [Q, k] of every candidate; nan where not aligned
    candidates: np.ndarray  # [Q, k] int64, training images; -1: none

    @property
    def best(self) -> np.ndarray:
        """`aligned` of the best pair of every image. [Q] float64; nan where nothing was aligned."""
        return np.array([np.nan if pair is None else pair.aligned for pair in self.pairs], float)

    @property
    def areas(self) -> np.ndarray:
        """The copied area of the best pair of every image, 0 to 1. [Q]; 0 where nothing was
        aligned."""
        return np.array([0.0 if pair is None else pair.copied_area for pair in self.pairs], float)


@dataclass(frozen=True)
class Described:
    """N pictures as candidates are searched for; in the main process."""

    views: list[
        torch.Tensor
    ]  # of the descriptor, each [N, D], normalised; the picture as it is first
    pictures: torch.Tensor  # [N, LENGTH] uint8, of geometry.thumbnail


class CandidateSource(Protocol):
    """Training images among which candidates are searched. Every process calls the methods."""

    def nearest(
        self, views: list[torch.Tensor] | None, k: int, own: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The k best training images of every view.

        views: [N, D] each, None on processes other than the main one
        own: [N], what the pictures may not match: their own groups; None: they may match all

        Returns: scores and indices, [V, N, k]; -1 for an empty place; on the main process."""

    def pictures(self, rows: np.ndarray) -> torch.Tensor | None:
        """Training images for alignment. rows: [n], ascending. [n, LENGTH] uint8; None on other
        processes."""

    def by_windows(
        self, pictures: torch.Tensor, k: int, own: np.ndarray | None
    ) -> np.ndarray | None:
        """The k best training images by windows, [N, k], in the main process; None where they are
        not searched."""


def _thumbnail(picture: Image.Image) -> torch.Tensor:
    from utils.retrieval.aligning import geometry

    return geometry.thumbnail(picture)


def _unchanged(pictures: torch.Tensor) -> torch.Tensor:
    return pictures


def picture_extractor() -> Extractor:
    """Reads pictures for alignment, in the same pass as all features. Its rows are uint8."""
    return Extractor(_thumbnail, _unchanged, {"picture": 1}, is_network=False)


# Candidates ---------------------------------------------------------------------------------------


def find_candidates(
    described: Described | None,
    source: CandidateSource,
    own: np.ndarray | None,
    *,
    count: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """The candidates of every picture, and the best matches of its plain view.

    described, own: as in CandidateSource, None on processes other than the main one

    Returns: candidates [N, count] int64, -1 for none; scores and indices of the plain view, [N, k];
    None on other processes."""
    views = None if described is None else described.views
    scores, found = source.nearest(views, count, own)
    if described is None:
        return None
    chosen = candidates.best_of_views(scores, found, count)
    with_windows = source.by_windows(described.pictures, count, own)
    if with_windows is not None:
        chosen = candidates.alternated(chosen, with_windows, count)
    return chosen, scores[0], found[0]


# Alignment ----------------------------------------------------------------------------------------


def look_again(
    described: Described | None,
    chosen: np.ndarray | None,
    source: CandidateSource,
    processes: Processes,
    *,
    below: float = np.inf,
    wrap: Callable[[Sequence[Any]], Iterable[Any]] = iter,
) -> SecondLook | None:
    """Align pictures with their candidates; processes share the pictures.

    described: None on processes other than the main one
    chosen: [N, k] int64, candidates of every picture, -1 for none; None on other processes
    below: a pair that agrees more is never the best of a picture
    wrap: of the pictures of this process, for a progress bar

    Returns: None on other processes."""
    from utils.retrieval.aligning.align import Aligner

    chosen = processes.share(chosen)
    rows = np.unique(chosen[chosen >= 0])
    training = source.pictures(rows)
    pictures, training = processes.share(
        None if described is None else (described.pictures, training)
    )
    first, last = (len(chosen) * (processes.index + n) // processes.count for n in (0, 1))
    aligner = Aligner(training, processes.device)

    def align(q: int) -> list[AlignedPair | None]:
        kept = chosen[q][chosen[q] >= 0]
        return aligner.align(pictures[q], np.searchsorted(rows, kept).tolist())

    with processes.together():
        own = in_threads(align, range(first, last), processes.device, wrap)
    parts = processes.gather(own)
    if not processes.main:
        return None
    return _collected([pairs for part in parts for pairs in part], chosen, rows, below)


def in_threads(
    align: Callable[[int], list[AlignedPair | None]],
    pictures: Sequence[int],
    device: torch.device,
    wrap: Callable[[Sequence[Any]], Iterable[Any]],
) -> list[list[AlignedPair | None]]:
    """Align pictures, on a CPU in as many threads as torch would use for one of them.

    The arrays of a picture are too small to share: threads that wait for each other within an
    operation take several times as long when another program uses the cores."""
    import torch

    threads = torch.get_num_threads() if device.type == "cpu" else 1
    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        waiting = [pool.submit(align, q) for q in pictures]
        return [future.result() for future in wrap(waiting)]


def _collected(
    found: list[list[AlignedPair | None]], chosen: np.ndarray, rows: np.ndarray, below: float
) -> SecondLook:
    """found: the pairs of every picture, in the order of its candidates; their `match` is a place
    in rows."""
    aligned = np.full(chosen.shape, np.nan)
    best: list[AlignedPair | None] = []
    for q, pairs in enumerate(found):
        for place, pair in enumerate(pairs):
            aligned[q, place] = np.nan if pair is None else pair.aligned
        known = [pair for pair in pairs if pair is not None and pair.aligned <= below]
        best.append(max(known, key=lambda pair: pair.aligned).of(rows) if known else None)
    return SecondLook(best, aligned, chosen)
