"""The descriptors by name.

A new one is a function, a line in EXTRACTORS and a test. The builder imports its networks and torch
itself: the options read this registry, and --help must answer at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from utils.data import transforms
from utils.retrieval.descriptors import clip, sscd, timm_models
from utils.retrieval.descriptors.network import Extractor, Wanted

if TYPE_CHECKING:
    import torch

FLAT = 1e-3  # of 255: the rounding of averaging in float32 is some 1e-5


def pixel_network(pixels: torch.Tensor) -> torch.Tensor:
    """[B, 3, 16, 16] -> [B, 768]: the values minus their mean over all 768, so that the dot product
    is the normalised cross-correlation. An image of one colour becomes 0, not noise."""
    import torch

    values = pixels.flatten(1).double()
    centred = values - values.mean(1, keepdim=True)
    is_flat = centred.abs().amax(1, keepdim=True) < FLAT
    return torch.where(is_flat, 0.0, centred).float()


def build_pixel(wanted: Wanted) -> Extractor:
    """Build the `pixel` descriptor, which has no weights."""
    wanted.refuse("pixel", "weights", "layer", "isvit", "imsize", "multiscale")
    return Extractor(
        transforms.pixel_input, pixel_network, {"cells": transforms.PIXEL_SIDE}, copy_threshold=0.95
    )


# --pt_style -> builder
EXTRACTORS: dict[str, Callable[[Wanted], Extractor]] = {
    "pixel": build_pixel,
    "sscd": sscd.build,
    "clip": clip.build,
    "dino": timm_models.build_dino,
    "timm": timm_models.build,
}
# entry of a descriptor's record -> flag that chooses it, where their names differ
FLAGS = {
    "model": "arch",
    "patch_tokens": "layer",
    "pretrained": "weights",
    "weights_sha256": "weights",
    "state_sha256": "weights",
}
# descriptors whose evaluations have --arch, or --preset, in their folder's name
USES_ARCH, USES_PRESET = ("sscd", "clip", "dino", "timm"), ("sscd",)
