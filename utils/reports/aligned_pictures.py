"""What alignment found, drawn on pictures: the outline of the part that a generated image and a
training picture share, and the map of where they agree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from utils.reports import galleries
from utils.reports.galleries import FONT, FRAME, GAP, HEAD, INK, LINE, PAPER, SIDE

Point = tuple[float, float]
Size = tuple[int, int]  # width and height of a picture before it is fitted into a square
WHOLE: tuple[Point, ...] = ((0, 0), (1, 0), (1, 1), (0, 1))  # the box of a whole picture

YELLOW, BLACK = (
    (255, 214, 0),
    (0, 0, 0),
)  # of an outline; yellow between black is seen on any picture
# widths in pixels, and the diameter of the dot
LINE_WIDTH, HALO_WIDTH, DOT, DOT_HALO = 2, 4, 7, 11
RIM = HALO_WIDTH / 2  # a line on the edge of the picture is moved inside by so many pixels
SMOOTH = 4  # times finer than the picture is the outline drawn, so that its edges are smooth
FOG = (128, 128, 128)  # over what is not found again: dark and bright pictures both lose contrast
FOG_SHARE = 0.8


def in_square(box: Sequence[Point], size: tuple[int, int], side: int) -> list[Point]:
    """The corners of a box on a picture that was fitted into a square (`galleries.fitted`).

    box: (x, y) of each corner in shares of the picture's width and height;
    size: width and height of the picture before it was fitted;
    side: of the square.
    Returns: (x, y) in pixels of the square."""
    scale = side / max(size)
    width, height = (max(1, round(length * scale)) for length in size)
    left, top = (side - width) // 2, (side - height) // 2
    return [(left + x * width, top + y * height) for x, y in box]


def outlined(square: Image.Image, corners: Sequence[Point]) -> Image.Image:
    """The picture with a closed line through the corners and a dot on the first one, which tells
    mirrored and rotated parts apart. PIL RGB -> PIL RGB, a new one.

    corners: (x, y) in pixels."""
    drawn = square.copy()
    for colour, width, dot in ((BLACK, HALO_WIDTH, DOT_HALO), (YELLOW, LINE_WIDTH, DOT)):
        drawn.paste(colour, mask=_line_mask(square.size, corners, width, dot))
    return drawn


def _line_mask(
    size: tuple[int, int], corners: Sequence[Point], width: int, dot: int
) -> Image.Image:
    """Where the line is: PIL L of that size."""
    mask = Image.new("L", (size[0] * SMOOTH, size[1] * SMOOTH))
    pen = ImageDraw.Draw(mask)
    ends = [_inside(corner, size, RIM) for corner in corners]
    pen.line([*ends, ends[0], ends[1]], fill=255, width=width * SMOOTH, joint="curve")
    x, y = _inside(corners[0], size, DOT_HALO / 2)
    radius = dot * SMOOTH / 2
    pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=255)
    return mask.resize(size, Image.Resampling.BOX)


def _inside(corner: Point, size: tuple[int, int], rim: float) -> Point:
    """The corner in pixels of the mask, at least `rim` pixels from the edge of the picture, so that
    all that is drawn there is seen."""
    (x, y), (width, height) = corner, size
    inside = min(max(x, rim), width - rim), min(max(y, rim), height - rim)
    return inside[0] * SMOOTH, inside[1] * SMOOTH


def agreement_over(picture: Image.Image, agreement: np.ndarray) -> Image.Image:
    """The picture in its own colours where it agrees with the other one of its pair, in grey fog
    where it does not. PIL RGB -> PIL RGB of the same size.

    agreement: [S, S] uint8 over the picture fitted into a square and centred; 0 where it is not
    found, 255 where both agree fully."""
    grey = picture.convert("L").convert("RGB")
    fog = Image.blend(grey, Image.new("RGB", picture.size, FOG), FOG_SHARE)
    return Image.composite(picture, fog, _on_picture(agreement, picture.size))


def agreement_in_query(
    agreement: np.ndarray, query: tuple[Sequence[Point], Size], match: tuple[Sequence[Point], Size]
) -> np.ndarray:
    """The map of agreement over the generated image instead of the training picture.

    agreement: [S, S] uint8, as `agreement_over` takes it;
    query, match: the shared part, and the width and height, of either image.
    Returns: [S, S] uint8; 0 everywhere if the shared part has no area."""
    side = len(agreement)
    here, there = (np.array(in_square(*picture, side))[:3] for picture in (query, match))
    try:  # what takes three corners here to those there, as rows of (x, y, 1)
        affine = np.linalg.solve(np.column_stack([here, np.ones(3)]), there)
    except np.linalg.LinAlgError:
        return np.zeros_like(agreement)
    moved = Image.fromarray(agreement).transform(
        (side, side),
        Image.Transform.AFFINE,
        affine.T.ravel().tolist(),
        Image.Resampling.BILINEAR,
    )
    return np.asarray(moved)


def _on_picture(agreement: np.ndarray, size: tuple[int, int]) -> Image.Image:
    """The part of the square map that covers the picture, at the picture's size. PIL L."""
    side, (width, height) = len(agreement), size
    shown_width, shown_height = (side * length / max(size) for length in size)
    left, top = (side - shown_width) / 2, (side - shown_height) / 2
    return Image.fromarray(agreement).resize(
        (width, height),
        Image.Resampling.BILINEAR,
        box=(left, top, left + shown_width, top + shown_height),
    )


