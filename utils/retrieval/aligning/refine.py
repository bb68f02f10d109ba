"""The second step of alignment: placements are improved to a fraction of a pixel.

Each step maximises the correlation of the grey pictures over their overlap, by the Gauss-Newton
method on the enhanced correlation coefficient (G. D. Evangelidis and E. Z. Psarakis, "Parametric
image alignment using enhanced correlation coefficient maximization", IEEE PAMI 2008), for all
placements at once. A placement keeps to scale, rotation, mirroring and shift: a shear would make
strangers more alike, too. What is missing to a correlation of 1 counts more where the pictures
share less, and a placement must keep the least overlap: a corner on a corner fits by chance."""

from __future__ import annotations

import torch

from utils.retrieval.aligning import geometry
from utils.retrieval.aligning.coarse import LEAST_OVERLAP, LUMINANCE, lowered
from utils.retrieval.aligning.geometry import Fitted, Placements

LARGEST_STEP = 0.15  # of a half side, in one iteration
DAMPING = 1e-3  # of the mean curvature
TOO_SMALL = -1.5  # the score of a placement with too little overlap
LEAST_SCALE, MOST_SCALE = 0.45, 2.2


def refined(
    image: Fitted, match: Fitted, start: Placements, *, iterations: int
) -> tuple[Placements, torch.Tensor]:
    """Improve placements of a generated image over training pictures.

    image: the generated image, N = 1
    match: the training picture of every placement, of the same side S
    start: N placements

    Returns: the best placement on the way of each; its correlation, lowered as by `lowered`, [N],
    below 0 where the overlap is too small."""
    side = image.mask.shape[-1]
    channels = _with_slopes(image)
    target, target_mask = _grey(match.colours), match.mask
    best, best_scores = start, torch.full((len(start.linear),), -2.0, device=target.device)
    now = start
    for iteration in range(iterations + 1):
        covered = geometry.sampled(channels, now, side)
        mask = (covered[:, 3:] > geometry.COVERED).float() * target_mask
        seen = covered[:, :1]
        share = mask.sum((1, 2, 3)) / _smaller_area(image, match, now)
        scores = lowered(correlation(seen, target, mask), share)
        scores = scores.masked_fill(share < LEAST_OVERLAP, TOO_SMALL)
        better = scores > best_scores
        best = _chosen(better, now, best)
        best_scores = torch.where(better, scores, best_scores)
        if iteration < iterations:
            now = _step(now, covered, target, mask)
    return best, best_scores


def _smaller_area(image: Fitted, match: Fitted, now: Placements) -> torch.Tensor:
    """The area of the smaller picture, in pixels of the training picture's square. [N]."""
    enlarged = image.mask.sum() / torch.linalg.det(now.linear).abs()
    return torch.minimum(enlarged, match.mask.sum((1, 2, 3)))


def _grey(colours: torch.Tensor) -> torch.Tensor:
    weights = torch.tensor(LUMINANCE, device=colours.device).view(1, 3, 1, 1)
    return (colours * weights).sum(1, keepdim=True)


def _with_slopes(image: Fitted) -> torch.Tensor:
    """Grey values, their slopes to the right and down per half side, and the mask. [1, 4, S, S]."""
    grey = _grey(image.colours)
    down, across = torch.gradient(grey, dim=(2, 3))
    half = image.mask.shape[-1] / 2
    return torch.cat([grey, across * half, down * half, image.mask], 1)


def correlation(left: torch.Tensor, right: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The zero-normalised cross-correlation over a mask. [N, 1, S, S] each -> [N]."""
    x, y = centred(left, mask), centred(right, mask)
    spread = (x.square().sum((1, 2, 3)) * y.square().sum((1, 2, 3))).sqrt()
    return (x * y).sum((1, 2, 3)) / spread.clamp_min(1e-9)


def centred(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Values minus their mean over the mask; 0 outside it."""
    count = mask.sum((-2, -1), keepdim=True).clamp_min(1)
    return (values - (values * mask).sum((-2, -1), keepdim=True) / count) * mask


def _chosen(first: torch.Tensor, yes: Placements, no: Placements) -> Placements:
    """`yes` where `first` holds, else `no`. first: [N] bool."""
    return Placements(
        torch.where(first[:, None, None], yes.linear, no.linear),
        torch.where(first[:, None], yes.shift, no.shift),
    )


def _step(
    now: Placements, covered: torch.Tensor, target: torch.Tensor, mask: torch.Tensor
) -> Placements:
    """One iteration. covered: what `_with_slopes` gives, read at the placements."""
    jacobian = _jacobian(now, covered[:, 1:2], covered[:, 2:3], mask)
    seen = centred(covered[:, :1], mask).flatten(1)
    wanted = centred(target, mask).flatten(1)
    change = _ecc_step(jacobian, seen, wanted)
    turn = torch.tensor([[0.0, -1.0], [1.0, 0.0]], device=change.device)
    linear = change[:, 0, None, None] * now.linear + change[:, 1, None, None] * (now.linear @ turn)
    shift = change[:, 2:]
    largest = torch.maximum(linear.abs().amax((1, 2)), shift.abs().amax(1)).clamp_min(1e-9)
    part = (LARGEST_STEP / largest).clamp_max(1)
    moved = Placements(now.linear + part[:, None, None] * linear, now.shift + part[:, None] * shift)
    scale = torch.linalg.det(moved.linear).abs().sqrt()
    allowed = (scale > LEAST_SCALE) & (scale < MOST_SCALE)
    return _chosen(allowed, moved, now)


def _jacobian(
    now: Placements, across: torch.Tensor, down: torch.Tensor, mask: torch.Tensor
) -> torch.Tensor:
    """How the values change with scale, rotation and both shifts. across, down: slopes, [N, 1, S,
    S].

    Returns: [N, 4, S * S], centred over the mask."""
    side = mask.shape[-1]
    points = geometry.grid(side).to(mask.device).view(1, -1, 2)
    turned = torch.stack([-points[..., 1], points[..., 0]], -1)
    parts = []
    for direction in (points, turned):
        moved = (direction @ now.linear.transpose(1, 2)).view(-1, side, side, 2)
        parts.append(across[:, 0] * moved[..., 0] + down[:, 0] * moved[..., 1])
    values = torch.stack([*parts, across[:, 0], down[:, 0]], 1)
    return centred(values, mask).flatten(2)


def _ecc_step(jacobian: torch.Tensor, seen: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """The change of the four parameters that maximises the linearised correlation (equation 19 of
    the paper). jacobian: [N, 4, P]; seen, wanted: [N, P]. Returns: [N, 4]."""
    curvature = jacobian @ jacobian.transpose(1, 2)
    mean = curvature.diagonal(dim1=1, dim2=2).mean(1)[:, None, None]
    identity = torch.eye(4, device=seen.device)
    curvature = curvature + (DAMPING * mean + 1e-9) * identity
    both = torch.stack([seen, wanted], 2)
    slopes = jacobian @ both
    solved = torch.linalg.solve(curvature, slopes)
    explained = slopes.transpose(1, 2) @ solved
    products = both.transpose(1, 2) @ both
    numerator = products[:, 0, 0] - explained[:, 0, 0]
    denominator = products[:, 0, 1] - explained[:, 0, 1]
    plain = products[:, 0, 0] / products[:, 0, 1].clamp_min(1e-6)
    gain = torch.where(denominator > 0, numerator / denominator.clamp_min(1e-12), plain)
    return gain.clamp(0.05, 20)[:, None] * solved[:, :, 1] - solved[:, :, 0]
