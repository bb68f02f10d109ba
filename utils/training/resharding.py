"""Re-sharding between the rounds of an ensemble: images that anti-gradient control skips most
change places with images of the next split.

An image that its copy has memorized is skipped at nearly every draw, so that the copy learns
nothing from it any more; a copy that has never seen it can. Re-sharding of memorized samples is an
idea of Guan et al. 2025 (arXiv 2502.09434), of which neither the text nor a program was available
to us: the rule of this module is ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from utils.data.duplication import share_of
from utils.runtime import devices

if TYPE_CHECKING:
    from utils.data.training_data import CaptionedImages

LEAST_DRAWS = 3  # in a round, of an image whose share of skips is looked at


class Move(NamedTuple):
    """An image that changed its split after a round."""

    round: int  # the round that was over, from 1
    image: int  # its number among the images of the run
    before: int  # its split
    after: int
    drawn: int  # of the round: how often it was drawn
    skipped: int  # and of these skipped


def exchanges(
    splits: Sequence[np.ndarray],
    counts: np.ndarray,
    keys: Sequence[str],
    *,
    share: float,
    groups: Sequence[str] | None = None,
) -> list[tuple[int, int]]:
    """Which images change places after a round: (an image of a split, its partner in the next
    split).

    Of each split the images that were drawn LEAST_DRAWS times or more and skipped in the largest
    shares of these draws leave, `share` of the split (one at least, none that was never skipped),
    for the next split; the last is followed by the first. Each gets the partner that was skipped in
    the smallest share, of those that were drawn as often, do not leave themselves and have no
    partner yet; without one it stays. Equal shares go by path.

    splits: numbers of the images of each split; counts: [N, 2], drawn and skipped in the round;
    keys: paths of the N images; share: in (0, 0.5]; groups: [N], partners share one."""
    drawn, skipped = counts.T
    rates = skipped / np.maximum(drawn, 1)
    seen = [[int(i) for i in split if drawn[i] >= LEAST_DRAWS] for split in splits]
    leaving = [
        sorted((i for i in images if skipped[i]), key=lambda i: (-rates[i], keys[i]))[
            : max(1, share_of(len(split), share))
        ]
        for split, images in zip(splits, seen, strict=True)
    ]
    found: list[tuple[int, int]] = []
    for number, own in enumerate(leaving):
        place = (number + 1) % len(splits)
        free = sorted(set(seen[place]) - set(leaving[place]), key=lambda i: (rates[i], keys[i]))
        free = [i for i in free if i not in {partner for _, partner in found}]
        for image in own:
            fitting = (i for i in free if groups is None or groups[i] == groups[image])
            partner = next(fitting, None)
            if partner is not None:
                free.remove(partner)
                found.append((image, partner))
    return found


class Resharding:
    """The splits of a run whose images change places.

    Two images that change places take over each other's draws, so that all others are drawn as
    before and every split keeps its size."""

    def __init__(
        self,
        data: CaptionedImages,
        splits: Sequence[np.ndarray],
        *,
        share: float,
        groups: Sequence[str] | None = None,
    ):
        """data: of all splits; splits: before the first round; share, groups: as in `exchanges`."""
        self.data, self.first, self.share, self.groups = data, splits, share, groups
        self.splits = [split.copy() for split in splits]
        self.moves: list[Move] = []  # of all rounds, in order; each pair one after the other
        # [N, 2]: drawn and skipped by the copies of this process before the present round
        self.counted = torch.zeros(len(data.rows), 2, dtype=torch.int32)

    def of_round(self, counts: torch.Tensor) -> torch.Tensor:
        """What was drawn and skipped since the last call. counts: [N, 2] int32, since the start.
        Returns: the same on the CPU."""
        before, self.counted = self.counted, devices.to_host(counts)
        return self.counted - before

    def end_round(self, number: int, counts: np.ndarray) -> list[int]:
        """Let images change places. number: of the round that is over, from 1; counts: [N, 2],
        drawn and skipped in it. Returns: the numbers of the images that moved."""
        keys = self.data.images.keys
        pairs = exchanges(self.splits, counts, keys, share=self.share, groups=self.groups)
        of = {int(i): split for split, part in enumerate(self.splits) for i in part}
        for pair in pairs:
            for image, other in (pair, pair[::-1]):
                drawn, skipped = map(int, counts[image])
                self.moves.append(Move(number, image, of[image], of[other], drawn, skipped))
            self._swap(*pair)
        return [image for pair in pairs for image in pair]

    def _swap(self, image, other):
        places = [
            (part, np.flatnonzero(part == each)) for each in (image, other) for part in self.splits
        ]
        (here, at), (there, other_at) = [(part, found) for part, found in places if len(found)]
        here[at], there[other_at] = other, image

    def rows(self) -> list[tuple[int, str, int, int, int, int]]:
        """The moves as rows of resharding.csv: paths in the place of numbers."""
        return [(move.round, self.data.images.keys[move.image], *move[2:]) for move in self.moves]

    def data_of(self, split: int) -> CaptionedImages:
        """The images of a split."""
        return self.data.take(self.splits[split])

    # States ---------------------------------------------------------------------------------------

    def state(self) -> dict[str, torch.Tensor]:
        """What a resumed run needs: "moves", int64 [M, 6], and "counted"."""
        moves = torch.tensor(self.moves, dtype=torch.int64).reshape(-1, len(Move._fields))
        return {"moves": moves, "counted": self.counted}

    def load(self, state: Mapping[str, torch.Tensor]) -> None:
        """Make the moves of a state again. state: as `state` gives it."""
        self.counted, moves = state["counted"], state["moves"]
        self.splits = [split.copy() for split in self.first]
        self.moves = [Move(*row) for row in moves.tolist()]
        for one, other in zip(self.moves[::2], self.moves[1::2], strict=True):
            self._swap(one.image, other.image)
