"""How complex an image is, by three measures, and whether complexity correlates with similarity
(Somepalli et al. 2023, section 6)."""

from __future__ import annotations

import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from utils.data import transforms

if TYPE_CHECKING:
    from PIL import Image

    from utils.data.image_sets import ImageSet

SIDE = 224
GREY = (0.2125, 0.7154, 0.0721)  # Rec. 709, as scikit-image has it
JPEG_QUALITY = 90


@dataclass(frozen=True)
class Complexity:
    """Complexity of N images, each [N] float64."""

    entropy: np.ndarray  # nats
    jpeg_kib: np.ndarray  # KiB
    total_variation: np.ndarray  # sum of differences of neighbours, times 1e-4

    @property
    def mixed(self) -> np.ndarray:
        """Entropy times the root of the JPEG size. [N]."""
        return self.entropy * np.sqrt(self.jpeg_kib)


def entropy(pixels: np.ndarray) -> float:
    """Entropy of the histogram of grey values, in nats. pixels: [H, W, 3] uint8."""
    grey = np.round(pixels.astype(np.float64) @ GREY).astype(np.uint8)
    shares = np.bincount(grey.ravel(), minlength=256) / grey.size
    shares = shares[shares > 0]
    return float(-(shares * np.log(shares)).sum())


def jpeg_kib(image: Image.Image) -> float:
    """Size of an image as JPEG by Pillow, quality 90, 4:2:0, in KiB."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling="4:2:0")
    return len(buffer.getvalue()) / 1024


def total_variation(pixels: np.ndarray) -> float:
    """Sum of absolute differences of neighbours, down and across, over the channels, times 1e-4.
    pixels: [H, W, 3] uint8."""
    signed = pixels.astype(np.int32)
    return 1e-4 * float(sum(np.abs(np.diff(signed, axis=axis)).sum() for axis in (0, 1)))


def of_image(image: Image.Image) -> tuple[float, float, float]:
    """Entropy, JPEG size and total variation of a PIL RGB image: short side 224, centre 224."""
    image = transforms.as_generated(image, SIDE)
    pixels = np.asarray(image)
    return entropy(pixels), jpeg_kib(image), total_variation(pixels)


def of_images(images: ImageSet, indices: Sequence[int] | np.ndarray, *, workers: int) -> Complexity:
    """Complexity of the images at some indices, in that order; an image that occurs several times
    is read once. workers: threads."""
    unique, places = np.unique(indices, return_inverse=True)
    # threads are enough: Pillow decodes, resizes and encodes without Python's lock
    with ThreadPoolExecutor(max(1, workers)) as pool:
        measures = np.array(list(pool.map(lambda i: of_image(images.open(int(i))), unique)))
    return Complexity(*measures[places].T)


def correlation(values: np.ndarray, scores: np.ndarray) -> tuple[float, float] | None:
    """Pearson's r and its two-sided p, by Student's t; None if one side is constant or N < 3.

    values, scores: [N]"""
    from scipy.special import stdtr  # scipy.stats has pearsonr, and takes a second to import

    freedom = len(values) - 2
    if freedom < 1 or np.ptp(values) == 0 or np.ptp(scores) == 0:
        return None
    r = float(np.clip(np.corrcoef(values, scores)[0, 1], -1, 1))
    t = abs(r) * np.sqrt(freedom / max(1 - r * r, np.finfo(float).tiny))
    return r, float(2 * stdtr(freedom, -t))
