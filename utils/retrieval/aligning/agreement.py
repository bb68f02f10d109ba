"""The third step of alignment: how well two pictures agree where one lies over the other.

The score is a zero-normalised cross-correlation over the overlap at 64 pixels, with three choices
that a benchmark made (`benchmarks/copies.py`; docs/benchmarks.md has its figures):

- *Local means* are taken out, over WINDOW pixels, after averaging over SMOOTH: what pictures of one
  kind have in common (a sky above, a disc on white) lies in the large shapes, what noise and JPEG
  change in the smallest.
- *Colours are fitted*: each picture is predicted from the other by the best linear map of its three
  channels, and the lower of both correlations counts. So a change of brightness, contrast, tint or
  hue is undone.
- *Places count alike*: the score is the mean of two correlations, the second with the contrast
  evened out over EVENED pixels. So words written across a picture spoil their own place only.
- *Detail is asked for*: what is missing to 1 counts more where either picture has little detail, as
  stripes or a single edge fit everywhere along themselves. A picture that is exactly the same keeps
  its 1."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage

from utils.retrieval.aligning.geometry import Fitted

SMOOTH, WINDOW, EVENED = 5, 19, 17  # pixels of 64
LEAST_CONTRAST = 0.08  # norm of three channels; where there is less, it is evened out in part
RIDGE = 0.03  # of the mean variance, so that a grey picture has a map, too
ENOUGH_DETAIL = 0.08  # see `detail`; with less, the score falls
GREY = 0.003  # share of the variance that colours beside the main one may have in a grey picture
NEAR = 9  # pixels, over which detail and the map of agreement look
DETAILED = 0.01  # standard deviation over a window, of the range, above which a place has detail
AGREES = 0.7  # local correlation above which a place counts as found again


@dataclass(frozen=True)
class Agreement:
    """How well pictures agree under N placements."""

    scores: torch.Tensor  # [N], 0 to 1
    # local correlation of what is predicted with the training picture, [N, S, S], 0 to 1; 0 where
    # the training picture has no detail or no generated image lies over it
    local: torch.Tensor
    detailed: torch.Tensor  # [N, S, S] bool, where the training picture has detail


def box_mean(values: torch.Tensor, width: int) -> torch.Tensor:
    """Mean over windows of `width` x `width` pixels (odd), with zeros beyond the edges. Shape
    [..., S, S] stays."""
    window = _window(values.shape[-1], width).to(values.device)
    return window @ values @ window


@functools.cache
def _window(side: int, width: int) -> torch.Tensor:
    """The matrix that takes means over a line of pixels. [S, S]."""
    line = torch.arange(side)
    return ((line[:, None] - line).abs() <= width // 2).float() / width


def banded(colours: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Colours averaged over SMOOTH pixels, minus their mean over WINDOW pixels, within the mask.
    [N, 3, S, S]."""
    smooth = _masked_mean(colours, mask, SMOOTH) * mask
    return (smooth - _masked_mean(smooth, mask, WINDOW)) * mask


