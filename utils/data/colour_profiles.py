"""Converts pictures with an embedded ICC profile to sRGB, as a viewer shows them.

A picture whose profile is sRGB, by what it does to colours and not by its name, stays as it is to
the bit. A profile that cannot be used (broken, or of another kind than the pixels) is ignored, as
viewers do."""

from __future__ import annotations

import functools
import io
import itertools

import numpy as np
from PIL import Image, ImageCms

MOST_BYTES = 4 << 20  # of a profile; those of printing presses have up to 3 MB
# a profile that moves no colour further than this, of 255, is sRGB: copies of it differ by rounding
SAME_COLOUR = 2
# the colour space of a profile that fits pixels of a mode
SPACES = {"L": "GRAY", "LA": "GRAY", "RGB": "RGB ", "RGBA": "RGB ", "CMYK": "CMYK"}
# what Pillow raises on profiles that the library refuses
BROKEN_PROFILE = (ImageCms.PyCMSError, OSError, ValueError, TypeError, SyntaxError, MemoryError)


def to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """The colours of a picture in sRGB.

    image: Pillow, of any mode; profile: the ICC profile of its file.
    Returns: RGB (RGBA or LA with transparency) where the profile is used; `image` itself where it
    is sRGB, is broken, or is not of the kind of the pixels."""
    if image.mode == "LAB":  # its meaning needs no profile
        return _from_lab().apply(image)
    if not profile or len(profile) > MOST_BYTES:
        return image
    pixels = image.convert("RGB") if image.mode in ("P", "YCbCr", "HSV") else image
    transform = _transform(bytes(profile), pixels.mode) if pixels.mode in SPACES else None
    if transform is None:
        return image
    if pixels.mode != "LA":
        return transform.apply(pixels)
    shown = transform.apply(pixels.getchannel("L"))
    shown.putalpha(pixels.getchannel("A"))
    return shown


@functools.lru_cache(maxsize=64)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """The conversion of pixels to sRGB; None where it is none, or cannot be made."""
    out = "RGBA" if mode == "RGBA" else "RGB"
    try:
        read = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if read.profile.xcolor_space != SPACES[mode]:
            return None
        pixels = "L" if mode == "LA" else mode
        # the library's tables of greys miss dark ones by up to 10 levels
        flags = ImageCms.Flags.NOOPTIMIZE if pixels == "L" else ImageCms.Flags.NONE
        made = ImageCms.buildTransform(
            read, ImageCms.createProfile("sRGB"), pixels, out, flags=flags
        )
        return None if mode != "CMYK" and _changes_nothing(made, pixels) else made
    except BROKEN_PROFILE:
        return None


def _changes_nothing(transform: ImageCms.ImageCmsTransform, mode: str) -> bool:
    """Whether a conversion leaves colours where they are, up to SAME_COLOUR; tried on greys and,
    except for "L", a grid of colours."""
    greys = np.arange(256, dtype=np.uint8)[:, None].repeat(3, 1)
    steps = np.linspace(0, 255, 9).round().astype(np.uint8)
    colours = np.array(list(itertools.product(steps, repeat=3)), np.uint8)
    tried = greys if mode == "L" else np.concatenate([greys, colours])
    page = Image.fromarray(tried[None])
    shown = transform.apply(page.getchannel(0) if mode == "L" else page.convert(mode))
    moved = np.asarray(shown.convert("RGB"), np.int16)[0] - tried
    return int(np.abs(moved).max()) <= SAME_COLOUR


@functools.cache
def _from_lab() -> ImageCms.ImageCmsTransform:
    return ImageCms.buildTransform(
        ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), "LAB", "RGB"
    )
