"""What happens to a picture before it is searched for again: twenty changes, each at two or three
strengths, the lesser one first."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont, ImageOps

from benchmarks.copying.picture_sets import on_ground

TINY_SD = Path(__file__).resolve().parent.parent.parent / "assets" / "tiny-sd"
WORDS = "SAMPLE PICTURE"

# (picture, strength, generator, another picture of the same set) -> the changed picture, RGB
Apply = Callable[[Image.Image, float, np.random.Generator, Image.Image], Image.Image]


@dataclass(frozen=True)
class Change:
    """A change of a picture. Lengths are shares of its side."""

    name: str
    strengths: tuple[float, ...]
    meaning: str  # of the strength
    apply: Apply
    transparent: bool = False  # takes an RGBA picture; not applicable to others


# Colours and grain --------------------------------------------------------------------------------


def exact(
    picture: Image.Image, strength: float, rng: np.random.Generator, other: Image.Image
) -> Image.Image:
    """The picture itself."""
    return picture.copy()


def jpeg(
    picture: Image.Image, strength: float, rng: np.random.Generator, other: Image.Image
) -> Image.Image:
    """JPEG of quality `strength`."""
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=int(strength))
    return Image.open(file).convert("RGB")


def blur(
    picture: Image.Image, strength: float, rng: np.random.Generator, other: Image.Image
) -> Image.Image:
    """Gaussian blur with a standard deviation of `strength`."""
    return picture.filter(ImageFilter.GaussianBlur(strength * picture.width))


def noise(
    picture: Image.Image, strength: float, rng: np.random.Generator, other: Image.Image
) -> Image.Image:
    """Gaussian noise with a standard deviation of `strength`, of the range."""
    grain = rng.normal(0, 255 * strength, (picture.height, picture.width, 3))
    return _image(np.asarray(picture, float) + grain)


def darker(
    picture: Image.Image, strength: float, rng: np.random.Generator, other: Image.Image
) -> Image.Image:
    """Every value times `strength`."""
    return _image(np.asarray(picture, float) * strength)


def pale(
    picture: Image.Image, strength: float, rng: np.random.Generator, other: Image.Image
) -> Image.Image:
    """Mixed with white, whose share is `strength`."""
    return Image.blend(picture, Image.new("RGB", picture.size, "white"), strength)


def grey(
    picture: Image.Image, strength: float, rng: np.random.Generator, other: Image.Image
) -> Image.Image:
    """Mixed with its own grey picture, whose share is `strength`."""
    return Image.blend(picture, ImageOps.grayscale(picture).convert("RGB"), strength)


def hue(
    picture: Image.Image, strength: float, rng: np.random.Generator, other: Image.Image
) -> Image.Image:
    """All hues turned by `strength` of a full circle."""
    h, s, v = picture.convert("HSV").split()
    turned = h.point([int(i + 256 * strength) % 256 for i in range(256)])
    return Image.merge("HSV", (turned, s, v)).convert("RGB")


def another_ground(
    picture: Image.Image, strength: float, rng: np.random.Generator, other: Image.Image
) -> Image.Image:
    """A transparent picture on a ground of the grey `strength`, 0 black, instead of white."""
    return on_ground(picture, round(255 * strength))


@cache
def _autoencoder() -> Any:
    """The autoencoder of tiny-sd."""
    from utils.models.parts import load_parts

    return load_parts("--base_model", str(TINY_SD)).vae.eval().requires_grad_(False)


def autoencoded(
    picture: Image.Image, strength: float, rng: np.random.Generator, other: Image.Image
) -> Image.Image:
    """Compressed and restored by the autoencoder of tiny-sd, `strength` times; sides are whole
    multiples of 8 pixels."""
    import torch

    vae = _autoencoder()
    width, height = (8 * round(side / 8) for side in picture.size)
    pixels = np.asarray(picture.resize((width, height)), np.float32)
    values = torch.from_numpy(pixels).permute(2, 0, 1)[None] / 127.5 - 1
    with torch.no_grad():
        for _ in range(int(strength)):
            values = vae.decode(vae.encode(values).latent_dist.mode()).sample.clamp(-1, 1)
    return _image((values[0].permute(1, 2, 0).numpy() + 1) * 127.5)


# Geometry -----------------------------------------------------------------------------------------


def mirrored(
    picture: Image.Image, strength: float, rng: np.random.Generator, other: Image.Image
) -> Image.Image:
    """Left and right exchanged, and cropped as by `cropped`."""
    return ImageOps.mirror(cropped(picture, strength, rng, other))


def cropped(
    picture: Image.Image, strength: float, rng: np.random.Generator, other: Image.Image
) -> Image.Image:
    """A part whose sides are `strength` of the picture's, anywhere in it, enlarged to its size."""
    width, height = strength * picture.width, strength * picture.height
    left = rng.uniform(0, picture.width - width) if strength < 1 else 0
    top = rng.uniform(0, picture.height - height) if strength < 1 else 0
    box = (left, top, left + width, top + height)
    return picture.resize(picture.size, Image.Resampling.BICUBIC, box=box)


def shifted(
    picture: Image.Image, strength: float, rng: np.random.Generator, other: Image.Image
) -> Image.Image:
    """Moved by `strength` in a random direction; the edge is filled by reflection."""
    angle = rng.uniform(0, 2 * np.pi)
    across, down = strength * np.cos(angle), strength * np.sin(angle)
    return _moved(picture, 0.0, (across * picture.width, down * picture.height))


