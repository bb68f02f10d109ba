"""Extractors of features: their interface, and what all networks share: scaling of the input and
several image sizes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from utils.data import transforms
from utils.runtime.errors import UsageError

if TYPE_CHECKING:
    import torch
    from PIL import Image

SCALES = (1, 2**-0.5, 0.5)
# images that a CPU computes at a time; see on_device
CPU_BATCH = 8

Network = Callable[["torch.Tensor"], "torch.Tensor"]


@dataclass(frozen=True)
class Extractor:
    """Turns an image into a feature vector."""

    # PIL RGB -> tensor; runs in a worker, so it must be picklable
    transform: Callable[[Image.Image], torch.Tensor]
    # [B, ...] of those tensors -> [B, D] float32, on its own device
    network: Network
    # what determines the features, of JSON types; the key of the feature cache
    record: dict[str, Any] = field(default_factory=dict)
    # score above which `copy_share` counts a copy, where the field has one for this descriptor
    copy_threshold: float | None = None
    # whether a training image is first cut to what a generation of its size would show
    as_generated: bool = False
    # parts of equal length that a descriptor consists of
    chunks: int = 1
    # [n] of prompts -> [n, D] normalised, for networks of images and text
    texts: Callable[[list[str]], torch.Tensor] | None = None
    # whether a neural network computes the features; else they are of the pixels themselves
    is_network: bool = True


@dataclass(frozen=True, kw_only=True)
class NetworkChoice:
    """Which network to build, and how it is used. Fields have the names of their flags."""

    arch: str | None = None
    preset: str | None = None  # of SSCD's input
    weights: str | None = None  # a file, or a tag; None: the published weights
    imsize: int | None = None  # side of the input in pixels; None: the network's own
    multiscale: bool = False
    layer: int | None = None  # block counted from the end, 1 the last; None: the network's output
    patch_tokens: bool = False  # of that block, instead of the CLS token
    isvit: bool = False  # anything but a vision transformer is an error


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What a builder of extractors is asked for: the network, and where it computes."""

    device: torch.device
    dtype: torch.dtype
    choice: NetworkChoice = NetworkChoice()
    flag: str = "--arch"  # that names the network, for errors

    def refuse(self, style: str, *names: str) -> None:
        """Raise UsageError if one of these fields is set: the descriptor does not support it.

        style: name of the descriptor, for the error
        names: of fields that are named as their flags"""
        for name in names:
            if getattr(self.choice, name):
                raise UsageError(f"--{name} does not go with --pt_style {style}; leave it out")


def on_scaled_input(
    forward: Network, mean: tuple[float, ...], std: tuple[float, ...], wanted: Wanted
) -> Network:
    """Wrap a network so that it accepts images of 8 bits: they are scaled on the device and
    converted to the wanted dtype, at several sizes if `wanted.multiscale`.

    forward: [B, 3, H, W] in that dtype -> [B, D]

    Returns: uint8 [B, H, W, 3] -> [B, D] float32."""
    if wanted.choice.multiscale:
        forward = at_several_scales(forward)

    def network(pixels: torch.Tensor) -> torch.Tensor:
        scaled = transforms.scaled(pixels.to(wanted.device), mean, std)
        return forward(scaled.to(wanted.dtype)).float()

    return on_device(network, wanted.device)


def ready(module: torch.nn.Module, wanted: Wanted) -> torch.nn.Module:
    """The module on its device, in its dtype, for use alone.

    Weights of convolutions are kept in the order of decoded pictures, the channels of a place side
    by side, in which they are computed fastest (benchmarks/features.py)."""
    import torch

    return module.eval().to(wanted.device, wanted.dtype, memory_format=torch.channels_last)


def on_device(network: Network, device: torch.device) -> Network:
    """The network as it is fastest there: a CPU computes a few images at a time, so that what one
    layer leaves is still in its cache when the next one reads it."""
    import torch

    if device.type != "cpu":
        return network

    def split(pixels: torch.Tensor) -> torch.Tensor:
        return torch.cat([network(part) for part in pixels.split(CPU_BATCH)])

    return split


def at_several_scales(forward: Network) -> Network:
    """Mean of the features at sides x 1, 1/sqrt 2 and 1/2, bilinear.

    The published script then divides by the norm of the whole batch, so that an image's descriptor
    depends on its neighbours; ours are normalised one by one, by `similarity`."""
    from torch.nn.functional import interpolate

    def network(pixels: torch.Tensor) -> torch.Tensor:
        parts = [
            pixels if s == 1 else interpolate(pixels, scale_factor=s, mode="bilinear")
            for s in SCALES
        ]
        return sum(forward(part).float() for part in parts) / len(SCALES)

    return network
