"""Augmentation of images near the threshold of anti-gradient control: they are shown cropped and
mirrored, before they are memorized.

Augmentation that looks at this threshold is an idea of Guan et al. 2025 (arXiv 2502.09434), of
which neither the text nor a program was available to us: the rule of this module is ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch

from utils.runtime import devices

SMALLEST_AREA = 0.8  # share of a picture's area that a crop keeps at least


class Drawn(NamedTuple):
    """Random numbers of a micro-batch, uniform in [0, 1), each [B] on the CPU."""

    chosen: torch.Tensor  # an image is augmented if this is below its probability
    area: torch.Tensor
    across: torch.Tensor  # where the crop lies
    down: torch.Tensor
    mirrored: torch.Tensor  # below 0.5: it is


def draw(generators: Sequence[torch.Generator]) -> Drawn:
    """The numbers of each sample, from its generator."""
    numbers = [torch.rand(len(Drawn._fields), generator=each) for each in generators]
    return Drawn(*torch.stack(numbers, 1))


def cropped(pixels: torch.Tensor, drawn: Drawn) -> torch.Tensor:
    """A crop of each picture at the picture's own aspect ratio, of 0.8 to 1 of its area, resized
    bilinearly to the whole; half of them mirrored. pixels: [B, C, H, W]. Returns: like pixels."""
    area, across, down, mirrored = (
        devices.to_device(each, pixels.device)
        for each in (drawn.area, drawn.across, drawn.down, drawn.mirrored)
    )
    side = (SMALLEST_AREA + (1 - SMALLEST_AREA) * area).sqrt()
    # coordinates of a picture run from -1 to 1
    shifts = [(2 * each - 1) * (1 - side) for each in (across, down)]
    turned = torch.where(mirrored < 0.5, -side, side)
    zero = torch.zeros_like(side)
    places = torch.stack([turned, zero, shifts[0], zero, side, shifts[1]], 1).view(-1, 2, 3)
    grid = torch.nn.functional.affine_grid(places, list(pixels.shape), align_corners=False)
    return torch.nn.functional.grid_sample(
        pixels, grid, mode="bilinear", padding_mode="border", align_corners=False
    )


class NearThreshold:
    """Of every image of a run, how near its losses are to the threshold below which they are
    skipped.

    The nearness of a loss l at time t is R = ratio * l / b[t], of the loss bank b: the sample is
    kept from R = 1 on. An image's is a moving average, r <- decay * r + (1 - decay) * R, that
    starts with its first R. Its probability to be augmented at its next draw falls linearly from 1
    at r = 1 to 0 at r = reach, and is 0 below 1, where most draws are skipped anyway, and before
    its first draw.

    Nothing here waits for the device."""

    def __init__(
        self, *, reach: float, decay: float, images: int, device: torch.device | str = "cpu"
    ):
        """reach: above 1 (--agc_augment); decay: in [0, 1) (--arr_ema_decay)."""
        self.reach, self.decay = reach, decay
        self.nearness = torch.full((images,), torch.inf, device=device)
        self.augmented = torch.zeros(images, dtype=torch.int32, device=device)  # draws

    def probability(self, rows: torch.Tensor) -> torch.Tensor:
        """Of images to be augmented. rows: [B] int64, their numbers. Returns: [B]."""
        near = self.nearness[rows]
        falling = (self.reach - near) / (self.reach - 1)
        return torch.where(near < 1, torch.zeros_like(near), falling.clamp(0, 1))

    def update(self, rows: torch.Tensor, nearness: torch.Tensor) -> None:
        """Learn from a batch. rows: [B] int64; nearness: [B], inf where the bank is still empty,
        which teaches nothing. Of an image that a batch holds more than once the mean counts."""
        defined = nearness.isfinite()
        same = (rows[:, None] == rows[None, :]) & defined
        count = same.sum(1)
        new = (same * nearness.where(defined, torch.zeros_like(nearness))).sum(1) / count
        before = self.nearness[rows]
        averaged = torch.where(before.isfinite(), self.decay * before + (1 - self.decay) * new, new)
        # samples of one image write the same value, so the order of writes does not matter
        self.nearness.scatter_(0, rows, torch.where(count > 0, averaged, before))

    def shown(
        self, pixels: torch.Tensor, rows: torch.Tensor, drawn: Drawn
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Pictures as they are shown. pixels: [B, C, H, W]; rows: [B] int64, their numbers.
        Returns: (like pixels, those that are not augmented unchanged; [B] bool, which are)."""
        chosen = devices.to_device(drawn.chosen, pixels.device) < self.probability(rows)
        return torch.where(chosen[:, None, None, None], cropped(pixels, drawn), pixels), chosen

    def count(self, rows: torch.Tensor, chosen: torch.Tensor) -> None:
        """Count the augmented draws. rows: [B] int64; chosen: [B] int32, 0 or 1."""
        self.augmented.index_add_(0, rows, chosen)

    def forget(self, images: Sequence[int]) -> None:
        """Forget the losses of images that now belong to another copy."""
        self.nearness[list(images)] = torch.inf

    def state(self) -> dict[str, torch.Tensor]:
        """The tensors that a resumed run needs, in host memory."""
        tensors = {"nearness": self.nearness, "augmented": self.augmented}
        return {name: devices.to_host(each) for name, each in tensors.items()}

    def load(self, state: Mapping[str, torch.Tensor]) -> None:
        """Continue from a state. state: as `state` gives it."""
        self.nearness.copy_(state["nearness"])
        self.augmented.copy_(state["augmented"])
