"""Every image transform, with its range: PIL RGB in, float32 tensor out. Nothing downstream rescales."""

import functools

import numpy as np
from PIL import Image

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PIXEL_SIDE = 16

# name -> (short side or None to squash, side, crop?, mean, std); see docs/metrics.md for where each comes from
SSCD_PRESETS = {
    "dcr": (256, 224, True, (0.5,) * 3, (0.5,) * 3),
    "dcr-search": (256, 224, True, IMAGENET_MEAN, IMAGENET_STD),
    "sscd": (288, 288, False, IMAGENET_MEAN, IMAGENET_STD),
    "sscd-square": (None, 320, False, IMAGENET_MEAN, IMAGENET_STD),
}


def resize_short_side(image, side):
    """Resize so that the short side has `side` pixels: bilinear, antialiased, 8 bits."""
    width, height = image.size
    if min(width, height) == side:
        return image
    scale = side / min(width, height)
    size = (side, max(side, round(height * scale))) if width <= height else (max(side, round(width * scale)), side)
    return image.resize(size, Image.Resampling.BILINEAR)


def crop(image, side, rng=None):
    """A square window of `side` pixels: the centre, or with a numpy Generator uniform over all windows."""
    spare = (image.width - side, image.height - side)
    left, top = (v // 2 for v in spare) if rng is None else (int(rng.integers(v + 1)) for v in spare)
    return image.crop((left, top, left + side, top + side))


def to_tensor(image, mean, std):
    """PIL RGB [H, W] -> float32 [3, H, W]: (value / 255 - mean) / std."""
    import torch

    pixels = (np.asarray(image, np.float32) / 255 - np.float32(mean)) / np.float32(std)
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))


def training_input(image, *, resolution, rng, center_crop, random_flip):
    """What the autoencoder sees: short side to `resolution`, centre or random crop, flip half the time.

    image: PIL RGB; rng: numpy Generator of this draw. Returns: float32 [3, resolution, resolution] in [-1, 1].
    """
    image = crop(resize_short_side(image, resolution), resolution, None if center_crop else rng)
    if random_flip and rng.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return to_tensor(image, (0.5,) * 3, (0.5,) * 3)


def as_generated(image, side):
    """A training image as a generation of `side` pixels shows it: short side, centre crop, 8 bits. PIL -> PIL."""
    return crop(resize_short_side(image, side), side)


def pixel_input(image):
    """What the `pixel` descriptor sees: centre square, exactly area-averaged to 16 x 16. Returns: [3, 16, 16], 0-255."""
    import torch

    square = crop(image, min(image.size))
    small = (PIXEL_SIDE, PIXEL_SIDE)
    # in float, one channel at a time: averaging on 8 bits would round
    channels = [c.convert("F").resize(small, Image.Resampling.BOX) for c in square.split()]
    return torch.from_numpy(np.stack([np.asarray(c) for c in channels]))


def _sscd_input(image, preset):
    short, side, cropped, mean, std = SSCD_PRESETS[preset]
    image = image.resize((side, side), Image.Resampling.BILINEAR) if short is None else resize_short_side(image, short)
    return to_tensor(crop(image, side) if cropped else image, mean, std)


def sscd_input(preset):
    """SSCD's transform under a preset. Returns: PIL RGB -> float32 [3, H, W]; square except under `sscd`."""
    return functools.partial(_sscd_input, preset=preset)


def _network_input(image, *, side, short, mean, std, interpolation):
    width, height = image.size
    scale = short / min(width, height)
    size = (max(side, round(width * scale)), max(side, round(height * scale)))
    return to_tensor(crop(image.resize(size, Image.Resampling[interpolation]), side), mean, std)


def timm_input(config):
    """The transform of a timm model's data config: short side to side / crop_pct, centre crop, mean and std."""
    side = config["input_size"][-1]
    return functools.partial(
        _network_input, side=side, short=int(side / config["crop_pct"]), mean=tuple(config["mean"]),
        std=tuple(config["std"]), interpolation=config["interpolation"].upper(),
    )  # fmt: skip