def rotated(
    picture: Image.Image, strength: float, rng: np.random.Generator, other: Image.Image
) -> Image.Image:
    """Turned by `strength` degrees, to the left or right; corners are filled by reflection."""
    return _moved(picture, strength * rng.choice((-1, 1)), (0.0, 0.0))


def squeezed(
    picture: Image.Image, strength: float, rng: np.random.Generator, other: Image.Image
) -> Image.Image:
    """One side, width or height, shortened to `strength` of its length."""
    short = rng.random() < 0.5
    width = round(picture.width * strength) if short else picture.width
    height = picture.height if short else round(picture.height * strength)
    return picture.resize((width, height), Image.Resampling.BICUBIC)


def smaller(
    picture: Image.Image, strength: float, rng: np.random.Generator, other: Image.Image
) -> Image.Image:
    """At `strength` of its size, anywhere on a plain ground: white or grey."""
    grey_level = int(rng.choice((255, 128)))
    return _pasted(picture, strength, rng, Image.new("RGB", picture.size, (grey_level,) * 3))


def half(
    picture: Image.Image, strength: float, rng: np.random.Generator, other: Image.Image
) -> Image.Image:
    """A part of the picture that has its full height and `strength` of its width, the left or the
    right one."""
    width = round(strength * picture.width)
    left = 0 if rng.random() < 0.5 else picture.width - width
    return picture.crop((left, 0, left + width, picture.height))


# With something else ------------------------------------------------------------------------------


def text_across(
    picture: Image.Image, strength: float, rng: np.random.Generator, other: Image.Image
) -> Image.Image:
    """Words written across its middle, red with a white edge, `strength` high."""
    written = picture.copy()
    font = ImageFont.load_default(max(6.0, strength * picture.height))
    middle = (picture.width / 2, picture.height / 2)
    edge = max(1, picture.height // 64)
    drawing = ImageDraw.Draw(written)
    drawing.text(
        middle, WORDS, (200, 0, 0), font, anchor="mm", stroke_width=edge, stroke_fill="white"
    )
    return written


def glued(
    picture: Image.Image, strength: float, rng: np.random.Generator, other: Image.Image
) -> Image.Image:
    """Beside the left part of another picture, of the same height; `strength` of the width is the
    picture."""
    added = round(picture.width * (1 - strength) / strength)
    beside = ImageOps.fit(other, picture.size).crop((0, 0, added, picture.height))
    whole = Image.new("RGB", (picture.width + added, picture.height))
    first = rng.random() < 0.5
    whole.paste(picture, (0 if first else added, 0))
    whole.paste(beside, (picture.width if first else 0, 0))
    return whole


def within_another(
    picture: Image.Image, strength: float, rng: np.random.Generator, other: Image.Image
) -> Image.Image:
    """At `strength` of its size, anywhere in another picture."""
    return _pasted(picture, strength, rng, ImageOps.fit(other, picture.size))


# Helpers ------------------------------------------------------------------------------------------


def _image(values: np.ndarray) -> Image.Image:
    """An image of values from 0 to 255: [H, W, 3]."""
    return Image.fromarray(values.round().clip(0, 255).astype(np.uint8))


def _moved(picture: Image.Image, degrees: float, shift: tuple[float, float]) -> Image.Image:
    """The picture, turned about its centre, then shifted by pixels to the right and down; what is
    missing is filled by reflection."""
    pixels = np.asarray(picture)
    edge = max(picture.size) // 2
    padded = Image.fromarray(np.pad(pixels, ((edge, edge), (edge, edge), (0, 0)), "symmetric"))
    moved = padded.rotate(degrees, Image.Resampling.BICUBIC, translate=shift)
    return moved.crop((edge, edge, edge + picture.width, edge + picture.height))


def _pasted(
    picture: Image.Image, size: float, rng: np.random.Generator, ground: Image.Image
) -> Image.Image:
    """The ground with the picture at `size` of its own size, anywhere within it."""
    width, height = (round(size * side) for side in picture.size)
    left = int(rng.integers(ground.width - width + 1))
    top = int(rng.integers(ground.height - height + 1))
    whole = ground.copy()
    whole.paste(picture.resize((width, height), Image.Resampling.LANCZOS), (left, top))
    return whole


CHANGES: dict[str, Change] = {
    change.name: change
    for change in (
        Change("exact", (1.0,), "as it is", exact),
        Change("jpeg", (30.0, 10.0), "quality", jpeg),
        Change("blurred", (0.01, 0.025), "standard deviation", blur),
        Change("noise", (0.04, 0.12), "standard deviation", noise),
        Change("darker", (0.7, 0.4), "factor", darker),
        Change("pale", (0.4, 0.7), "share of white", pale),
        Change("grey", (0.6, 1.0), "share of grey", grey),
        Change("hue", (0.08, 0.25), "of a circle", hue),
        Change("mirrored", (1.0, 0.8), "side kept", mirrored),
        Change("cropped", (0.9, 0.8, 0.6), "side kept", cropped),
        Change("shifted", (0.05, 0.15), "of the side", shifted),
        Change("rotated", (5.0, 10.0), "degrees", rotated),
        Change("squeezed", (0.9, 0.8), "side kept", squeezed),
        Change("smaller", (0.75, 0.5), "of its size, on a plain ground", smaller),
        Change("ground", (0.5, 0.0), "grey, instead of white", another_ground, transparent=True),
        Change("text", (0.12, 0.2), "height of the words", text_across),
        Change("glued", (0.7, 0.5), "of the width", glued),
        Change("half", (0.7, 0.5), "width kept", half),
        Change("within", (0.75, 0.5), "of its size, in another picture", within_another),
        Change("autoencoder", (1.0, 3.0), "times", autoencoded),
    )
}