# Page of a gallery --------------------------------------------------------------------------------

HEADS = ("generated image", "best aligned", "found again")
BESIDE = 2 * GAP  # pixels between these pictures and the descriptor's matches
NAMES, AFTER = 2 * LINE + 1, 14  # pixels for names, and between a row and the next
WORDS = 2  # lines below a pair, for all three pictures together


@dataclass(frozen=True)
class AlignedPictures:
    """The training image that a generated image agrees with best."""

    match: Image.Image  # fitted into a square
    size: Size
    name: str
    aligned: float  # -1 to 1
    box_query: Sequence[Point]  # the shared part in either image, in shares of width and height
    box_match: Sequence[Point]
    agreement: np.ndarray  # as `agreement_over` takes it
    framed: bool  # whether the pair counts as a copy by `aligned`


@dataclass(frozen=True)
class AlignedRow:
    """A row of the gallery."""

    query: Image.Image  # the generated image, fitted into a square
    size: Size
    name: str
    pair: AlignedPictures | None  # None where there is nothing to align
    words: Sequence[str]  # up to WORDS lines below the pair
    matches: Sequence[galleries.Match]  # of the descriptor


def aligned_page(
    rows: Sequence[AlignedRow], *, threshold: float | None, side: int = SIDE, columns: int = 4
) -> Image.Image:
    """A page of a gallery: in each row a generated image and its best aligned training image with
    the shared part outlined, the map of agreement, then the descriptor's matches with scores.

    threshold: matches of the descriptor with a score above it have a frame;
    columns: matches in a row, at most.
    Returns: PIL RGB."""
    cell = side + 2 * GAP
    height = cell + NAMES + WORDS * LINE + AFTER
    start = len(HEADS) * cell + BESIDE  # left end of the matches
    page = Image.new("RGB", (start + columns * cell, HEAD + len(rows) * height), PAPER)
    pen, font = ImageDraw.Draw(page), galleries.font_of(FONT)
    for c, head in enumerate(HEADS):
        pen.text((c * cell + GAP, 5), head, INK, font)
    pen.text((start + GAP, 5), "nearest by the descriptor, most similar first", INK, font)
    for r, row in enumerate(rows):
        top = HEAD + r * height
        _draw_pair(page, row, top, side)
        for n, line in enumerate(row.words[:WORDS]):
            words = galleries.shortened(galleries.drawable(line), pen, font, start - BESIDE - GAP)
            pen.text((GAP, top + cell + NAMES + n * LINE), words, INK, font)
        for c, match in enumerate(row.matches):
            galleries.paste_match(page, (start + c * cell, top), match, threshold, side)
    return page


def _draw_pair(page: Image.Image, row: AlignedRow, top: int, side: int) -> None:
    """Draw the generated image, the aligned one and the map. top: of the row, in pixels."""
    pen, font, cell = ImageDraw.Draw(page), galleries.font_of(FONT), side + 2 * GAP
    names = top + side + 2 * GAP
    query, pair = row.query, row.pair
    if pair is not None:
        query = outlined(query, in_square(pair.box_query, row.size, side))
        match = outlined(pair.match, in_square(pair.box_match, pair.size, side))
        if pair.framed:
            pen.rectangle((cell, top + 1, 2 * cell - 2, top + cell - 2), fill=FRAME)
        page.paste(match, (cell + GAP - 1, top + GAP))
        page.paste(_found_again(pair), (2 * cell + GAP - 1, top + GAP))
        score = f"{pair.aligned:.3f}"
        galleries.write_name(pen, (cell + GAP, names), pair.name, font, side, before=score)
    page.paste(query, (GAP - 1, top + GAP))
    galleries.write_name(pen, (GAP, names), row.name, font, side)


def _found_again(pair: AlignedPictures) -> Image.Image:
    """`agreement_over` the fitted training image, whose rims stay white."""
    side = pair.match.width
    (left, top), _, (right, bottom), _ = in_square(WHOLE, pair.size, side)
    rim = Image.new("RGB", pair.match.size, PAPER)
    place = (round(left), round(top), round(right), round(bottom))
    rim.paste(agreement_over(pair.match, pair.agreement).crop(place), place)
    return rim
