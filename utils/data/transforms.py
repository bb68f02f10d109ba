"""Image transforms, from PIL RGB to tensors, with their value ranges.

Images for the networks of an evaluation leave the DataLoader's workers as 8 bits, which is a
quarter of the memory to send. `scaled` normalises them once, on the network's device, with the mean
and std that are listed here beside the transform. Nothing else rescales."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    import torch

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5)  # mean and std that scale [0, 1] to [-1, 1]
LONG = 4  # a picture is long whose longer side is more than this times the shorter
PIXEL_SIDE = 16  # of what the `pixel` descriptor sees

# name of a preset -> (short side, or None to squash to a square; side; crop?; mean; std);
# docs/metrics.md says where each comes from
SSCD_PRESETS = {
    "dcr": (256, 224, True, HALF, HALF),
    "dcr-search": (256, 224, True, IMAGENET_MEAN, IMAGENET_STD),
    "sscd": (288, 288, False, IMAGENET_MEAN, IMAGENET_STD),
    "sscd-square": (None, 320, False, IMAGENET_MEAN, IMAGENET_STD),
}


def resize_short_side(image: Image.Image, side: int) -> Image.Image:
    """Resize so that the short side has `side` pixels: bilinear, antialiased, 8 bits."""
    if min(image.size) == side:
        return image
    return image.resize(_scaled_size(image.size, side), Image.Resampling.BILINEAR)


def _scaled_size(size: tuple[int, int], side: int) -> tuple[int, int]:
    """(width, height) of a picture whose short side is scaled to `side`; the long side is rounded
    down, as in torchvision, which the published scripts use."""
    width, height = size
    return (side, side * height // width) if width <= height else (side * width // height, side)


def _corner(size: tuple[int, int], side: int, rng: np.random.Generator | None) -> tuple[int, int]:
    """Left and top of a square of `side` pixels: of the centre, as in torchvision, or drawn."""
    spare = (size[0] - side, size[1] - side)
    if rng is None:
        return round(spare[0] / 2), round(spare[1] / 2)
    left = int(rng.integers(spare[0] + 1))
    return left, int(rng.integers(spare[1] + 1))


def crop(image: Image.Image, side: int, rng: np.random.Generator | None = None) -> Image.Image:
    """Crop a square of `side` pixels: the centre, as in torchvision, or with `rng` a random one."""
    left, top = _corner(image.size, side, rng)
    return image.crop((left, top, left + side, top + side))


def scaled_crop(
    image: Image.Image, short: int, side: int, rng: np.random.Generator | None = None
) -> Image.Image:
    """`crop` of `resize_short_side`: the short side has `short` pixels, then a square of `side` is
    cropped.

    Of a picture that is longer than LONG times its width only the square is computed, because the
    rest would cost memory as the length asks. Its pixels are those of the whole, up to two levels
    where Pillow's two passes round; of all other pictures they are the same bits."""
    if max(image.size) <= LONG * min(image.size):
        return crop(resize_short_side(image, short), side, rng)
    scaled = _scaled_size(image.size, short)
    left, top = _corner(scaled, side, rng)
    across, down = image.width / scaled[0], image.height / scaled[1]
    box = (left * across, top * down, (left + side) * across, (top + side) * down)
    return image.resize((side, side), Image.Resampling.BILINEAR, box=box)


def to_tensor(image: Image.Image, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """PIL RGB [H, W] -> float32 [3, H, W]: (value / 255 - mean) / std."""
    import torch

    shift, scale = np.asarray(mean, np.float32), np.asarray(std, np.float32)
    pixels = (np.asarray(image, np.float32) / 255 - shift) / scale
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))


def to_bytes(image: Image.Image) -> torch.Tensor:
    """PIL RGB [H, W] -> uint8 [H, W, 3].

    The axes stay as they are decoded: exchanging them would cost a worker as much as crop and copy
    together, so `scaled` does it on the network's device."""
    import torch

    return torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(
        image.height, image.width, 3
    )


