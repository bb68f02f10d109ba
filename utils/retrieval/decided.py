"""What was decided of an evaluation's images beyond what was measured: who is a copy, of what a
part was copied, which training images are near-duplicates."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from utils.retrieval.measured import Measured
from utils.retrieval.verdict import Innocents, Verdict

ALIGNED = "aligned"  # Verdict.threshold_of where alignment decides


@dataclass(frozen=True)
class Decided:
    """Decisions about Q generated images and M training images; a part that was not decided is
    None."""

    verdict: Verdict | None = None
    innocents: Innocents | None = None
    part_copied: np.ndarray | None = None  # [Q] bool, a large part of the training picture is there
    near_duplicates: np.ndarray | None = None  # [M] int64, others in the training image's group

    @property
    def is_known(self) -> bool:
        """Whether anything was decided."""
        parts = (self.verdict, self.innocents, self.part_copied, self.near_duplicates)
        return any(part is not None for part in parts)

    @property
    def by_alignment(self) -> bool:
        """Whether the calibrated threshold is one of `aligned`."""
        return self.verdict is not None and self.verdict.threshold_of == ALIGNED

    def copies(self, measured: Measured) -> np.ndarray | None:
        """Which generated images count as copies: by the calibrated threshold where there is one,
        else by the fixed one. [Q] bool; None without either."""
        if self.verdict is not None:
            return deciding_scores(measured, self) > self.verdict.threshold
        fixed = measured.matches.threshold
        return None if fixed is None else measured.matches.best > fixed

    def is_part(self, query: int) -> bool | None:
        """Whether a part was copied; None where that is not known."""
        return None if self.part_copied is None else bool(self.part_copied[query])

    def group_of(self, image: int) -> int | None:
        """How many training images are in the near-duplicate group of one, itself included; None
        for one without near-duplicates, and where groups are not known."""
        if self.near_duplicates is None or self.near_duplicates[image] == 0:
            return None
        return int(self.near_duplicates[image]) + 1


UNDECIDED = Decided()


def best_aligned(measured: Measured) -> np.ndarray:
    """`aligned` of every generated image and its best aligned training image. [Q] float64; nan
    where only flat overlap was found, and without a second look."""
    look = measured.second_look
    if look is None:
        return np.full(len(measured.matches.best), np.nan)
    return look.best


def deciding_scores(measured: Measured, decided: Decided) -> np.ndarray:
    """The score of every generated image that the threshold is compared with. [Q]; nan where
    alignment decides and found nothing to align."""
    return best_aligned(measured) if decided.by_alignment else measured.matches.best


def order_shown(measured: Measured) -> np.ndarray:
    """The generated images in the order of page and gallery. [Q] int64.

    By `aligned` where the second look ran, those without anything to align last; else, and among
    equals, by the descriptor's score; then as in their folder."""
    best = -measured.matches.best
    if measured.second_look is None:
        return np.argsort(best, kind="stable")
    return np.lexsort((best, -best_aligned(measured)))  # nan is last
