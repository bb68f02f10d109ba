"""The sheet of a check of copies: every generated image, a copy in a frame with the training
picture beside it.

An image has the same place on every sheet of a run, so that two checks can be compared. The place
beside an image that is no copy stays empty for that."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from PIL import Image, ImageDraw

from utils.reports.galleries import FRAME, GAP, PAPER, fitted

COLUMNS = 4  # images in a row, each with a place beside it
SIDE = 96  # of a picture, in pixels
LINE = 3  # width of a frame, in pixels


class Shown(NamedTuple):
    """A generated image on the sheet."""

    image: Image.Image  # PIL RGB
    source: Image.Image | None  # the training picture that it is a copy of; None: it is no copy


def corner_of(number: int) -> tuple[int, int]:
    """Left and top of image `number`, from 0, on a sheet, in pixels."""
    row, column = divmod(number, COLUMNS)
    return GAP + column * 2 * (SIDE + GAP), GAP + row * (SIDE + GAP)


def copies_sheet(shown: Sequence[Shown]) -> Image.Image:
    """Draw a sheet of images, at least one, in their order. Returns: PIL RGB."""
    rows = -(-len(shown) // COLUMNS)
    size = (2 * COLUMNS * (SIDE + GAP) + GAP, rows * (SIDE + GAP) + GAP)
    sheet = Image.new("RGB", size, PAPER)
    pen = ImageDraw.Draw(sheet)
    for number, each in enumerate(shown):
        left, top = corner_of(number)
        sheet.paste(fitted(each.image, SIDE), (left, top))
        if each.source is not None:
            box = (left - LINE, top - LINE, left + SIDE + LINE - 1, top + SIDE + LINE - 1)
            pen.rectangle(box, outline=FRAME, width=LINE)
            sheet.paste(fitted(each.source, SIDE), (left + SIDE + GAP, top))
    return sheet
