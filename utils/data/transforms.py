"""Every image transform, with its range: PIL RGB in, a tensor out.

What a network of an evaluation sees leaves the workers as 8 bits, a quarter of the memory to send,
and is scaled once, where the network is: by `scaled`, with the mean and std that stand here beside
the transform. Nothing else rescales."""

import functools

import numpy as np
from PIL import Image

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PIXEL_SIDE = 16

# name -> (short side or None to squash, side, crop?, mean, std); see docs/metrics.md for where each
# comes from
SSCD_PRESETS = {
    "dcr": (256, 224, True, (0.5,) * 3, (0.5,) * 3),
    "dcr-search": (256, 224, True, IMAGENET_MEAN, IMAGENET_STD),
    "sscd": (288, 288, False, IMAGENET_MEAN, IMAGENET_STD),
    "sscd-square": (None, 320, False, IMAGENET_MEAN, IMAGENET_STD),
}


def resize_short_side(image, side):
    """Resize so that the short side has `side` pixels: bilinear, antialiased, 8 bits; the long side
    is cut to a whole number, as torchvision does, whose transforms the published scripts use."""
    width, height = image.size
    if min(width, height) == side:
        return image
    size = (side, side * height // width) if width <= height else (side * width // height, side)
    return image.resize(size, Image.Resampling.BILINEAR)


def crop(image, side, rng=None):
    """A square window of `side` pixels: the centre (torchvision's), or with a numpy Generator
    uniform over windows."""
    spare = (image.width - side, image.height - side)
    left, top = (
        (round(v / 2) for v in spare) if rng is None else (int(rng.integers(v + 1)) for v in spare)
    )
    return image.crop((left, top, left + side, top + side))


def to_tensor(image, mean, std):
    """PIL RGB [H, W] -> float32 [3, H, W]: (value / 255 - mean) / std."""
    import torch

    pixels = (np.asarray(image, np.float32) / 255 - np.float32(mean)) / np.float32(std)
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))


def to_bytes(image):
    """PIL RGB [H, W] -> uint8 [H, W, 3]: as the decoder leaves it. Exchanging axes costs a worker
    as much as the crop and the copy together; `scaled` does it where the network is."""
    import torch

    return torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(
        image.height, image.width, 3
    )


def scaled(pixels, mean, std):
    """uint8 [B, H, W, 3] -> float32 [B, 3, H, W], (value / 255 - mean) / std, on the pixels'
    device."""
    import torch

    mean, std = (torch.tensor(v, device=pixels.device).view(3, 1, 1) for v in (mean, std))
    return channels_first(pixels).float().div_(255).sub_(mean).div_(std)


def channels_first(pixels):
    """[B, H, W, 3] -> [B, 3, H, W], contiguous."""
    return pixels.permute(0, 3, 1, 2).contiguous()


def flip_drawn(rng, random_flip):
    """Whether a draw is mirrored: half the time under --random_flip; else nothing is drawn."""
    return bool(random_flip and rng.random() < 0.5)


def training_pixels(image, *, resolution, rng=None, flipped=False):
    """What the autoencoder sees: short side to `resolution`, crop (the centre, or random with a
    Generator), flip.

    image: PIL RGB. Returns: float32 [3, resolution, resolution] in [-1, 1].
    """
    image = crop(resize_short_side(image, resolution), resolution, rng)
    if flipped:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return to_tensor(image, (0.5,) * 3, (0.5,) * 3)


def training_input(image, *, resolution, rng, center_crop, random_flip):
    """`training_pixels` with crop and flip drawn from rng, the numpy Generator of this draw."""
    cropped = crop(resize_short_side(image, resolution), resolution, None if center_crop else rng)
    return training_pixels(cropped, resolution=resolution, flipped=flip_drawn(rng, random_flip))


def as_generated(image, side):
    """A training image as a generation of `side` pixels shows it: short side, centre crop, 8 bits.
    PIL -> PIL."""
    return crop(resize_short_side(image, side), side)


@functools.lru_cache
def _cell_weights(side, cells):
    """Share of every pixel in every one of `cells` equal cells of a line of `side` pixels. Returns:
    [cells, side], rows sum to 1."""
    edges = np.arange(cells + 1) * (side / cells)
    pixels = np.arange(side)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return (np.clip(overlap, 0, None) * (cells / side)).astype(np.float32)


def area_averaged(image, cells):
    """The centre square, exactly area-averaged to `cells` x `cells`. Returns: float32 [3, cells,
    cells], 0-255.

    Pillow's box filter counts a pixel wholly or not at all, which is no average when `cells` does
    not divide the side."""
    import torch

    side = min(image.size)
    weights = _cell_weights(side, cells)
    channels = [weights @ np.asarray(c, np.float32) @ weights.T for c in crop(image, side).split()]
    return torch.from_numpy(np.stack(channels))


def pixel_input(image):
    """What the `pixel` descriptor sees: `area_averaged` to 16 x 16. Returns: [3, 16, 16], 0-255."""
    return area_averaged(image, PIXEL_SIDE)


def _sscd_input(image, preset):
    short, side, cropped, _mean, _std = SSCD_PRESETS[preset]
    image = (
        image.resize((side, side), Image.Resampling.BILINEAR)
        if short is None
        else resize_short_side(image, short)
    )
    return to_bytes(crop(image, side) if cropped else image)


def sscd_input(preset):
    """SSCD's transform under a preset. Returns: PIL RGB -> uint8 [H, W, 3]; square except under
    `sscd`."""
    return functools.partial(_sscd_input, preset=preset)


def centre_square(image, side):
    """`as_generated` as a tensor: short side to `side`, centre crop, 8 bits. PIL RGB -> uint8
    [side, side, 3]."""
    return to_bytes(as_generated(image, side))
