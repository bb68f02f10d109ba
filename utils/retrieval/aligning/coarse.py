"""The first step of alignment: all shifts at once, over a grid of scales and rotations and both
orientations.

At each of them the zero-normalised cross-correlation over the overlap follows from a few Fourier
transforms (D. Padfield, "Masked object registration in the Fourier domain", IEEE Transactions on
Image Processing 2012). Means are taken out over the overlap; pictures are grey here, as colours
tell little at this size.

Where the training picture's content is smaller in the generated image, the training picture is
shrunk; where it is larger, the generated image is. So no picture is ever larger than SIDE, and a
shift by more than half of it leaves less than half of the smaller picture."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.functional import pad

from utils.retrieval.aligning import geometry
from utils.retrieval.aligning.geometry import Fitted, Placements

SIDE = 32  # pixels
REACH = SIDE // 2  # the largest shift in pixels, along each side
PERIOD = SIDE + REACH  # of the Fourier transforms: shifts up to REACH do not wrap around
SHIFTS = 2 * REACH + 1
SCALES = (0.5, 0.595, 0.707, 0.841, 1.0, 1.189, 1.414, 1.682, 2.0)  # steps of a quarter octave
ROTATIONS = (-12.0, -6.0, 0.0, 6.0, 12.0)  # degrees; refinement reaches the angles between
LEAST_OVERLAP = 0.5  # of the smaller picture
FLAT = 0.02  # standard deviation, of the range of values, at which an overlap counts as flat
NOT_POSSIBLE = -9.0  # the score of a shift with too little or a flat overlap
LUMINANCE = (0.299, 0.587, 0.114)  # ITU-R BT.601

_TURNS = [(rotation, mirrored) for mirrored in (False, True) for rotation in ROTATIONS]
_SMALLER = [s for s in SCALES if s <= 1]
_LARGER = [s for s in SCALES if s > 1]
# (scale, rotation, mirrored) of every entry of the search; first those that shrink the training
# picture
ENTRIES = [(s, *turn) for s in _SMALLER for turn in _TURNS] + [
    (s, *turn) for s in _LARGER for turn in _TURNS
]
# position of each entry's spectrum among those of the generated image, and of the training picture
_OF_QUERY = [i % len(_TURNS) for i in range(len(_SMALLER) * len(_TURNS))] + [
    len(_TURNS) + i for i in range(len(_LARGER) * len(_TURNS))
]
_OF_MATCH = [i // len(_TURNS) for i in range(len(_SMALLER) * len(_TURNS))] + [len(_SMALLER) - 1] * (
    len(_LARGER) * len(_TURNS)
)


@dataclass(frozen=True)
class Spectra:
    """Fourier transforms of variants of a picture: n of them, [n, PERIOD, PERIOD // 2 + 1]."""

    values: torch.Tensor  # grey values minus their mean, 0 outside the picture
    squares: torch.Tensor
    mask: torch.Tensor

    def take(self, rows: list[int]) -> Spectra:
        """The spectra at some positions."""
        return Spectra(self.values[rows], self.squares[rows], self.mask[rows])


@dataclass(frozen=True)
class Beneath:
    """What a training picture's mask alone decides, for every entry and shift: [len(ENTRIES),
    SHIFTS, SHIFTS] each."""

    over: torch.Tensor  # 1 / pixels of the overlap
    share: torch.Tensor  # the overlap as a share of the smaller picture
    total: torch.Tensor  # sum of the generated image's values over the overlap
    spread: torch.Tensor  # their variance
    possible: torch.Tensor  # bool: the overlap is large enough, and the image is not flat there


def _spectra(variants: Fitted, corner: int) -> Spectra:
    """corner: row and column of the period at which the variants begin."""
    weights = torch.tensor(LUMINANCE, device=variants.colours.device).view(1, 3, 1, 1)
    mask = variants.mask[:, 0]
    grey = (variants.colours * weights).sum(1)
    mean = (grey * mask).sum((1, 2), keepdim=True) / mask.sum((1, 2), keepdim=True).clamp_min(1)
    grey = (grey - mean) * mask
    stacked = pad(torch.stack([grey, grey * grey, mask]), (corner, 0, corner, 0))
    return Spectra(*torch.fft.rfft2(stacked, s=(PERIOD, PERIOD)).unbind(0))


def query_spectra(image: Fitted) -> Spectra:
    """Spectra of the generated image for every entry: what lies over the training picture. image:
    of side SIDE."""
    turns = torch.stack([geometry.linear_of(1, r, mirrored=m) for r, m in _TURNS])
    placements = Placements(turns, torch.zeros(len(turns), 2)).to(image.mask.device)
    parts = [
        geometry.warped(geometry.shrunk(image, 1 / scale), placements, SIDE)
        for scale in (1.0, *_LARGER)
    ]
    return _spectra(_joined(parts), 0).take(_OF_QUERY)


def match_spectra(image: Fitted) -> Spectra:
    """Spectra of the training picture at every smaller scale. image: of side SIDE."""
    return _spectra(_joined([geometry.shrunk(image, scale) for scale in _SMALLER]), REACH)


def _joined(parts: list[Fitted]) -> Fitted:
    return Fitted(torch.cat([p.colours for p in parts]), torch.cat([p.mask for p in parts]))


def _summed(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Sums of products of two pictures under every shift, from their spectra. [n, SHIFTS,
    SHIFTS]."""
    return torch.fft.irfft2(left.conj() * right, s=(PERIOD, PERIOD))[:, :SHIFTS, :SHIFTS]


def beneath(query: Spectra, match: Spectra) -> Beneath:
    """What all training pictures of one shape share. match: spectra of one of them."""
    mask = match.mask[_OF_MATCH]
    area = torch.minimum(query.mask[:, 0, 0].real, mask[:, 0, 0].real)[:, None, None]
    count = _summed(query.mask, mask).round_()
    over = count.clamp_min(1).reciprocal_()
    total = _summed(query.values, mask).contiguous()
    spread = _summed(query.squares, mask).sub(total.square().mul_(over)).mul_(over)
    share = count / area
    return Beneath(over, share, total, spread, (share >= LEAST_OVERLAP) & (spread > FLAT**2))


def lowered(correlation: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
    """A correlation whose distance to 1 is counted for the share of the smaller picture, 0 to 1,
    that it was found on: less than half of a picture fits easily."""
    return 1 - (1 - correlation) / share.clamp(0.1, 1)


def correlations(query: Spectra, match: Spectra, under: Beneath) -> torch.Tensor:
    """The zero-normalised cross-correlation of every entry at every shift, as `lowered` gives it.

    under: of `beneath` for these pictures

    Returns: [len(ENTRIES), SHIFTS, SHIFTS]; row and column are the shift down and to the right in
    pixels, plus REACH. NOT_POSSIBLE where the overlap is below LEAST_OVERLAP of the smaller
    picture, or flat."""
    values, squares = match.values[_OF_MATCH], match.squares[_OF_MATCH]
    total = _summed(query.mask, values).contiguous()
    spread = _summed(query.mask, squares).sub(total.square().mul_(under.over)).mul_(under.over)
    possible = under.possible & (spread > FLAT**2)
    shared = _summed(query.values, values).sub(total.mul_(under.total).mul_(under.over))
    scores = shared.mul_(under.over).div_(spread.mul_(under.spread).clamp_min_(1e-12).sqrt_())
    return lowered(scores, under.share).masked_fill_(~possible, NOT_POSSIBLE)


def best_placements(
    query: Spectra, match: Spectra, under: Beneath, *, count: int
) -> tuple[Placements, torch.Tensor]:
    """The best shift and rotation of the best pairs of scale and mirroring.

    under: of `beneath` for these pictures; count: placements that are kept

    Returns: placements, at most `count`, the best first; their scores [n]. None whose every overlap
    is too small or flat."""
    scores, places = correlations(query, match, under).flatten(1).max(1)
    of_turns, rotations = scores.view(-1, len(ROTATIONS)).max(1)
    best, groups = of_turns.topk(min(count, len(of_turns)))
    kept = best > NOT_POSSIBLE
    groups = groups[kept]
    chosen = (groups * len(ROTATIONS) + rotations[groups]).tolist()
    if not chosen:
        return Placements(torch.empty(0, 2, 2), torch.empty(0, 2)).to(best.device), best[kept]
    linear = torch.stack([_linear(e) for e in chosen])
    shifts = torch.stack([_shift(e, int(places[e])) for e in chosen])
    return Placements(linear, shifts).to(best.device), best[kept]


def _linear(entry: int) -> torch.Tensor:
    scale, rotation, mirrored = ENTRIES[entry]
    return geometry.linear_of(scale, rotation, mirrored=mirrored)


def _shift(entry: int, place: int) -> torch.Tensor:
    """The shift b of a placement from the place of its score. [2]."""
    scale, rotation, mirrored = ENTRIES[entry]
    moved = np.array([place % SHIFTS - REACH, place // SHIFTS - REACH]) * 2 / SIDE
    # the entry was moved by `moved` over the training picture, at the smaller of both sizes
    turned = geometry.linear_of(max(scale, 1.0), rotation, mirrored=mirrored)
    return -(turned @ torch.tensor(moved, dtype=torch.float32))
