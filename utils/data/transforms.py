"""Image transforms, from PIL RGB to tensors, with their value ranges.

Images for the networks of an evaluation leave the DataLoader's workers as 8 bits, which is a
quarter of the memory to send. `scaled` normalises them once, on the network's device, with the mean
and std that are listed here beside the transform. Nothing else rescales."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

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
    return _resized(image, covering(image.size, (side, side)))


def _resized(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    return image if image.size == size else image.resize(size, Image.Resampling.BILINEAR)


def covering(size: tuple[int, int], target: tuple[int, int]) -> tuple[int, int]:
    """(width, height) of a picture of `size` that is scaled until it just covers `target`, both
    (width, height). The longer side is rounded down, as in torchvision, which the published scripts
    use."""
    (width, height), (across, down) = size, target
    if height * across >= width * down:
        return across, across * height // width
    return down * width // height, down


class Window(NamedTuple):
    """What is cropped from a scaled picture, in pixels."""

    scaled: tuple[int, int]  # (width, height) of the whole picture after scaling
    left: int
    top: int
    size: tuple[int, int]  # (width, height)


def window(
    scaled: tuple[int, int], size: tuple[int, int], rng: np.random.Generator | None = None
) -> Window:
    """A window of `size` in a picture of `scaled` pixels, both (width, height): of the centre, as
    in torchvision, or drawn from `rng`, the left edge first."""
    spare = (scaled[0] - size[0], scaled[1] - size[1])
    if rng is None:
        return Window(scaled, round(spare[0] / 2), round(spare[1] / 2), size)
    left = int(rng.integers(spare[0] + 1))
    return Window(scaled, left, int(rng.integers(spare[1] + 1)), size)


def crop(image: Image.Image, side: int, rng: np.random.Generator | None = None) -> Image.Image:
    """Crop a square of `side` pixels: the centre, as in torchvision, or with `rng` a random one."""
    return cut(image, window(image.size, (side, side), rng))


def cut(image: Image.Image, at: Window) -> Image.Image:
    """The pixels of a window, after the whole picture is scaled.

    Of a picture that is longer than LONG times its width only the window is computed, because the
    rest would cost memory as the length asks. Its pixels are those of the whole, up to two levels
    where Pillow's two passes round; of all other pictures they are the same bits."""
    right, bottom = at.left + at.size[0], at.top + at.size[1]
    if at.scaled == image.size or max(image.size) <= LONG * min(image.size):
        return _resized(image, at.scaled).crop((at.left, at.top, right, bottom))
    across, down = image.width / at.scaled[0], image.height / at.scaled[1]
    box = (at.left * across, at.top * down, right * across, bottom * down)
    return image.resize(at.size, Image.Resampling.BILINEAR, box=box)


def scaled_crop(
    image: Image.Image, short: int, side: int, rng: np.random.Generator | None = None
) -> Image.Image:
    """`crop` of `resize_short_side`: the short side has `short` pixels, then a square of `side` is
    cropped, as `cut` does it."""
    return cut(image, window(covering(image.size, (short, short)), (side, side), rng))


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
    """uint8 [B, H, W, 3] -> float32 [B, 3, H, W]: (value / 255 - mean) / std, on the same device,
    the colours of a pixel side by side in memory."""
    import torch

    shift, scale = (torch.tensor(v, device=pixels.device).view(3, 1, 1) for v in (mean, std))
    return channels_first(pixels).float().div_(255).sub_(shift).div_(scale)


def channels_first(pixels: torch.Tensor) -> torch.Tensor:
    """[B, H, W, 3] -> [B, 3, H, W], the same memory: torch calls this order channels_last."""
    return pixels.permute(0, 3, 1, 2)


@dataclass(frozen=True)
class View:
    """How one draw shows a training image."""

    window: Window
    flipped: bool  # mirrored, after the crop

    @property
    def crop(self) -> tuple[int, int]:
        """(top, left) of the window in the scaled picture as it is shown: in the mirror image of
        one that is mirrored."""
        at = self.window
        left = at.scaled[0] - at.size[0] - at.left if self.flipped else at.left
        return at.top, left

    def pixels(self, image: Image.Image) -> torch.Tensor:
        """The autoencoder's input. image: PIL RGB, of the size that the view was drawn for.
        Returns: float32 [3, height, width] of the window, in [-1, 1]."""
        shown = cut(image, self.window)
        if self.flipped:
            shown = shown.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return to_tensor(shown, HALF, HALF)


@dataclass(frozen=True)
class Views:
    """How training images are shown: scaled until they cover a size, cropped to it, and perhaps
    mirrored."""

    resolution: int  # side in pixels of the squares that are shown where there are no buckets
    center_crop: bool  # else a random window at every draw
    random_flip: bool  # mirror half of the draws

    def draw(self, shape: tuple[int, int], size: tuple[int, int], rng: np.random.Generator) -> View:
        """The view of a draw. shape: (width, height) of the image; size: (height, width) of what is
        shown; rng: the generator of this draw. Without random crops and flips, no random number is
        drawn."""
        shown = _window_of(shape, size, None if self.center_crop else rng)
        return View(shown, bool(self.random_flip and rng.random() < 0.5))


def _window_of(shape, size, rng=None):
    across = (size[1], size[0])
    return window(covering(shape, across), across, rng)


def centred(shape: tuple[int, int], size: tuple[int, int], *, flipped: bool = False) -> View:
    """The view of the centre of an image. shape: (width, height) of the image; size: (height,
    width) of what is shown."""
    return View(_window_of(shape, size), flipped)


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