def evened(band: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The same with a contrast that is nearly equal everywhere. band: as `banded` gives it."""
    power = _masked_mean(band.square().sum(1, keepdim=True), mask, EVENED)
    return band * (power + LEAST_CONTRAST**2).rsqrt()


def _masked_mean(values: torch.Tensor, mask: torch.Tensor, width: int) -> torch.Tensor:
    return box_mean(values * mask, width) / box_mean(mask, width).clamp_min(1e-6)


def colour_map(source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """The linear map of channels that predicts `target` best from `source`: least squares with a
    small ridge. [N, 3, P] each -> [N, 3, 3]: prediction = map^T source."""
    squares = source @ source.transpose(1, 2)
    mean = squares.diagonal(dim1=1, dim2=2).mean(1)[:, None, None]
    identity = torch.eye(3, device=source.device)
    return torch.linalg.solve(
        squares + (RIDGE * mean + 1e-6) * identity, source @ target.transpose(1, 2)
    )


def _explained(source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """The share of the target's spread that the source explains, as a correlation. [N]."""
    fit = colour_map(source, target)
    missed = target - fit.transpose(1, 2) @ source
    spread = target.square().sum((1, 2)).clamp_min(1e-9)
    return (1 - missed.square().sum((1, 2)) / spread).clamp(0, 1).sqrt()


def detail(colours: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """How much two-dimensional detail there is, over the whole square: the mean of the root of the
    smaller eigenvalue of the structure tensor (J. Shi and C. Tomasi, CVPR 1994). [N, 3, S, S] ->
    [N]; 0 for stripes."""
    inner = -torch.nn.functional.max_pool2d(-mask, 3, 1, 1)
    down, across = torch.gradient(colours, dim=(2, 3))
    parts = [(across * across), (down * down), (across * down)]
    xx, yy, xy = (box_mean(p.sum(1) * inner[:, 0], NEAR) for p in parts)
    middle = (xx + yy) / 2
    smaller = middle - ((xx - yy) ** 2 / 4 + xy**2).sqrt()
    return (smaller.clamp_min(0).sqrt() * mask[:, 0]).mean((1, 2))


def trusted(
    alike: torch.Tensor, over: torch.Tensor, match: torch.Tensor, mask: torch.Tensor
) -> torch.Tensor:
    """Correlations, whose distance to 1 grows where there is little detail. alike: [N]; over and
    match: colours of both pictures, [N, 3, S, S]. [N], at most 1."""
    found = (detail(over, mask) * detail(match, mask)).sqrt()
    return 1 - (1 - alike) * (ENOUGH_DETAIL / found.clamp_min(1e-6)).clamp_min(1)


def agreement(over: Fitted, match: Fitted) -> Agreement:
    """Compare generated images with training pictures that they lie over.

    over: generated images as they lie there, N of them
    match: training pictures, N of the same side"""
    mask = over.mask * match.mask
    x, y = banded(over.colours, mask), banded(match.colours, mask)
    alike = (_both_ways(x, y) + _both_ways(evened(x, mask), evened(y, mask))) / 2
    source = x.flatten(2)
    fit = colour_map(source, y.flatten(2)).transpose(1, 2)
    recoloured = (fit @ over.colours.flatten(2)).view_as(over.colours)
    scores = trusted(alike, recoloured, match.colours, mask)
    predicted = (fit @ source).view_as(y)
    whole = banded(match.colours, match.mask)
    detailed = box_mean(whole.square().sum(1), NEAR).sqrt() > DETAILED
    spread = box_mean(predicted.square().sum(1), NEAR) * box_mean(y.square().sum(1), NEAR)
    local = box_mean((predicted * y).sum(1), NEAR) / spread.clamp_min(1e-9).sqrt()
    seen = detailed & (mask[:, 0] > 0) & (match.mask[:, 0] > 0)
    return Agreement(
        scores.clamp(0, 1), local.clamp(0, 1) * seen, detailed & (match.mask[:, 0] > 0)
    )


def _both_ways(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """How well one picture explains the other and the other the one, the lower of both; but a grey
    picture need not explain a colourful one. [N]."""
    first, second = x.flatten(2), y.flatten(2)
    forth, back = _explained(first, second), _explained(second, first)
    grey, other_grey = _is_grey(first), _is_grey(second)
    lower = torch.minimum(forth, back)
    return torch.where(grey == other_grey, lower, torch.where(grey, back, forth))


def _is_grey(values: torch.Tensor) -> torch.Tensor:
    """Whether all values lie on one line of colours. [N, 3, P] -> [N] bool."""
    spreads = torch.linalg.eigvalsh(values @ values.transpose(1, 2))
    return spreads[:, 1] <= GREY * spreads[:, 2]


def copied_area(local: np.ndarray, detailed: np.ndarray) -> float:
    """The largest connected part of the training picture's detailed area that is found again, as a
    share of that area, 0 to 1. local, detailed: of one pair in `Agreement`, [S, S]."""
    total = int(detailed.sum())
    parts, count = ndimage.label(local > AGREES)
    if not total or not count:
        return 0.0
    return float(np.bincount(parts.ravel())[1:].max()) / total
