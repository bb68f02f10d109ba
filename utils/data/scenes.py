"""Scenes: a synthetic data set of captioned pictures, which comes with the toolkit.

A scene is a coloured, textured background with a large and a small shape. Its captions name
colours, shapes and texture, but not position, size, rotation, spacing, phase or colour jitter. So a
model that has learned the rules draws *another* scene for a caption, and a model that copies draws
*this* one.

    python -m utils.data.scenes --out DIR --count 64 --seed 0
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from utils.runtime.seeding import numpy_rng

COLOURS = {
    "red": (214, 32, 38),
    "orange": (245, 138, 32),
    "yellow": (240, 218, 48),
    "green": (38, 158, 66),
    "cyan": (64, 208, 214),
    "blue": (36, 78, 218),
    "purple": (130, 54, 176),
    "pink": (246, 128, 186),
    "black": (22, 20, 24),
    "white": (246, 242, 240),
}
TEXTURES = ("plain", "striped", "dotted", "checked")
SHADE = 0.68  # the texture's colour is the background's, times this
JITTER = 18  # largest change of each channel of each colour, of 255
OVERSAMPLING = 4  # scenes are painted at this many times their size

RGB = tuple[int, int, int]


@dataclass(frozen=True)
class Shape:
    """A shape at its place in a scene."""

    name: str  # a key of SHAPES
    colour: str  # a key of COLOURS
    rgb: RGB  # that colour with jitter, 0-255
    x: float  # of the centre, as a share of the image's side
    y: float
    radius: float  # as a share of the image's side
    rotation: float  # radians


@dataclass(frozen=True)
class Spec:
    """Every attribute of a scene."""

    background: str  # a key of COLOURS
    rgb: RGB  # that colour with jitter, 0-255
    texture: str  # one of TEXTURES
    spacing: float  # of the texture, as a share of the image's side
    phase: tuple[float, float]  # of the texture, as a share of its spacing
    angle: float  # of stripes, radians
    large: Shape
    small: Shape


@dataclass(frozen=True)
class Scene:
    """A scene with its captions."""

    image: Image.Image  # PIL RGB
    captions: tuple[str, ...]  # five; the first is in the fixed grammar
    label: str  # class: name of the large shape
    spec: Spec


def _arc(
    start: float,
    stop: float,
    *,
    centre: tuple[float, float] = (0.0, 0.0),
    radius: float = 1.0,
    points: int = 40,
) -> np.ndarray:
    angles = np.linspace(start, stop, points)
    return np.stack(
        [centre[0] + radius * np.cos(angles), centre[1] + radius * np.sin(angles)], axis=1
    )


def _regular(corners: int, *, inner: float | None = None) -> np.ndarray:
    """A regular polygon, or with an inner radius a star."""
    angles = np.arange(corners * (1 if inner is None else 2)) * (
        2 * math.pi / corners / (1 if inner is None else 2)
    )
    radii = np.where(np.arange(len(angles)) % 2 == 0, 1.0, 1.0 if inner is None else inner)
    return np.stack([radii * np.sin(angles), -radii * np.cos(angles)], axis=1)


def _cross(width: float = 0.36) -> np.ndarray:
    w, one = width, 1.0
    corners = [
        (-w, -one),
        (w, -one),
        (w, -w),
        (one, -w),
        (one, w),
        (w, w),
        (w, one),
        (-w, one),
        (-w, w),
        (-one, w),
        (-one, -w),
        (-w, -w),
    ]
    return np.array(corners)


def _crescent() -> np.ndarray:
    # the outer circle and the circle that is cut out meet at +-57 degrees
    outer = _arc(math.radians(57), math.radians(303))
    bite_centre, bite_radius = (0.52, 0.0), 0.84
    tip = math.atan2(math.sin(math.radians(57)), math.cos(math.radians(57)) - bite_centre[0])
    return np.concatenate(
        [outer, _arc(2 * math.pi - tip, tip, centre=bite_centre, radius=bite_radius)]
    )


def _heart() -> np.ndarray:
    t = np.linspace(0, 2 * math.pi, 60)
    x = 16 * np.sin(t) ** 3
    y = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t))
    return np.stack([x, y - 2.5], axis=1) / 16.0


# name -> polygons in the unit circle: the outline, and the hole of a ring
SHAPES: dict[str, tuple[np.ndarray, ...]] = {
    "circle": (_arc(0, 2 * math.pi),),
    "square": (_regular(4) * 0.96,),
    "triangle": (_regular(3),),
    "star": (_regular(5, inner=0.42),),
    "ring": (_arc(0, 2 * math.pi), _arc(0, 2 * math.pi, radius=0.52)),
    "cross": (_cross() * 0.95,),
    "crescent": (_crescent(),),
    "diamond": (np.array([(0, -1.0), (0.6, 0), (0, 1.0), (-0.6, 0)]),),
    "heart": (_heart(),),
    "hexagon": (_regular(6),),
}


def _article(word: str) -> str:
    return f"an {word}" if word[0] in "aeiou" else f"a {word}"


def captions_of(spec: Spec) -> tuple[str, ...]:
    """Five captions that name the same attributes: one in the fixed grammar, four paraphrases."""
    large, small = (
        f"{spec.large.colour} {spec.large.name}",
        f"{spec.small.colour} {spec.small.name}",
    )
    texture, colour = spec.texture, spec.background
    return (
        f"{_article(large)} and {_article(small)} on a {texture} {colour} background",
        f"{_article(texture)} {colour} background with {_article(large)} and {_article(small)}",
        f"a small {small} beside a big {large} over {texture} {colour}",
        f"{large} , {small} , {colour} {texture} ground",
        f"picture of {_article(large)} with {_article(small)} and a {colour} {texture} backdrop",
    )


def _jittered(colour: str, rng: np.random.Generator) -> RGB:
    moved = np.array(COLOURS[colour]) + rng.integers(-JITTER, JITTER + 1, 3)
    red, green, blue = np.clip(moved, 0, 255).tolist()
    return red, green, blue


def _draw_shape(
    name: str,
    colour: str,
    rng: np.random.Generator,
    *,
    radius: tuple[float, float],
    margin: float,
    away_from: Shape | None = None,
) -> Shape:
    """Draw place, size and rotation of a shape.

    radius: range, as `margin` in shares of the side;
    margin: smallest distance of the centre to the image's edges;
    away_from: a shape near whose centre this one must not lie."""
    r = rng.uniform(*radius)
    while True:
        x, y = rng.uniform(margin, 1 - margin, 2)
        if (
            away_from is None
            or math.hypot(x - away_from.x, y - away_from.y) > 0.75 * away_from.radius + 0.3 * r
        ):
            break
    rotation = rng.uniform(0, 2 * math.pi)
    return Shape(
        name, colour, _jittered(colour, rng), float(x), float(y), float(r), float(rotation)
    )


def draw_spec(rng: np.random.Generator) -> Spec:
    """Draw the attributes of a scene."""
    background, large_colour, small_colour = rng.permutation(list(COLOURS))[:3].tolist()
    large_name, small_name = rng.choice(list(SHAPES), 2).tolist()
    texture = str(rng.choice(TEXTURES))
    large = _draw_shape(large_name, large_colour, rng, radius=(0.24, 0.36), margin=0.2)
    small = _draw_shape(
        small_name, small_colour, rng, radius=(0.12, 0.18), margin=0.1, away_from=large
    )
    return Spec(
        background=background,
        rgb=_jittered(background, rng),
        texture=texture,
        spacing=float(rng.uniform(0.09, 0.22)),
        phase=tuple(rng.uniform(0, 1, 2).tolist()),
        angle=float(rng.uniform(0, math.pi)),
        large=large,
        small=small,
    )


def _stripes(draw: ImageDraw.ImageDraw, spec: Spec, side: int, fill: RGB) -> None:
    step = spec.spacing * side
    along = np.array([math.cos(spec.angle), math.sin(spec.angle)])
    across = np.array([-along[1], along[0]])
    for k in range(-math.ceil(side / step), math.ceil(side / step) + 1):
        middle = side / 2 + across * (k + spec.phase[0]) * step
        ends = [middle - along * side, middle + along * side]
        corners = [
            ends[0] - across * step / 4,
            ends[1] - across * step / 4,
            ends[1] + across * step / 4,
            ends[0] + across * step / 4,
        ]
        draw.polygon([tuple(c) for c in corners], fill=fill)


def _dots(draw: ImageDraw.ImageDraw, spec: Spec, side: int, fill: RGB) -> None:
    step, r = spec.spacing * side, spec.spacing * side * 0.27
    for y in np.arange(spec.phase[1] * step - step, side + step, step):
        for x in np.arange(spec.phase[0] * step - step, side + step, step):
            draw.ellipse((x - r, y - r, x + r, y + r), fill=fill)


def _checks(draw: ImageDraw.ImageDraw, spec: Spec, side: int, fill: RGB) -> None:
    step = spec.spacing * side * 1.2
    for row in range(-1, math.ceil(side / step) + 1):
        for column in range(-1 + row % 2, math.ceil(side / step) + 1, 2):
            x, y = (column + spec.phase[0]) * step, (row + spec.phase[1]) * step
            draw.rectangle((x, y, x + step, y + step), fill=fill)


_TEXTURE_PAINTERS = {"plain": None, "striped": _stripes, "dotted": _dots, "checked": _checks}


def _paint_shape(canvas: Image.Image, shape: Shape) -> None:
    side = canvas.width
    turn = np.array(
        [
            [math.cos(shape.rotation), math.sin(shape.rotation)],
            [-math.sin(shape.rotation), math.cos(shape.rotation)],
        ]
    )
    mask = Image.new("L", canvas.size, 0)
    pen = ImageDraw.Draw(mask)
    for polygon, fill in zip(SHAPES[shape.name], (255, 0), strict=False):
        points = polygon @ turn * shape.radius * side + np.array([shape.x, shape.y]) * side
        pen.polygon([tuple(p) for p in points.tolist()], fill=fill)
    canvas.paste(shape.rgb, mask=mask)


def paint(spec: Spec, size: int = 64) -> Image.Image:
    """Paint a scene: at OVERSAMPLING times the size, then averaged. Returns: PIL RGB, size x
    size."""
    side = size * OVERSAMPLING
    canvas = Image.new("RGB", (side, side), spec.rgb)
    painter = _TEXTURE_PAINTERS[spec.texture]
    if painter is not None:
        red, green, blue = (round(v * SHADE) for v in spec.rgb)
        painter(ImageDraw.Draw(canvas), spec, side, (red, green, blue))
    _paint_shape(canvas, spec.large)
    _paint_shape(canvas, spec.small)
    return canvas.reduce(OVERSAMPLING)


def scene(rng: np.random.Generator, size: int = 64) -> Scene:
    """Draw a scene. rng: a generator for this scene only; size: side in pixels."""
    spec = draw_spec(rng)
    return Scene(paint(spec, size), captions_of(spec), spec.large.name, spec)


def scene_at(index: int, *, seed: int = 0, stream: str = "scenes", size: int = 64) -> Scene:
    """Scene number `index` of a stream, a key of seeding.STREAMS: a pure function of the
    arguments."""
    return scene(numpy_rng(seed, stream, index), size)


# The command --------------------------------------------------------------------------------------


def write_scenes(out: Path, *, count: int, seed: int = 0, size: int = 64) -> None:
    """Write a data set: train/<class>/<index>.png, captions.json, and specs.json with every
    attribute.

    out: a folder that is empty, or does not exist; count: number of scenes; size: side in
    pixels."""
    from utils.files.whole_files import write_json

    captions: dict[str, list[str]] = {}
    specs: dict[str, dict[str, Any]] = {}
    for index in range(count):
        drawn = scene_at(index, seed=seed, size=size)
        path = out / "train" / drawn.label / f"{index:06d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        drawn.image.save(path)
        key = path.relative_to(out).as_posix()
        captions[key], specs[key] = list(drawn.captions), asdict(drawn.spec)
    write_json(out / "specs.json", specs)
    write_json(out / "captions.json", captions)  # last: a folder that has it is whole


def main(argv: Sequence[str] | None = None) -> None:
    """The command that writes a data set of scenes."""
    from utils.cli import exits, flags, scenes_options
    from utils.files import locks
    from utils.files.owned_folders import require_writable
    from utils.runtime.errors import UsageError

    with exits.exit_on_user_error("python -m utils.data.scenes"):
        opts = flags.parse(scenes_options.ScenesOptions, argv, description=__doc__)
        out = Path(opts.out)
        require_writable("--out", out)
        with locks.only_writer("--out", out):
            if out.exists() and (not out.is_dir() or any(out.iterdir())):
                raise UsageError(f"--out={opts.out!r} is not empty; give a new folder")
            write_scenes(out, count=opts.count, seed=opts.seed, size=opts.size)
        print(f"{opts.count} scenes in {out / 'train'}, captions in {out / 'captions.json'}")


if __name__ == "__main__":
    main()
