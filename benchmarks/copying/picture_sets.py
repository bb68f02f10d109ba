"""Real pictures that a fresh machine can have, divided into training pictures and innocents, which
are pictures like them that nobody copied.

- photographs: those that scikit-image and matplotlib carry on disk, cut into tiles that share no
  pixel;
- emoji: the pictures of the npm package emoji-datasource-google 16.0.0, on white, of 64 px."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from utils.runtime.errors import UsageError

# Photographs of scikit-image in its order; drawings, texts and test patterns are left out. So are
# the textures brick, grass and gravel: they were retouched so that they can be laid side by side,
# and pieces of 48 px recur elsewhere in them, at a correlation of 0.98, 0.99 and 0.94. Their tiles
# are copies of each other, not innocents.
PHOTOGRAPHS = (
    "astronaut.png",
    "camera.png",
    "cell.png",
    "chelsea.png",
    "clock_motion.png",
    "coffee.png",
    "coins.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "moon.png",
    "motorcycle_left.png",  # its right view shows the same and is left out
    "retina.jpg",
    "rocket.jpg",
)
PORTRAIT = "grace_hopper.jpg"  # of matplotlib
EMOJI_PACKAGE = "emoji-datasource-google@16.0.0"
FLAT = 8.0  # of 255: a tile with a smaller standard deviation shows next to nothing
# a tile is divided into cells; one with a standard deviation below PLAIN, of 255, is plain, and a
# tile of which more than MOST_PLAIN is plain is a piece of sky, cloth or border with little else
CELLS, PLAIN, MOST_PLAIN = 8, 5.0, 2 / 3
SIBLINGS = 0.9  # correlation of two emoji at 16 x 16, above which they are one family
EMOJI_SIDE = 64  # pixels


@dataclass(frozen=True)
class Picture:
    """A picture with what is known of it."""

    name: str
    image: Image.Image  # RGB
    family: str  # pictures of one family resemble each other
    transparent: Image.Image | None = None  # the same as RGBA, where it has a transparent ground


@dataclass(frozen=True)
class PictureSet:
    """Training pictures, and two disjoint parts of innocents."""

    name: str
    training: list[Image.Image]  # RGB
    names: list[str]  # of the training pictures
    innocents: list[Image.Image]  # they set the threshold
    check: list[Image.Image]  # they check it
    transparent: list[Image.Image] | None  # the training pictures as RGBA, None for photographs
    families: list[str]  # of the training pictures
    apart: bool  # whether every family lies in one part only


# Photographs --------------------------------------------------------------------------------------


def photograph_files() -> list[Path]:
    """The photographs that the installed packages carry.

    Raises UsageError without scikit-image."""
    found = importlib.util.find_spec("skimage")
    if found is None or found.origin is None:
        raise UsageError("scikit-image is not installed: pip install scikit-image")
    paths = [Path(found.origin).parent / "data" / name for name in PHOTOGRAPHS]
    matplotlib = importlib.util.find_spec("matplotlib")
    if matplotlib is not None and matplotlib.origin is not None:
        sample = Path(matplotlib.origin).parent / "mpl-data" / "sample_data" / PORTRAIT
        paths += [sample] if sample.is_file() else []
    return paths


def is_plain(tile: Image.Image) -> bool:
    """Whether most of a picture is plain. tile: RGB, its side a multiple of CELLS."""
    cell = tile.width // CELLS
    grey = np.asarray(tile.convert("L"), float)[: cell * CELLS, : cell * CELLS]
    contrast = grey.reshape(CELLS, cell, CELLS, cell).std((1, 3))
    return float((contrast < PLAIN).mean()) > MOST_PLAIN


def tiles_of(path: Path, side: int, *, with_plain: bool = False) -> list[Picture]:
    """The tiles of a photograph that share no pixel, without the flat ones; the grid lies in the
    middle of the photograph.

    side: of a tile in pixels
    with_plain: also those that are plain, but not flat"""
    with Image.open(path) as opened:
        photograph = opened.convert("RGB")
    columns, rows = photograph.width // side, photograph.height // side
    left, top = (photograph.width - columns * side) // 2, (photograph.height - rows * side) // 2
    tiles = []
    for row in range(rows):
        for column in range(columns):
            x, y = left + column * side, top + row * side
            tile = photograph.crop((x, y, x + side, y + side))
            flat = np.asarray(tile.convert("L"), float).std() < FLAT
            if not flat and (with_plain or not is_plain(tile)):
                tiles.append(Picture(f"{path.stem}-{row}-{column}", tile, path.stem))
    return tiles


def photographs(side: int, *, with_plain: bool = False) -> list[Picture]:
    """Every tile of every photograph, as by `tiles_of`; its family is the photograph."""
    return [
        tile for path in photograph_files() for tile in tiles_of(path, side, with_plain=with_plain)
    ]


# Emoji --------------------------------------------------------------------------------------------


def emoji(folder: Path) -> list[Picture]:
    """The emoji of an unpacked npm package, sorted by name, each picture once.

    A family is an emoji with its skin tones and with all emoji that look alike, such as the clocks.

    folder: holds emoji.json and img/google/64."""
    entries = json.loads((folder / "emoji.json").read_text(encoding="utf-8"))
    pictures, seen = [], set()
    for entry in sorted(entries, key=lambda entry: entry["unified"]):
        for variant in (entry, *entry.get("skin_variations", {}).values()):
            path = folder / "img" / "google" / str(EMOJI_SIDE) / variant["image"]
            if not path.is_file():
                continue
            picture = _emoji_picture(path, entry["name"])
            pixels = picture.image.tobytes()
            if pixels not in seen:  # some are the same to the pixel under different names
                seen.add(pixels)
                pictures.append(picture)
    return _with_siblings(pictures)


def _emoji_picture(path: Path, family: str) -> Picture:
    with Image.open(path) as opened:
        transparent = opened.convert("RGBA")
    return Picture(path.stem, on_ground(transparent, 255), family, transparent)


def on_ground(transparent: Image.Image, grey: int) -> Image.Image:
    """An RGBA picture on a plain ground, as RGB. grey: of the ground, 0 to 255."""
    ground = Image.new("RGBA", transparent.size, (grey, grey, grey, 255))
    return Image.alpha_composite(ground, transparent).convert("RGB")


def small_vectors(images: Sequence[Image.Image]) -> np.ndarray:
    """Normalised vectors of pictures at 16 x 16, whose products are correlations: [N, 768]."""
    small = [np.asarray(i.resize((16, 16), Image.Resampling.BOX), np.float32) for i in images]
    values = np.stack(small).reshape(len(small), -1)
    values -= values.mean(1, keepdims=True)
    return values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-6)


def _with_siblings(pictures: list[Picture]) -> list[Picture]:
    """The pictures, where families whose members look alike are one."""
    vectors = small_vectors([picture.image for picture in pictures])
    names = [picture.family for picture in pictures]
    parents = {name: name for name in names}

    def root(name: str) -> str:
        while parents[name] != name:
            name = parents[name]
        return name

    for i, j in np.argwhere(np.triu(vectors @ vectors.T, 1) > SIBLINGS):
        parents[root(names[j])] = root(names[i])
    return [
        Picture(picture.name, picture.image, root(picture.family), picture.transparent)
        for picture in pictures
    ]


# Parts --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sizes:
    """How many pictures each part of a set has."""

    training: int
    innocents: int
    check: int

    def at_most(self, available: int) -> Sizes:
        """The same parts, shrunk evenly if there are fewer pictures."""
        share = min(1.0, available / (self.training + self.innocents + self.check))
        return Sizes(*(max(1, int(share * n)) for n in (self.training, self.innocents, self.check)))


def divide(
    name: str, pictures: Sequence[Picture], sizes: Sizes, *, seed: int, apart: bool
) -> PictureSet:
    """Divide pictures into three parts at random.

    apart: every family lies in one part only: one picture of each, if there are as many families as
        pictures wanted, otherwise whole families (their parts have at most the wanted sizes);
        otherwise families straddle the parts."""
    order = np.random.default_rng(seed).permutation(len(pictures))
    shuffled = [pictures[i] for i in order]
    if not apart:
        sizes = sizes.at_most(len(shuffled))
        middle = sizes.training + sizes.innocents
        parts = [
            shuffled[: sizes.training],
            shuffled[sizes.training : middle],
            shuffled[middle : middle + sizes.check],
        ]
    else:
        parts = _families_apart(shuffled, sizes)
    training, innocents, check = parts
    transparent = [picture.transparent for picture in training if picture.transparent is not None]
    return PictureSet(
        name=name,
        training=[picture.image for picture in training],
        names=[picture.name for picture in training],
        innocents=[picture.image for picture in innocents],
        check=[picture.image for picture in check],
        transparent=transparent if len(transparent) == len(training) else None,
        families=[picture.family for picture in training],
        apart=apart,
    )


def _families_apart(shuffled: Sequence[Picture], sizes: Sizes) -> list[list[Picture]]:
    """Three parts without a common family, each family given to the part that lacks most."""
    members: dict[str, list[Picture]] = {}
    for picture in shuffled:
        members.setdefault(picture.family, []).append(picture)
    wanted = (sizes.training, sizes.innocents, sizes.check)
    if len(members) >= sum(wanted):
        families = [family[:1] for family in members.values()]
    else:
        wanted_now = sizes.at_most(len(shuffled))
        wanted = (wanted_now.training, wanted_now.innocents, wanted_now.check)
        # the largest first, so that the small ones can even out the parts
        families = sorted(members.values(), key=len, reverse=True)
    parts: list[list[Picture]] = [[], [], []]
    for family in families:
        filled = [len(part) / n for part, n in zip(parts, wanted, strict=True)]
        parts[int(np.argmin(filled))].extend(family)
    return [part[:n] for part, n in zip(parts, wanted, strict=True)]
