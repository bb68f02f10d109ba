"""How complex an image is, three ways, and whether complexity goes with similarity (Somepalli et
al. 2023, section 6)."""

import io
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from utils.data import transforms

SIDE = 224
GREY = (0.2125, 0.7154, 0.0721)  # Rec. 709, scikit-image's
JPEG_QUALITY = 90


@dataclass(frozen=True)
class Complexity:
    """Of N images. entropy: nats; jpeg_kib: KiB; total_variation: 1e-4 of the sum of differences.
    Each [N] float64."""

    entropy: np.ndarray
    jpeg_kib: np.ndarray
    total_variation: np.ndarray

    @property
    def mixed(self):
        """Entropy times the root of the JPEG size. [N]."""
        return self.entropy * np.sqrt(self.jpeg_kib)


def entropy(pixels):
    """Entropy of the grey values' histogram in nats. pixels: [H, W, 3] uint8."""
    grey = np.round(pixels.astype(np.float64) @ GREY).astype(np.uint8)
    shares = np.bincount(grey.ravel(), minlength=256) / grey.size
    shares = shares[shares > 0]
    return float(-(shares * np.log(shares)).sum())


def jpeg_kib(image):
    """Size of a PIL image as JPEG by Pillow, quality 90, 4:2:0, in KiB."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling="4:2:0")
    return len(buffer.getvalue()) / 1024


def total_variation(pixels):
    """Sum of absolute differences of neighbours, down and across, over the channels, times 1e-4.
    pixels: [H, W, 3] uint8."""
    signed = pixels.astype(np.int32)
    return 1e-4 * float(sum(np.abs(np.diff(signed, axis=axis)).sum() for axis in (0, 1)))


def of_image(image):
    """(entropy, jpeg_kib, total_variation) of a PIL RGB image: short side 224, centre 224."""
    image = transforms.as_generated(image, SIDE)
    pixels = np.asarray(image)
    return entropy(pixels), jpeg_kib(image), total_variation(pixels)


def of_images(images, indices, *, workers):
    """Complexity of images[i] for i in indices, in their order; an image named twice is read once.
    Returns: Complexity."""
    unique, places = np.unique(indices, return_inverse=True)
    # Pillow decodes, resizes and encodes outside Python's lock
    with ThreadPoolExecutor(max(1, workers)) as pool:
        found = np.array(list(pool.map(lambda i: of_image(images.open(int(i))), unique)))
    return Complexity(*found[places].T)


def correlation(values, scores):
    """Pearson's r and its two-sided p, by Student's t. values, scores: [N]. Returns: (r, p), or
    None when one is constant or N < 3."""
    from scipy.special import stdtr  # scipy.stats has pearsonr, and takes a second to import

    freedom = len(values) - 2
    if freedom < 1 or np.ptp(values) == 0 or np.ptp(scores) == 0:
        return None
    r = float(np.clip(np.corrcoef(values, scores)[0, 1], -1, 1))
    t = abs(r) * np.sqrt(freedom / max(1 - r * r, np.finfo(float).tiny))
    return r, float(2 * stdtr(freedom, -t))
