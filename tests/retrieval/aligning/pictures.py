"""Pictures for tests of alignment: detailed ones, and parts of a large scene that is seen through a
known placement."""

import math

import numpy as np
import torch
from PIL import Image

from utils.retrieval.aligning import geometry

LARGE = 400  # pixels of a scene


def scene(seed, side=LARGE):
    """Coloured shapes of several sizes on a soft ground. PIL RGB."""
    rng = np.random.default_rng(seed)
    ground = rng.integers(60, 200, (5, 5, 3), dtype=np.uint8)
    pixels = np.array(Image.fromarray(ground).resize((side, side), Image.Resampling.BICUBIC))
    rows, columns = np.mgrid[:side, :side]
    for _ in range(90):
        x, y, radius = rng.uniform(0, side, 2).tolist() + [rng.uniform(side / 60, side / 12)]
        stretch = rng.uniform(0.4, 1.6)
        inside = (columns - x) ** 2 * stretch + (rows - y) ** 2 / stretch < radius**2
        pixels[inside] = rng.integers(0, 256, 3)
    return Image.fromarray(pixels)


def seen(picture, *, side=160, mirrored=False, scale=1.0, rotation=0.0, shift=(0.0, 0.0)):
    """What a camera sees of a scene's middle after a `Transformation` of its middle half, drawn by
    Pillow and not by the code under test. Without any, the middle half. PIL RGB of side `side`."""
    cosine, sine = math.cos(math.radians(rotation)), math.sin(math.radians(rotation))
    # a point of the image, from its middle, back to a point of the scene, from its middle
    back = np.array([[cosine, -sine], [sine, cosine]]) / scale
    if mirrored:
        back = np.diag([-1.0, 1.0]) @ back
    pixel = LARGE / 2 / side  # of the scene, for one of the image
    linear = back * pixel
    middle = np.array([side / 2, side / 2]) + np.array(shift) * side
    offset = LARGE / 2 - linear @ middle
    data = (*linear[0], offset[0], *linear[1], offset[1])
    return picture.transform(
        (side, side), Image.Transform.AFFINE, data, resample=Image.Resampling.BICUBIC
    )


def thumbnails(pictures):
    """[N, LENGTH] uint8."""
    return torch.stack([geometry.thumbnail(picture) for picture in pictures])
