"""Pictures on a common square, and the placements that carry one into the other.

A picture is fitted into a square whose points run from -1 to 1 to the right and down; what it does
not cover has the mask 0. A placement is an affine map of the plane, u -> A u + b, from the training
picture's square to that of the generated image. N is the number of placements, S a side in
pixels."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import grid_sample, interpolate

from utils.retrieval.aligning.aligned_pair import Box, Transformation

SIDE = 64  # pixels; alignment looks no closer
LENGTH = SIDE * SIDE * 3 + 2  # of a thumbnail
SQUEEZED = 1.04  # how often longer the one side has become, above which shapes differ
COVERED = 0.75  # share of a pixel that a picture must cover to count


@dataclass(frozen=True)
class Fitted:
    """Pictures fitted into a square."""

    colours: torch.Tensor  # [N, 3, S, S] float32, 0 to 1; 0 where the mask is 0
    mask: torch.Tensor  # [N, 1, S, S], 1 where there is a picture, else 0


@dataclass(frozen=True)
class Placements:
    """Maps u -> A u + b from the square of the training picture to that of the generated image."""

    linear: torch.Tensor  # A, [N, 2, 2]
    shift: torch.Tensor  # b, [N, 2]

    def take(self, rows: torch.Tensor) -> Placements:
        """The placements at some positions. rows: [n] int64 or [N] bool."""
        return Placements(self.linear[rows], self.shift[rows])

    def to(self, device: torch.device) -> Placements:
        """The placements on a device."""
        return Placements(self.linear.to(device), self.shift.to(device))

    @classmethod
    def joined(cls, parts: list[Placements]) -> Placements:
        """All placements of the parts, in order."""
        return cls(torch.cat([p.linear for p in parts]), torch.cat([p.shift for p in parts]))


def thumbnail(picture: Image.Image) -> torch.Tensor:
    """A picture, fitted into the middle of a square of SIDE pixels, and its size there. PIL RGB ->
    [LENGTH] uint8: the square row by row, then width and height."""
    scale = SIDE / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    square = Image.new("RGB", (SIDE, SIDE))
    place = ((SIDE - size[0]) // 2, (SIDE - size[1]) // 2)
    square.paste(picture.resize(size, Image.Resampling.BILINEAR), place)
    pixels = torch.from_numpy(np.array(square)).flatten()
    return torch.cat([pixels, torch.tensor(size, dtype=torch.uint8)])


def fitted(picture: torch.Tensor) -> Fitted:
    """A picture as `thumbnail` gives it. picture: [LENGTH] uint8. One picture: N = 1."""
    pixels = picture[: SIDE * SIDE * 3].view(SIDE, SIDE, 3)
    width, height = sides_of(picture)
    mask = torch.zeros(1, 1, SIDE, SIDE, device=picture.device)
    top, left = (SIDE - height) // 2, (SIDE - width) // 2
    mask[:, :, top : top + height, left : left + width] = 1
    return Fitted(pixels.permute(2, 0, 1)[None].float() / 255 * mask, mask)


def sides_of(picture: torch.Tensor) -> tuple[int, int]:
    """Width and height in pixels of a picture within its square. picture: [LENGTH] uint8."""
    width, height = (int(v) for v in picture[-2:])
    return width, height


def at_side(picture: Fitted, side: int) -> Fitted:
    """The pictures on a smaller square of `side` pixels."""
    both = torch.cat([picture.colours * picture.mask, picture.mask], 1)
    return _unmixed(interpolate(both, (side, side), mode="bilinear", antialias=True))


def shrunk(picture: Fitted, scale: float) -> Fitted:
    """The pictures at a part of their size, in the middle of a square of the same side. scale:
    above 0, at most 1."""
    side = picture.mask.shape[-1]
    inner = max(2, 2 * round(side * scale / 2))
    if inner == side:
        return picture
    both = torch.cat([picture.colours * picture.mask, picture.mask], 1)
    small = interpolate(both, (inner, inner), mode="bilinear", antialias=True)
    square = small.new_zeros(len(small), 4, side, side)
    start = (side - inner) // 2
    square[:, :, start : start + inner, start : start + inner] = small
    return _unmixed(square)


def linear_of(scale: float, rotation: float, *, mirrored: bool) -> torch.Tensor:
    """The matrix A of a `Transformation`. rotation: degrees, counter-clockwise. [2, 2]."""
    cosine, sine = math.cos(math.radians(rotation)), math.sin(math.radians(rotation))
    turned = scale * torch.tensor([[cosine, sine], [-sine, cosine]])
    return turned @ torch.diag(torch.tensor([-1.0 if mirrored else 1.0, 1.0]))


def whole_over_whole(query_size: tuple[int, int], match_size: tuple[int, int]) -> Placements:
    """Placements that squeeze or stretch the training picture to the shape of the generated image,
    as it is and mirrored; none where the shapes are nearly the same. Sizes: (width, height) of both
    pictures in pixels."""
    sides = torch.from_numpy(_half_sides(query_size) / _half_sides(match_size)).float()
    if max(sides) < SQUEEZED * min(sides):
        return Placements(torch.empty(0, 2, 2), torch.empty(0, 2))
    mirror = torch.tensor([-1.0, 1.0])
    return Placements(
        torch.stack([torch.diag(sides), torch.diag(sides * mirror)]), torch.zeros(2, 2)
    )


def grid(side: int) -> torch.Tensor:
    """The centres of the pixels of a square. [S, S, 2], x and y."""
    line = (torch.arange(side) + 0.5) / side * 2 - 1
    down, across = torch.meshgrid(line, line, indexing="ij")
    return torch.stack([across, down], -1)


def sampled(values: torch.Tensor, placements: Placements, side: int) -> torch.Tensor:
    """Read values of the generated image at the points of the training picture's square.

    values: [1 or N, C, S, S]

    Returns: [N, C, side, side]; 0 outside the values."""
    count = len(placements.linear)
    points = grid(side).to(values.device).view(1, -1, 2)
    points = points @ placements.linear.transpose(1, 2) + placements.shift[:, None]
    return grid_sample(
        values.expand(count, -1, -1, -1),
        points.view(count, side, side, 2),
        mode="bilinear",
        padding_mode="zeros",
        align_corners=False,
    )


def warped(image: Fitted, placements: Placements, side: int) -> Fitted:
    """The generated image as it lies over the training picture. image: [1 or N, ...]."""
    both = torch.cat([image.colours * image.mask, image.mask], 1)
    return _unmixed(sampled(both, placements, side))


def _unmixed(both: torch.Tensor) -> Fitted:
    """Undo the mixing of a picture's edge with what lies around it. both: [N, 4, S, S], colours
    times mask, and mask."""
    mask = (both[:, 3:] > COVERED).float()
    return Fitted(both[:, :3] / both[:, 3:].clamp_min(COVERED) * mask, mask)


# What a placement means ---------------------------------------------------------------------------


def transformation_of(linear: np.ndarray, shift: np.ndarray) -> Transformation:
    """A placement in the terms of a reader: mirrored, turned, then stretched. linear: [2, 2];
    shift: [2]."""
    mirrored = float(np.linalg.det(linear)) < 0
    turned = linear @ np.diag([-1.0, 1.0]) if mirrored else linear
    wide, high = (float(v) for v in np.linalg.norm(turned, axis=1))
    turned = turned / np.array([[wide], [high]])
    rotation = math.degrees(
        math.atan2(float(turned[0, 1] - turned[1, 0]), float(turned[0, 0] + turned[1, 1]))
    )
    across, down = (float(v) / 2 for v in shift)  # a side is 2 long
    return Transformation(mirrored, math.sqrt(wide * high), rotation, (across, down), wide / high)


def boxes_of(
    linear: np.ndarray,
    shift: np.ndarray,
    query_size: tuple[int, int],
    match_size: tuple[int, int],
) -> tuple[Box, Box]:
    """What both pictures share: the rectangle around the overlap in the training picture, and the
    same quadrilateral in the generated image, cut at the image's edges.

    linear: [2, 2]; shift: [2]; sizes: (width, height) of both pictures in pixels

    Returns: box in the generated image, box in the training picture; all corners (0, 0) without an
    overlap."""
    query_half, match_half = _half_sides(query_size), _half_sides(match_size)
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])
    there = (corners * query_half - shift) @ np.linalg.inv(linear).T
    overlap = _cut(there, match_half)
    if len(overlap) < 3:
        nothing: Box = ((0.0, 0.0), (0.0, 0.0), (0.0, 0.0), (0.0, 0.0))
        return nothing, nothing
    (left, top), (right, bottom) = overlap.min(0), overlap.max(0)
    box = np.array([[left, top], [right, top], [right, bottom], [left, bottom]])
    back = np.clip(box @ linear.T + shift, -query_half, query_half)
    return _shares(back, query_half), _shares(box, match_half)


def _half_sides(size: tuple[int, int]) -> np.ndarray:
    """Half the width and height of a picture in its square: the longer is 1."""
    return np.array(size, float) / max(size)


def _shares(points: np.ndarray, half: np.ndarray) -> Box:
    """Points of the square as shares of a picture's width and height."""
    shares = ((points / half + 1) / 2).round(4)
    first, second, third, fourth = ((float(x), float(y)) for x, y in shares)
    return first, second, third, fourth


def _cut(polygon: np.ndarray, half: np.ndarray) -> np.ndarray:
    """Cut a convex polygon to the rectangle from -half to half (Sutherland and Hodgman, CACM 1974).
    polygon: [n, 2]. Returns: [m, 2], m may be 0."""
    for axis in (0, 1):
        for sign in (-1, 1):
            inside = sign * polygon[:, axis] <= half[axis]
            points = []
            for i, point in enumerate(polygon):
                before, was_inside = polygon[i - 1], inside[i - 1]
                if was_inside != inside[i]:
                    t = (sign * half[axis] - before[axis]) / (point[axis] - before[axis])
                    points.append(before + t * (point - before))
                if inside[i]:
                    points.append(point)
            if not points:
                return np.empty((0, 2))
            polygon = np.array(points)
    return polygon
