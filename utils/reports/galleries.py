"""Pictures side by side: contact sheets, pages of generations with their matches, and pages of
groups of near-duplicates."""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from PIL import Image, ImageDraw, ImageFont

PAPER, INK = (255, 255, 255), (40, 40, 40)
FRAME = (0xD5, 0x5E, 0x00)  # vermilion, which every eye distinguishes from grey
# sizes in pixels
GAP = 6  # between pictures
SIDE = 128  # of a picture on a page
LINE, BELOW = 15, 34  # height of a line, and of the two lines below a picture
HEAD = 24  # height of the line above the pictures
FONT = 11
PAIR_LINE, BELOW_PAIR = 16, 44  # height of a line, and of what is below a pair
COUNT_WIDTH = 90  # of the number of images, to the right of a group
# letters of a name or a prompt that are drawn at most; untrusted ones may be of any length
MOST_LETTERS = 400

Kept = TypeVar("Kept")
Match = tuple[Image.Image, float, str]  # (picture, score, name)


def height_of(rows: int, of_row: int) -> int:
    return HEAD + rows * of_row


def contact_sheet(images: Sequence[Image.Image], columns: int) -> Image.Image:
    """Images of the same size in rows of `columns`, on white. PIL -> PIL RGB."""
    width, height = images[0].size
    rows = -(-len(images) // columns)
    sheet = Image.new("RGB", (columns * (width + GAP) + GAP, rows * (height + GAP) + GAP), PAPER)
    for i, image in enumerate(images):
        sheet.paste(
            image.convert("RGB"),
            (GAP + i % columns * (width + GAP), GAP + i // columns * (height + GAP)),
        )
    return sheet


def fitted(image: Image.Image, side: int) -> Image.Image:
    """The image, scaled to fit a square of `side` pixels, and centred on white.

    An image of half that size or less is enlarged without smoothing. PIL -> PIL RGB."""
    scale = side / max(image.size)
    how = Image.Resampling.NEAREST if scale >= 2 else Image.Resampling.LANCZOS
    image = image.resize(
        (max(1, round(image.width * scale)), max(1, round(image.height * scale))), how
    )
    square = Image.new("RGB", (side, side), PAPER)
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square


def write_pages(
    folder: Path,
    pages: Iterable[Any],
    draw: Callable[[Any], Image.Image],
    *,
    workers: int,
    keep: Callable[[Image.Image], Kept] | None = None,
    first: int = 0,
) -> list[Any]:
    """Write page_01.png, page_02.png ... into a new folder.

    pages: what each page shows;
    draw: draws a page;
    workers: number of threads;
    keep: is called with the pictures of the `first` pages.
    Returns: what `keep` returned for each of them."""
    folder.mkdir(parents=True)

    def write(item: tuple[int, Any]) -> Kept | None:
        number, shown = item
        page = draw(shown)
        # run-length encoding alone: a quarter of the default's time for a tenth more bytes
        page.save(folder / f"page_{number:02d}.png", compress_type=zlib.Z_RLE)
        return keep(page) if keep is not None and number <= first else None

    # threads, because Pillow releases Python's lock while it decodes, resizes and compresses
    with ThreadPoolExecutor(max(1, workers)) as pool:
        return list(pool.map(write, enumerate(pages, 1)))[:first]


# Words --------------------------------------------------------------------------------------------


def font_of(size: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans from matplotlib: unlike Pillow's font, it has accents, Greek and Cyrillic."""
    return ImageFont.truetype(_font_file(), size)


@functools.cache
def _font_file() -> str:
    import matplotlib

    return str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf")


@functools.cache
def _letters() -> frozenset[str]:
    from matplotlib.ft2font import FT2Font

    return frozenset(map(chr, FT2Font(_font_file()).get_charmap()))


def drawable(text: str) -> str:
    """The text on one line, with ? for letters that the font lacks."""
    known = _letters()
    return "".join(c if c in known else "?" for c in " ".join(text.split()))


def both_ends(
    text: str, pen: ImageDraw.ImageDraw, font: ImageFont.FreeTypeFont, width: float
) -> str:
    """The text, shortened in its middle if it is wider than `width` pixels, because names may
    differ at either end."""
    if len(text) <= MOST_LETTERS and pen.textlength(text, font) <= width:
        return text
    kept = min(len(text), MOST_LETTERS)
    while kept:
        kept -= 1
        short = text[: kept // 2] + "…" + text[len(text) - (kept - kept // 2) :]
        if pen.textlength(short, font) <= width:
            return short
    return "…"


def write_name(
    pen: ImageDraw.ImageDraw,
    place: tuple[int, int],
    name: str,
    font: ImageFont.FreeTypeFont,
    width: int,
    *,
    before: str = "",
) -> None:
    """Write a name in up to two lines: `before` and the folder or shard, then the rest."""
    folder, _, end = name.rpartition("/")
    left = width - (pen.textlength(before + " ", font) if before else 0)
    first = " ".join(filter(None, [before, both_ends(drawable(folder), pen, font, left)]))
    lines = filter(None, [first, both_ends(drawable(end), pen, font, width)])
    for n, line in enumerate(lines):
        pen.text((place[0], place[1] + n * LINE), line, INK, font)


def shortened(
    text: str, pen: ImageDraw.ImageDraw, font: ImageFont.FreeTypeFont, width: float
) -> str:
    """The text, shortened at its end if it is wider than `width` pixels."""
    text = text if len(text) <= MOST_LETTERS else text[:MOST_LETTERS] + "…"
    if pen.textlength(text, font) <= width:
        return text
    while text and pen.textlength(text + "…", font) > width:
        text = text[:-1]
    return text + "…"


# Pages --------------------------------------------------------------------------------------------


def pair_grid(
    rows: Sequence[tuple[tuple[Image.Image | None, ...], str, str]],
    *,
    titles: tuple[str, ...],
    side: int = SIDE,
    columns: int = 3,
) -> Image.Image:
    """Images in twos or threes, each group with two lines of text below, `columns` groups in a row.

    rows: ((image, ...), line, line) of each group; None leaves a place empty;
    titles: above the images of a group, as many as there are.
    Returns: PIL RGB."""
    font = font_of(FONT)
    count = len(titles)
    width, height = count * side + (count + 1) * GAP, side + BELOW_PAIR
    columns = min(columns, len(rows))
    page = Image.new(
        "RGB",
        (columns * width + (columns + 1) * GAP, height_of(-(-len(rows) // columns), height)),
        PAPER,
    )
    pen = ImageDraw.Draw(page)
    for i, (pair, *lines) in enumerate(rows):
        left, top = 2 * GAP + i % columns * (width + GAP), height_of(i // columns, height)
        for n, image in enumerate(pair):
            if i < columns:
                pen.text((left + n * (side + GAP), 5), titles[n], INK, font)
            if image is not None:
                page.paste(fitted(image, side), (left + n * (side + GAP), top))
        for n, line in enumerate(lines):
            pen.text(
                (left, top + side + 3 + PAIR_LINE * n),
                shortened(drawable(line), pen, font, count * side),
                INK,
                font,
            )
    return page


def match_page(
    rows: Sequence[tuple[Image.Image, str, Sequence[Match]]],
    *,
    threshold: float | None,
    side: int = SIDE,
    columns: int = 4,
) -> Image.Image:
    """A page of a gallery: in each row a generated image, then its matches with their scores.

    rows: (generated image, its name, matches) of each row;
    threshold: matches with a score above it have a frame;
    columns: matches in a row, at most.
    Returns: PIL RGB."""
    font = font_of(FONT)
    cell = side + 2 * GAP
    size = (cell * (columns + 1) + 3 * GAP, height_of(len(rows), cell + BELOW))
    page = Image.new("RGB", size, PAPER)
    pen = ImageDraw.Draw(page)
    pen.text((GAP, 5), "generated", INK, font)
    pen.text((cell + 4 * GAP, 5), "nearest training images, most similar first", INK, font)
    for r, (query, label, matches) in enumerate(rows):
        top = height_of(r, cell + BELOW)
        page.paste(fitted(query, side), (GAP, top + GAP))
        write_name(pen, (GAP, top + side + 2 * GAP), label, font, side)
        for c, match in enumerate(matches):
            paste_match(page, ((c + 1) * cell + 3 * GAP, top), match, threshold, side)
    return page


def paste_match(
    page: Image.Image,
    place: tuple[int, int],
    match: Match,
    threshold: float | None,
    side: int = SIDE,
) -> None:
    """Draw a match with its score and its name below.

    place: left top corner of its cell in pixels;
    threshold: a match with a score above it has a frame; None: none has."""
    (left, top), (image, score, name) = place, match
    pen, font = ImageDraw.Draw(page), font_of(FONT)
    if threshold is not None and score > threshold:
        pen.rectangle(
            (left, top + 1, left + side + 2 * GAP - 2, top + side + 2 * GAP - 2), fill=FRAME
        )
    page.paste(fitted(image, side), (left + GAP - 1, top + GAP))
    corner = (left + GAP - 1, top + side + 2 * GAP)
    write_name(pen, corner, name, font, side, before=f"{score:.3f}")


def group_page(
    groups: Sequence[tuple[Sequence[Match], int]], *, side: int = SIDE, columns: int = 7
) -> Image.Image:
    """A page of groups of near-duplicates: in each row the picture to keep, others with their
    similarity to it, and the number of images in the group.

    groups: (pictures, number of images) of each row; the picture to keep comes first, and there are
    at most `columns`.
    Returns: PIL RGB."""
    font = font_of(FONT)
    cell = side + 2 * GAP
    size = (cell * columns + 3 * GAP + COUNT_WIDTH, height_of(len(groups), cell + BELOW))
    page = Image.new("RGB", size, PAPER)
    pen = ImageDraw.Draw(page)
    pen.text((GAP, 5), "to keep", INK, font)
    pen.text((cell + 3 * GAP, 5), "near-duplicates of it, and their similarity to it", INK, font)
    for r, (pictures, count) in enumerate(groups):
        top = height_of(r, cell + BELOW)
        for c, (image, similarity, name) in enumerate(pictures):
            left = c * cell + (3 * GAP if c else GAP)
            page.paste(fitted(image, side), (left, top + GAP))
            write_name(
                pen,
                (left, top + side + GAP + 3),
                name,
                font,
                side,
                before=f"{similarity:.3f}" if c else "",
            )
        left = len(pictures) * cell + 3 * GAP
        pen.text((left, top + side // 2 - 9), f"{count:,} images", INK, font)
        if count > len(pictures):
            pen.text((left, top + side // 2 + 9), f"+ {count - len(pictures):,} more", INK, font)
    return page
