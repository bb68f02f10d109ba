"""Scenes: captioned pictures drawn by rule, the data set that the project carries.

A scene is a coloured, textured background, a large shape and a small one. Its captions name
colours, shapes and texture, never position, size, rotation, spacing, phase or the jitter of a
colour. So a model that has learned this world draws *another* scene of the same caption, and a
model that has copied draws *this* one.

    python -m utils.data.scenes --out DIR --count 64 --seed 0
"""

import math
from dataclasses import asdict, dataclass

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
SHADE = 0.68  # a texture is the background's own colour, darker
JITTER = 18  # each channel of each colour moves by up to this much, of 255
OVERSAMPLING = 4


@dataclass(frozen=True)
class Shape:
    """A placed shape. x, y, radius: shares of the image's side; rotation: radians; rgb: 0-255,
    jittered."""

    name: str
    colour: str
    rgb: tuple
    x: float
    y: float
    radius: float
    rotation: float


@dataclass(frozen=True)
class Spec:
    """Everything that was drawn. spacing and phase: shares of the side; angle: radians."""

    background: str
    rgb: tuple
    texture: str
    spacing: float
    phase: tuple
    angle: float
    large: Shape
    small: Shape


@dataclass(frozen=True)
class Scene:
    """image: PIL RGB; captions: five, the first in the fixed grammar; label: the large shape; spec:
    what was drawn."""

    image: Image.Image
    captions: tuple
    label: str
    spec: Spec


def _arc(start, stop, *, centre=(0.0, 0.0), radius=1.0, points=40):
    angles = np.linspace(start, stop, points)
    return np.stack(
        [centre[0] + radius * np.cos(angles), centre[1] + radius * np.sin(angles)], axis=1
    )


def _regular(corners, *, inner=None):
    angles = np.arange(corners * (1 if inner is None else 2)) * (
        2 * math.pi / corners / (1 if inner is None else 2)
    )
    radii = np.where(np.arange(len(angles)) % 2 == 0, 1.0, 1.0 if inner is None else inner)
    return np.stack([radii * np.sin(angles), -radii * np.cos(angles)], axis=1)


def _cross(width=0.36):
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


def _crescent():
    # the outer circle and the bite taken out of it meet at +-57 degrees
    outer = _arc(math.radians(57), math.radians(303))
    bite_centre, bite_radius = (0.52, 0.0), 0.84
    tip = math.atan2(math.sin(math.radians(57)), math.cos(math.radians(57)) - bite_centre[0])
    return np.concatenate(
        [outer, _arc(2 * math.pi - tip, tip, centre=bite_centre, radius=bite_radius)]
    )


def _heart():
    t = np.linspace(0, 2 * math.pi, 60)
    x = 16 * np.sin(t) ** 3
    y = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t))
    return np.stack([x, y - 2.5], axis=1) / 16.0


# name -> polygons in the unit circle: the outline, then a hole where there is one
SHAPES = {
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


def _article(word):
    return f"an {word}" if word[0] in "aeiou" else f"a {word}"


def captions_of(spec):
    """Five captions that name the same things: caption 0 in the fixed grammar, then four
    paraphrases."""
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


def _jittered(colour, rng):
    return tuple(
        int(v)
        for v in np.clip(np.array(COLOURS[colour]) + rng.integers(-JITTER, JITTER + 1, 3), 0, 255)
    )


def _draw_shape(name, colour, rng, *, radius, margin, away_from=None):
    """Place a shape; a small one keeps three quarters of the large one's radius away from its
    centre."""
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


def draw_spec(rng):
    """Choose a scene; rng: numpy Generator of its own."""
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


def _stripes(draw, spec, side, fill):
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


def _dots(draw, spec, side, fill):
    step, r = spec.spacing * side, spec.spacing * side * 0.27
    for y in np.arange(spec.phase[1] * step - step, side + step, step):
        for x in np.arange(spec.phase[0] * step - step, side + step, step):
            draw.ellipse((x - r, y - r, x + r, y + r), fill=fill)


def _checks(draw, spec, side, fill):
    step = spec.spacing * side * 1.2
    for row in range(-1, math.ceil(side / step) + 1):
        for column in range(-1 + row % 2, math.ceil(side / step) + 1, 2):
            x, y = (column + spec.phase[0]) * step, (row + spec.phase[1]) * step
            draw.rectangle((x, y, x + step, y + step), fill=fill)


_TEXTURE_PAINTERS = {"plain": None, "striped": _stripes, "dotted": _dots, "checked": _checks}


def _paint_shape(canvas, shape):
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


def paint(spec, size=64):
    """Paint a Spec. Returns: PIL RGB, size x size, drawn at four times the size and
    area-averaged."""
    side = size * OVERSAMPLING
    canvas = Image.new("RGB", (side, side), spec.rgb)
    painter = _TEXTURE_PAINTERS[spec.texture]
    if painter is not None:
        painter(ImageDraw.Draw(canvas), spec, side, tuple(round(v * SHADE) for v in spec.rgb))
    _paint_shape(canvas, spec.large)
    _paint_shape(canvas, spec.small)
    return canvas.reduce(OVERSAMPLING)


def scene(rng, size=64):
    """Draw one scene. rng: a numpy Generator of the scene's own; size: pixels a side."""
    spec = draw_spec(rng)
    return Scene(paint(spec, size), captions_of(spec), spec.large.name, spec)


def scene_at(index, *, seed=0, stream="scenes", size=64):
    """Scene number `index` of a stream (see seeding.STREAMS); a pure function of its arguments."""
    return scene(numpy_rng(seed, stream, index), size)


# The command --------------------------------------------------------------------------------------


def write_scenes(out, *, count, seed=0, size=64):
    """Write the published layout: out/train/<class>/<index>.png and out/captions.json (path -> five
    captions).

    out: a Path that does not exist yet or is empty. Also writes specs.json, what was drawn, for
    checkers."""
    from utils.files.whole_files import write_json

    captions, specs = {}, {}
    for index in range(count):
        drawn = scene_at(index, seed=seed, size=size)
        path = out / "train" / drawn.label / f"{index:06d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        drawn.image.save(path)
        key = path.relative_to(out).as_posix()
        captions[key], specs[key] = list(drawn.captions), asdict(drawn.spec)
    write_json(out / "specs.json", specs)
    write_json(out / "captions.json", captions)  # last: a folder with captions is whole


def main(argv=None):
    from pathlib import Path

    from utils.cli import exits, flags, scenes_options
    from utils.runtime.errors import UsageError

    with exits.exit_on_user_error("python -m utils.data.scenes"):
        opts = flags.parse(scenes_options.ScenesOptions, argv, description=__doc__)
        out = Path(opts.out)
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise UsageError(f"--out={opts.out!r} is not empty; give a new folder")
        write_scenes(out, count=opts.count, seed=opts.seed, size=opts.size)
        print(f"{opts.count} scenes in {out / 'train'}, captions in {out / 'captions.json'}")


if __name__ == "__main__":
    main()
