"""What a descriptor is, and what is done to networks of any kind: scaling of the input, several
sizes of it."""

from collections.abc import Callable
from dataclasses import dataclass, field

from utils.data import transforms
from utils.runtime.errors import UsageError

SCALES = (1, 2**-0.5, 0.5)
CPU_BATCH = 16


@dataclass(frozen=True)
class Extractor:
    """transform: PIL RGB -> tensor, in a worker; network: [B, ...] of them -> [B, D] float32, on
    its own device.

    record: what made the numbers, of JSON types; copy_threshold: the score above which `copy_share`
    counts, where the field has one for this descriptor; as_generated: a training image is first cut
    to what a generation of its size would show; chunks: parts of equal length that a descriptor is
    made of."""

    transform: Callable
    network: Callable
    record: dict = field(default_factory=dict)
    copy_threshold: float | None = None
    as_generated: bool = False
    chunks: int = 1


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Which network, and how it is to be used. flag: the one that named it, for errors.

    imsize: side of the input in pixels, else the network's own; layer: block counted from the end,
    1 the last, else the network's own output; patch_tokens: of that block, instead of the CLS
    token; isvit: anything but a ViT is an error."""

    device: object
    dtype: object
    flag: str = "--arch"
    arch: str | None = None
    preset: str | None = None
    weights: str | None = None
    imsize: int | None = None
    multiscale: bool = False
    layer: int | None = None
    patch_tokens: bool = False
    isvit: bool = False

    def refuse(self, style, *names):
        """UsageError if one of these was asked for: the descriptor cannot do it."""
        flags = {
            "imsize": "--imsize",
            "multiscale": "--multiscale",
            "layer": "--layer",
            "isvit": "--isvit",
            "weights": "--weights",
        }
        for name in names:
            if getattr(self, name):
                raise UsageError(f"{flags[name]} does not go with --pt_style {style}; leave it out")


def on_scaled_input(forward, mean, std, wanted):
    """A network that takes 8 bits: scaled on the device, in the dtype wanted, at several sizes when
    that is wanted.

    forward: [B, 3, H, W] in that dtype -> [B, D]. Returns: uint8 [B, H, W, 3] -> [B, D] float32.
    """
    if wanted.multiscale:
        forward = at_several_scales(forward)

    def network(pixels):
        return forward(
            transforms.scaled(pixels.to(wanted.device), mean, std).to(wanted.dtype)
        ).float()

    return network if wanted.device.type != "cpu" else in_small_batches(network)


def in_small_batches(network):
    """A network a few images at a time: on a CPU scaled pixels of 16 images of 224 px still lie in
    its cache, of 128 not (scaling alone 8.6 ms against 35 for 128 images)."""
    import torch

    def split(pixels):
        return torch.cat([network(part) for part in pixels.split(CPU_BATCH)])

    return split


def at_several_scales(forward):
    """Mean of the features at sides x 1, 1/sqrt 2 and 1/2, bilinear. (The published one then
    divides by the norm of the whole batch, so that an image's descriptor hangs on its neighbours;
    ours are normalised one by one, by `similarity`.)"""
    from torch.nn.functional import interpolate

    def network(pixels):
        parts = [
            pixels if s == 1 else interpolate(pixels, scale_factor=s, mode="bilinear")
            for s in SCALES
        ]
        return sum(forward(part).float() for part in parts) / len(SCALES)

    return network
