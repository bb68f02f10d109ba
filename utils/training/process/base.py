"""What training asks of a noise process."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch

FLOW_FLAGS = ("weighting_scheme", "logit_mean", "logit_std", "mode_scale", "timestep_shift")


@dataclass(frozen=True)
class ProcessSettings:
    """Flags that processes read."""

    snr_gamma: float | None = None  # of Min-SNR weights; None weighs all times alike
    bins: int | None = None  # of the loss bank of anti-gradient control; None is the process's own
    # of flow matching; None is as published for the family
    weighting_scheme: str | None = None
    logit_mean: float | None = None
    logit_std: float | None = None
    mode_scale: float | None = None
    timestep_shift: float | str | None = None  # "auto", "none" or a factor

    def given(self, *names: str) -> list[str]:
        """Those of the named flags that are given, as --name=value."""
        values = {name: getattr(self, name) for name in names}
        return [f"--{name}={value!r}" for name, value in values.items() if value is not None]


class Process(ABC):
    """How images become noise, what the network has to predict of it, and how much each time
    counts.

    A time is one number of a sample, in the process's own unit: a step of diffusion (int64), or a
    sigma of flow matching (float32). Every function takes the times [B] of a batch."""

    # number of classes of times, each of which has a usual loss (anti-gradient control); they are
    # visited equally often
    bins: int
    # denoising steps of a preview image
    preview_steps: int

    @abstractmethod
    def draw(self, generator: torch.Generator) -> torch.Tensor:
        """A random time of one sample, a tensor without dimensions on the CPU."""

    def drawn_at(self, height: int, width: int) -> Callable[[torch.Generator], torch.Tensor]:
        """`draw` for latents of height x width, where larger images have more noise; at the size of
        the run's resolution `draw` itself."""
        return self.draw

    @abstractmethod
    def noisy(self, latents: torch.Tensor, noise: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        """Latents with noise. latents, noise: [B, C, h, w]. Returns: like latents."""

    @abstractmethod
    def target(
        self, latents: torch.Tensor, noise: torch.Tensor, time: torch.Tensor
    ) -> torch.Tensor:
        """What the network has to predict. latents, noise: [B, C, h, w]. Returns: like latents."""

    @abstractmethod
    def network_time(self, time: torch.Tensor) -> torch.Tensor:
        """The times as the network takes them, [B]."""

    @abstractmethod
    def weights(self, time: torch.Tensor) -> torch.Tensor | None:
        """Factors of the losses, [B] float32; None weighs all alike."""

    @abstractmethod
    def bin(self, time: torch.Tensor) -> torch.Tensor:
        """The class of each time, int64 [B] in 0 ... bins - 1."""