def scaled(pixels: torch.Tensor, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """uint8 [B, H, W, 3] -> float32 [B, 3, H, W]: (value / 255 - mean) / std, on the same
    device."""
    import torch

    shift, scale = (torch.tensor(v, device=pixels.device).view(3, 1, 1) for v in (mean, std))
    return channels_first(pixels).float().div_(255).sub_(shift).div_(scale)


def channels_first(pixels: torch.Tensor) -> torch.Tensor:
    """[B, H, W, 3] -> [B, 3, H, W], contiguous."""
    return pixels.permute(0, 3, 1, 2).contiguous()


def flip_drawn(rng: np.random.Generator, random_flip: bool) -> bool:
    """Whether to mirror an image: with probability 0.5 under --random_flip. Without it, no random
    number is drawn."""
    return bool(random_flip and rng.random() < 0.5)


def training_pixels(
    image: Image.Image,
    *,
    resolution: int,
    rng: np.random.Generator | None = None,
    flipped: bool = False,
) -> torch.Tensor:
    """The autoencoder's input: short side resized to `resolution`, cropped, and mirrored if
    `flipped`.

    image: PIL RGB;
    rng: for a random crop; None crops the centre.
    Returns: float32 [3, resolution, resolution] in [-1, 1]."""
    image = scaled_crop(image, resolution, resolution, rng)
    if flipped:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return to_tensor(image, HALF, HALF)


def training_input(
    image: Image.Image,
    *,
    resolution: int,
    rng: np.random.Generator,
    center_crop: bool,
    random_flip: bool,
) -> torch.Tensor:
    """`training_pixels` with crop and flip drawn from `rng`, the generator of this draw."""
    cropped = scaled_crop(image, resolution, resolution, None if center_crop else rng)
    return training_pixels(cropped, resolution=resolution, flipped=flip_drawn(rng, random_flip))


def as_generated(image: Image.Image, side: int) -> Image.Image:
    """A training image, resized and cropped to its centre as a generation of `side` pixels shows
    it. PIL RGB -> PIL RGB."""
    return scaled_crop(image, side, side)


@functools.lru_cache
def _cell_weights(side: int, cells: int) -> np.ndarray:
    """Weights that average a line of `side` pixels to `cells` equal cells: the share that each
    pixel has in each cell. Returns: float32 [cells, side], rows sum to 1."""
    edges = np.arange(cells + 1) * (side / cells)
    pixels = np.arange(side)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return (np.clip(overlap, 0, None) * (cells / side)).astype(np.float32)


def area_averaged(image: Image.Image, cells: int) -> torch.Tensor:
    """The centre square of an image, averaged to `cells` x `cells`: each cell is the exact mean of
    its area.

    Pillow's box filter uses whole pixels only, which is not exact if `cells` does not divide the
    side. Returns: float32 [3, cells, cells], 0-255."""
    import torch

    side = min(image.size)
    weights = _cell_weights(side, cells)
    channels = [weights @ np.asarray(c, np.float32) @ weights.T for c in crop(image, side).split()]
    return torch.from_numpy(np.stack(channels))


def pixel_input(image: Image.Image) -> torch.Tensor:
    """Input of the `pixel` descriptor: `area_averaged` to 16 x 16. Returns: [3, 16, 16], 0-255."""
    return area_averaged(image, PIXEL_SIDE)


def _sscd_input(image: Image.Image, preset: str) -> torch.Tensor:
    short, side, cropped, _mean, _std = SSCD_PRESETS[preset]
    if short is None:
        image = image.resize((side, side), Image.Resampling.BILINEAR)
    elif cropped:
        image = scaled_crop(image, short, side)
    else:
        image = resize_short_side(image, short)
    return to_bytes(image)


def sscd_input(preset: str) -> Callable[[Image.Image], torch.Tensor]:
    """SSCD's transform under a preset of SSCD_PRESETS.

    Returns: PIL RGB -> uint8 [H, W, 3], square except under the preset `sscd`."""
    return functools.partial(_sscd_input, preset=preset)


def centre_square(image: Image.Image, side: int) -> torch.Tensor:
    """`as_generated` as a tensor. PIL RGB -> uint8 [side, side, 3]."""
    return to_bytes(as_generated(image, side))
