"""A small stand-in for the npm package of emoji: random pictures with a transparent ground."""

import json

import numpy as np
from PIL import Image, ImageDraw


def picture(rng, colour=None):
    """A transparent picture of 64 px with a few random shapes. colour: of all of them."""
    drawn = Image.new("RGBA", (64, 64))
    drawing = ImageDraw.Draw(drawn)
    for _ in range(4):
        left, top = rng.integers(0, 40, 2)
        width, height = rng.integers(8, 24, 2)
        box = (int(left), int(top), int(left + width), int(top + height))
        shade = tuple(int(v) for v in rng.integers(0, 200, 3))
        drawing.ellipse(box, (*(colour or shade), 255))
    return drawn


def write(folder, pictures, *, subcategory="face-smiling"):
    """Write a package. pictures: {name of an emoji: {name of a file: RGBA picture}}; the first file
    is the emoji, the others are its skin tones."""
    (folder / "img" / "google" / "64").mkdir(parents=True)
    entries = []
    for name, files in pictures.items():
        first, *others = ({"unified": file.upper(), "image": f"{file}.png"} for file in files)
        variations = {other["unified"]: other for other in others}
        entry = {"name": name, "subcategory": subcategory, **first}
        entries.append(entry | ({"skin_variations": variations} if variations else {}))
        for file, image in files.items():
            image.save(folder / "img" / "google" / "64" / f"{file}.png")
    (folder / "emoji.json").write_text(json.dumps(entries))
    return folder


def write_many(folder, count, *, names=()):
    """Write a package of `count` emoji that do not resemble each other, and of the given names."""
    rng = np.random.default_rng(0)
    files = [*names, *(f"f{i:03}" for i in range(count))]
    return write(folder, {file.upper(): {file: picture(rng)} for file in files})
