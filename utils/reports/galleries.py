"""Images side by side: contact sheets, pages of queries with their matches, pages of groups of near-duplicates."""

from PIL import Image, ImageDraw, ImageFont

PAPER, INK, FRAME = (255, 255, 255), (40, 40, 40), (0xD5, 0x5E, 0x00)  # vermillion: told from grey by any eye
GAP = 6
SIDE = 128  # of a picture on a page


def contact_sheet(images, columns):
    """PIL images of one size in rows of `columns`, on white. Returns: PIL RGB."""
    width, height = images[0].size
    rows = -(-len(images) // columns)
    sheet = Image.new("RGB", (columns * (width + GAP) + GAP, rows * (height + GAP) + GAP), PAPER)
    for i, image in enumerate(images):
        sheet.paste(image.convert("RGB"), (GAP + i % columns * (width + GAP), GAP + i // columns * (height + GAP)))
    return sheet


def fitted(image, side):
    """The image within a square of `side` pixels, centred on white; small images are enlarged by whole pixels."""
    scale = side / max(image.size)
    how = Image.Resampling.NEAREST if scale >= 2 else Image.Resampling.LANCZOS
    image = image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))), how)
    square = Image.new("RGB", (side, side), PAPER)
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square


def shortened(text, pen, font, width):
    """The text, cut and with an ellipsis when it is wider than `width` pixels."""
    if pen.textlength(text, font) <= width:
        return text
    while text and pen.textlength(text + "…", font) > width:
        text = text[:-1]
    return text + "…"


def pair_grid(rows, *, titles, side=SIDE, columns=3):
    """Pairs of images, each with two lines of text below, `columns` pairs a row.

    rows: [((left image, right image), line, line)]; titles: of the left and the right ones. Returns: PIL RGB.
    """
    font = ImageFont.load_default(12)
    width, height, head = 2 * side + 3 * GAP, side + 44, 24
    columns = min(columns, len(rows))
    page = Image.new("RGB", (columns * width + (columns + 1) * GAP, head + -(-len(rows) // columns) * height), PAPER)
    pen = ImageDraw.Draw(page)
    for i, (pair, *lines) in enumerate(rows):
        left, top = 2 * GAP + i % columns * (width + GAP), head + i // columns * height
        for n, image in enumerate(pair):
            if i < columns:
                pen.text((left + n * (side + GAP), 5), titles[n], INK, font)
            page.paste(fitted(image, side), (left + n * (side + GAP), top))
        for n, line in enumerate(lines):
            pen.text((left, top + side + 3 + 16 * n), shortened(line.replace("\n", " "), pen, font, 2 * side), INK, font)
    return page


def match_page(rows, *, threshold, side=SIDE, columns=4):
    """A gallery page: each row a query, then its matches with scores, framed when the score is over the threshold.

    rows: [(query image, query label, [(match image, score, label)])]; threshold: or None. Returns: PIL RGB.
    """
    font = ImageFont.load_default(13)
    cell, line = side + 2 * GAP, 18
    head = 24
    page = Image.new("RGB", (cell * (columns + 1) + 3 * GAP, head + len(rows) * (cell + line)), PAPER)
    pen = ImageDraw.Draw(page)
    pen.text((GAP, 5), "generated", INK, font)
    pen.text((cell + 4 * GAP, 5), "nearest training images, most similar first", INK, font)
    for r, (query, label, matches) in enumerate(rows):
        top = head + r * (cell + line)
        page.paste(fitted(query, side), (GAP, top + GAP))
        pen.text((GAP, top + side + GAP + 3), shortened(label, pen, font, side), INK, font)
        for c, (image, score, name) in enumerate(matches):
            left = (c + 1) * cell + 3 * GAP
            if threshold is not None and score > threshold:
                pen.rectangle((left, top + 1, left + side + 2 * GAP - 2, top + side + 2 * GAP - 2), fill=FRAME)
            page.paste(fitted(image, side), (left + GAP - 1, top + GAP))
            pen.text((left + GAP - 1, top + side + 2 * GAP), f"{score:.3f} {_ending(name, int(side / 7) - 6)}", INK, font)
    return page


def group_page(groups, *, side=SIDE, columns=7):
    """A page of groups, each a row: the picture that is kept, then others with their similarity to it, then how many images
    there are.

    groups: [([(image, similarity, name)], size)], the one that is kept first, `columns` of them at most. Returns: PIL RGB.
    """
    font = ImageFont.load_default(13)
    cell, line, head = side + 2 * GAP, 18, 24
    page = Image.new("RGB", (cell * columns + 3 * GAP + 90, head + len(groups) * (cell + line)), PAPER)
    pen = ImageDraw.Draw(page)
    pen.text((GAP, 5), "to keep", INK, font)
    pen.text((cell + 3 * GAP, 5), "near-duplicates of it, and their similarity to it", INK, font)
    for r, (pictures, size) in enumerate(groups):
        top = head + r * (cell + line)
        for c, (image, similarity, name) in enumerate(pictures):
            left = c * cell + (3 * GAP if c else GAP)
            page.paste(fitted(image, side), (left, top + GAP))
            room = int(side / 7)
            words = f"{similarity:.3f} {_ending(name, room - 6)}" if c else _ending(name, room)
            pen.text((left, top + side + GAP + 3), words, INK, font)
        left = len(pictures) * cell + 3 * GAP
        pen.text((left, top + side // 2 - 9), f"{size:,} images", INK, font)
        if size > len(pictures):
            pen.text((left, top + side // 2 + 9), f"+ {size - len(pictures):,} more", INK, font)
    return page


def _ending(name, length):
    """The end of a name, which tells it from its neighbours, on one line."""
    name = " ".join(name.split())
    return name if len(name) <= length else "…" + name[-length + 1 :]
