"""Read one image file as PIL RGB, as a viewer with a white background would show it."""

from __future__ import annotations

import contextlib
import errno
import io
import struct
import threading
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from utils.data import colour_profiles, file_kinds, image_names
from utils.runtime.errors import DataError, UnreadError
from utils.runtime.regular_files import NEVER_OPENED, irregular

# entries of Image.info in which Pillow looks for an orientation
ORIENTATION_ENTRIES = frozenset(("exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp"))
# entry of Image.info: (width, height) in the file, before EXIF orientation is applied
STORED_SIZE = "stored_size"
# A picture of more pixels is read at half its width and height, one at a time in a process: a JPEG
# is decoded so, which takes no memory for the rest. No picture up to here is read otherwise than in
# full, so that what was measured of it stays.
LARGE = 89_478_485
# of a file; more may be a decompression bomb. Telephones make pictures of up to 16,320 x 12,240
MOST_PIXELS = 200_000_000
Image.MAX_IMAGE_PIXELS = MOST_PIXELS  # Pillow refuses twice as many before it decodes, too
LONGEST = 50  # times its shorter side: the longer side of a picture; scaled, a line is gigabytes
_one_large = threading.Lock()
# what Pillow raises on broken EXIF data
BROKEN_EXIF = (
    struct.error,
    TypeError,
    ValueError,
    KeyError,
    IndexError,
    ZeroDivisionError,
    OSError,
    SyntaxError,
)
# what Pillow raises on files that are no image, are truncated, lie about their size, or are bombs
UNREADABLE = (
    *BROKEN_EXIF,
    EOFError,
    RuntimeError,  # of AVIF and HEIC
    OverflowError,
    MemoryError,
    UnidentifiedImageError,
    Image.DecompressionBombError,
)
# system errors that say that there is no readable file; all others are failures of the disk
NO_FILE = (errno.ENOENT, errno.EACCES, errno.EISDIR, errno.ELOOP, errno.ENOTDIR, errno.ENAMETOOLONG)


def to_rgb(image: Image.Image) -> Image.Image:
    """A Pillow image of any mode as RGB, as a viewer with a white background would show it.

    EXIF orientation is applied, colours are converted to sRGB by the embedded profile, transparency
    is laid over white, and 16-bit greys are scaled to 8 bits."""
    profile = image.info.get("icc_profile")
    # without this check, Pillow would copy the pixels even if there is no orientation
    if not ORIENTATION_ENTRIES.isdisjoint(image.info):
        with contextlib.suppress(*BROKEN_EXIF):  # viewers then show the pixels as they are stored
            image = ImageOps.exif_transpose(image)
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers, of which none is known as white")
    if image.mode in ("I;16", "I;16B", "I;16L", "I;16N", "I"):
        # Pillow's own conversion clips at 255 instead of scaling
        grey = np.asarray(image).astype(np.float64) / 257.0
        image = Image.fromarray(np.clip(np.round(grey), 0, 255).astype(np.uint8))
    if image.mode in ("LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("LA" if image.mode in ("L", "LA", "La") else "RGBA")
    image = colour_profiles.to_srgb(image, profile)
    if image.mode == "LA":
        image = image.convert("RGBA")
    if image.mode == "RGBA":
        page = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(page, image).convert("RGB")
    # convert() would copy an RGB image, which costs a third of the time of decoding it
    return image if image.mode == "RGB" else image.convert("RGB")


def open_image(
    source: str | Path | BinaryIO, *, name: str | Path | None = None, at_least: int | None = None
) -> Image.Image:
    """Read an image file as PIL RGB.

    source: a path, or an open file;
    name: of an open file, for messages;
    at_least: a side in pixels that is enough; a larger JPEG is then decoded at a half, a quarter or
    an eighth. For pictures that are looked at, never for those that are measured. A picture of more
    than LARGE pixels is halved in any case.
    Any decoder of image_names.FORMATS reads it, whatever its ending, and no other: left to itself,
    Pillow goes by the content, and strangers' files would reach decoders that call other programs
    (EPS) or raise errors of their own (DDS). Of several pages or frames the first is read.
    DataError with the reason if the file is of none of these formats, truncated, of more than
    MOST_PIXELS, or longer than LONGEST times its width; UnreadError if the disk fails.
    Returns: the image; its info[STORED_SIZE] is the size in the file."""
    name = name or str(source)
    if isinstance(source, str | Path):
        source = io.BytesIO(_content(source))
    beginning = source.read(file_kinds.ENOUGH)
    source.seek(0)
    try:
        with Image.open(source, formats=image_names.decoders()) as image:
            stored = image.size
            _require_size(*stored)
            shown = _decoded(image, at_least)
            # a copy that is saved must not be converted again
            shown.info.pop("icc_profile", None)
            shown.info[STORED_SIZE] = stored
            return shown
    except UNREADABLE as error:
        reason = str(error) or type(error).__name__
        if isinstance(error, UnidentifiedImageError):
            reason = _not_an_image(beginning)
        raise DataError(f"{name}: {reason}") from None


def _require_size(width: int, height: int) -> None:
    """Raise an error of UNREADABLE for a picture that costs more to read than any real one does."""
    if width * height > MOST_PIXELS:
        raise Image.DecompressionBombError(
            f"{width} x {height} pixels may be a decompression bomb; at most {MOST_PIXELS:,} are"
            " read"
        )
    if max(width, height) > LONGEST * min(width, height):
        raise ValueError(
            f"{width} x {height} pixels: the longer side of a picture is at most {LONGEST} times"
            " the shorter"
        )


def _decoded(image: Image.Image, at_least: int | None) -> Image.Image:
    """The pixels of an opened file, as `to_rgb` shows them. at_least: as in `open_image`."""
    stored = image.size
    if stored[0] * stored[1] <= LARGE:
        if at_least:
            image.draft(None, (at_least, at_least))
        image.load()
        return to_rgb(image)
    with _one_large:
        half = (stored[0] // 2, stored[1] // 2)
        image.draft(None, (min(at_least or half[0], half[0]), min(at_least or half[1], half[1])))
        image.load()
        shown = to_rgb(image)
        # of the formats, JPEG alone is decoded at another size than it is stored
        return shown.reduce(2) if sorted(shown.size) == sorted(stored) else shown


def _not_an_image(beginning: bytes) -> str:
    """Why no decoder takes a file, with what it is instead. beginning: its first bytes."""
    kind = file_kinds.kind_of(beginning)
    if kind == "HEIC" and "HEIF" not in image_names.decoders():
        return f"is not an image that can be read: it is HEIC ({image_names.ABSENT['HEIF']})"
    if kind in ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WebP", "AVIF"):
        return f"is not an image: it begins as {kind} does, and is damaged"
    return "is not an image" + (f": it is {kind}" if kind else "")


def _content(path: str | Path) -> bytes:
    """Read the bytes of an image file before they are decoded, because Pillow raises the same
    errors for a failing disk and for a broken image."""
    reason = irregular(path)
    if reason in NEVER_OPENED:
        raise DataError(f"{path}: {reason}")
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise (DataError if error.errno in NO_FILE else UnreadError)(
            f"{path}: {error.strerror}"
        ) from None
