"""Images side by side: contact sheets, pages of queries with their matches, pages of groups of
near-duplicates."""

import functools
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

# vermillion: told from grey by any eye
PAPER, INK, FRAME = (255, 255, 255), (40, 40, 40), (0xD5, 0x5E, 0x00)
GAP = 6
SIDE = 128  # of a picture on a page
LINE, BELOW = 15, 34  # height of a line, and of the two below a picture
# of a name or prompt that are looked at: more fit in no line, and strangers' are as long as they
# like
MOST_LETTERS = 400


def contact_sheet(images, columns):
    """PIL images of one size in rows of `columns`, on white. Returns: PIL RGB."""
    width, height = images[0].size
    rows = -(-len(images) // columns)
    sheet = Image.new("RGB", (columns * (width + GAP) + GAP, rows * (height + GAP) + GAP), PAPER)
    for i, image in enumerate(images):
        sheet.paste(
            image.convert("RGB"),
            (GAP + i % columns * (width + GAP), GAP + i // columns * (height + GAP)),
        )
    return sheet


def fitted(image, side):
    """The image within a square of `side` pixels, centred on white; small images are enlarged by
    whole pixels."""
    scale = side / max(image.size)
    how = Image.Resampling.NEAREST if scale >= 2 else Image.Resampling.LANCZOS
    image = image.resize(
        (max(1, round(image.width * scale)), max(1, round(image.height * scale))), how
    )
    square = Image.new("RGB", (side, side), PAPER)
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square


def write_pages(folder, pages, draw, *, workers, keep=None, first=0):
    """Write page_01.png ... into a new folder, in `workers` threads.

    pages: what each shows; draw: takes one of them, returns its PIL image; keep: takes the PIL
    image of one of the `first` pages. Returns: [what keep returned]."""
    folder.mkdir(parents=True)

    def write(item):
        number, shown = item
        page = draw(shown)
        # runs alone: a quarter of the default's time, a tenth larger
        page.save(folder / f"page_{number:02d}.png", compress_type=zlib.Z_RLE)
        return keep(page) if number <= first else None

    # Pillow decodes, resizes and compresses outside Python's lock
    with ThreadPoolExecutor(max(1, workers)) as pool:
        return list(pool.map(write, enumerate(pages, 1)))[:first]


# Words --------------------------------------------------------------------------------------------


def font_of(size):
    """DejaVu Sans, which matplotlib carries: unlike Pillow's own it has accents, Greek and
    Cyrillic."""
    return ImageFont.truetype(_font_file(), size)


@functools.cache
def _font_file():
    import matplotlib

    return str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf")


@functools.cache
def _letters():
    from matplotlib.ft2font import FT2Font

    return frozenset(map(chr, FT2Font(_font_file()).get_charmap()))


def drawable(text):
    """The text on one line, ? for letters that the font lacks, which would be boxes."""
    known = _letters()
    return "".join(c if c in known else "?" for c in " ".join(text.split()))


def both_ends(text, pen, font, width):
    """The text, with an ellipsis in its middle when it is wider than `width` pixels: names differ
    at either end."""
    if len(text) <= MOST_LETTERS and pen.textlength(text, font) <= width:
        return text
    kept = min(len(text), MOST_LETTERS)
    while kept:
        kept -= 1
        found = text[: kept // 2] + "…" + text[len(text) - (kept - kept // 2) :]
        if pen.textlength(found, font) <= width:
            return found
    return "…"


def _label(pen, place, name, font, width, *, before=""):
    """Up to two lines: `before` and the folder or shard of a name, then the rest of it."""
    folder, _, end = name.rpartition("/")
    room = width - (pen.textlength(before + " ", font) if before else 0)
    first = " ".join(filter(None, [before, both_ends(drawable(folder), pen, font, room)]))
    lines = filter(None, [first, both_ends(drawable(end), pen, font, width)])
    for n, line in enumerate(lines):
        pen.text((place[0], place[1] + n * LINE), line, INK, font)


def shortened(text, pen, font, width):
    """The text, cut and with an ellipsis when it is wider than `width` pixels."""
    text = text if len(text) <= MOST_LETTERS else text[:MOST_LETTERS] + "…"
    if pen.textlength(text, font) <= width:
        return text
    while text and pen.textlength(text + "…", font) > width:
        text = text[:-1]
    return text + "…"


# Pages --------------------------------------------------------------------------------------------


def pair_grid(rows, *, titles, side=SIDE, columns=3):
    """Pairs of images, each with two lines of text below, `columns` pairs a row.

    rows: [((left image, right image), line, line)]; titles: of the left and the right ones.
    Returns: PIL RGB."""
    font = font_of(11)
    width, height, head = 2 * side + 3 * GAP, side + 44, 24
    columns = min(columns, len(rows))
    page = Image.new(
        "RGB",
        (columns * width + (columns + 1) * GAP, head + -(-len(rows) // columns) * height),
        PAPER,
    )
    pen = ImageDraw.Draw(page)
    for i, (pair, *lines) in enumerate(rows):
        left, top = 2 * GAP + i % columns * (width + GAP), head + i // columns * height
        for n, image in enumerate(pair):
            if i < columns:
                pen.text((left + n * (side + GAP), 5), titles[n], INK, font)
            page.paste(fitted(image, side), (left + n * (side + GAP), top))
        for n, line in enumerate(lines):
            pen.text(
                (left, top + side + 3 + 16 * n),
                shortened(drawable(line), pen, font, 2 * side),
                INK,
                font,
            )
    return page


def match_page(rows, *, threshold, side=SIDE, columns=4):
    """A gallery page: each row a query, then its matches with scores, framed when the score is over
    the threshold.

    rows: [(query image, query label, [(match image, score, label)])]; threshold: or None. Returns:
    PIL RGB."""
    font = font_of(11)
    cell, line, head = side + 2 * GAP, BELOW, 24
    page = Image.new(
        "RGB", (cell * (columns + 1) + 3 * GAP, head + len(rows) * (cell + line)), PAPER
    )
    pen = ImageDraw.Draw(page)
    pen.text((GAP, 5), "generated", INK, font)
    pen.text((cell + 4 * GAP, 5), "nearest training images, most similar first", INK, font)
    for r, (query, label, matches) in enumerate(rows):
        top = head + r * (cell + line)
        page.paste(fitted(query, side), (GAP, top + GAP))
        _label(pen, (GAP, top + side + 2 * GAP), label, font, side)
        for c, (image, score, name) in enumerate(matches):
            left = (c + 1) * cell + 3 * GAP
            if threshold is not None and score > threshold:
                pen.rectangle(
                    (left, top + 1, left + side + 2 * GAP - 2, top + side + 2 * GAP - 2), fill=FRAME
                )
            page.paste(fitted(image, side), (left + GAP - 1, top + GAP))
            _label(
                pen, (left + GAP - 1, top + side + 2 * GAP), name, font, side, before=f"{score:.3f}"
            )
    return page


def group_page(groups, *, side=SIDE, columns=7):
    """A page of groups, each a row: the picture that is kept, then others with their similarity to
    it, then how many images there are.

    groups: [([(image, similarity, name)], size)], the one that is kept first, `columns` of them at
    most. Returns: PIL RGB."""
    font = font_of(11)
    cell, line, head = side + 2 * GAP, BELOW, 24
    page = Image.new(
        "RGB", (cell * columns + 3 * GAP + 90, head + len(groups) * (cell + line)), PAPER
    )
    pen = ImageDraw.Draw(page)
    pen.text((GAP, 5), "to keep", INK, font)
    pen.text((cell + 3 * GAP, 5), "near-duplicates of it, and their similarity to it", INK, font)
    for r, (pictures, size) in enumerate(groups):
        top = head + r * (cell + line)
        for c, (image, similarity, name) in enumerate(pictures):
            left = c * cell + (3 * GAP if c else GAP)
            page.paste(fitted(image, side), (left, top + GAP))
            _label(
                pen,
                (left, top + side + GAP + 3),
                name,
                font,
                side,
                before=f"{similarity:.3f}" if c else "",
            )
        left = len(pictures) * cell + 3 * GAP
        pen.text((left, top + side // 2 - 9), f"{size:,} images", INK, font)
        if size > len(pictures):
            pen.text((left, top + side // 2 + 9), f"+ {size - len(pictures):,} more", INK, font)
    return page
