"""Flow matching (Lipman et al. 2023; Esser et al. 2024): a straight path from an image to noise.

The time is sigma, the share of noise, float32 in (0, 1]. All arithmetic on it is float32 or finer,
whatever the precision of the networks."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from utils.runtime.errors import UsageError
from utils.training.process.base import Process, ProcessSettings
from utils.training.process.flow_names import DENSITIES

BINS = 1000  # of the loss bank, as many as the steps of a diffusion


@dataclass(frozen=True)
class Weighting:
    """How often a sigma is drawn, and what its loss weighs, before the shift.

    scheme: one of flow_names.WEIGHTING_SCHEMES; logit_normal and mode draw sigma from a density;
        none, sigma_sqrt and cosmap draw it evenly, and the last two weigh the loss.
    logit_mean, logit_std: of logit(1 - sigma) under logit_normal. As in the trainers of diffusers
        and kohya, a mean above 0 draws less noise; Esser et al. (2024) count the other way.
    mode_scale: s of mode, in flow_names.MODE_SCALES; 0 is even.
    """

    scheme: str = "none"
    logit_mean: float = 0.0
    logit_std: float = 1.0
    mode_scale: float = 1.29

    def quantiles(self, shares: torch.Tensor) -> torch.Tensor:
        """Sigma that a share of the draws lies below. shares: float64 in [0, 1]. Returns: float64
        in [0, 1], increasing."""
        if self.scheme == "logit_normal":
            return torch.sigmoid(self.logit_std * torch.special.ndtri(shares) - self.logit_mean)
        if self.scheme == "mode":
            bent = torch.cos(math.pi / 2 * shares) ** 2 - 1 + shares
            return (shares + self.mode_scale * bent).clamp(0, 1)
        return shares

    def weights(self, sigmas: torch.Tensor) -> torch.Tensor | None:
        """Weights of losses. sigmas: [B], after the shift. Returns: [B] like sigmas; None: all are
        1."""
        if self.scheme == "sigma_sqrt":
            return sigmas**-2
        if self.scheme == "cosmap":
            return 2 / (math.pi * (1 - 2 * sigmas + 2 * sigmas**2))
        return None


def shifted(sigmas: torch.Tensor, factor: float) -> torch.Tensor:
    """f * s / (1 + (f - 1) * s): more noise where f > 1 (Esser et al. 2024, eq. 23)."""
    return factor * sigmas / (1 + (factor - 1) * sigmas)


def family_shift(scheduler: Mapping[str, Any], tokens: int) -> float:
    """The factor of `shifted` with which a family samples images.

    scheduler: configuration of its FlowMatchEulerDiscreteScheduler. With use_dynamic_shifting the
        factor grows with the image: exp(mu), or mu itself where time_shift_type is linear, and mu
        is a line through (base_image_seq_len, base_shift) and (max_image_seq_len, max_shift).
    tokens: of an image, as the transformer counts them.
    """
    if not scheduler.get("use_dynamic_shifting", False):
        return float(scheduler.get("shift", 1.0))
    low, high = scheduler.get("base_image_seq_len", 256), scheduler.get("max_image_seq_len", 4096)
    base, most = scheduler.get("base_shift", 0.5), scheduler.get("max_shift", 1.15)
    mu = base + (most - base) * (tokens - low) / (high - low)
    return mu if scheduler.get("time_shift_type") == "linear" else math.exp(mu)


class FlowMatching(Process):
    """x_s = (1 - s) * image + s * noise; the network predicts the velocity, noise - image.

    A time is drawn by one uniform number, its quantile, from which sigma follows; sigma is
    continuous, where published trainers draw one of num_train_timesteps values of it."""

    preview_steps = 28  # as the pipelines' default

    def __init__(
        self,
        weighting: Weighting,
        *,
        shift: float,
        num_train_timesteps: int = 1000,
        bins: int = BINS,
        shift_at: Callable[[int, int], float] | None = None,
    ):
        """shift: factor of `shifted`; 1 leaves sigma as it is drawn. num_train_timesteps: 1 / it is
        the smallest sigma before the shift, and sigma times it what the network is called with.
        bins: of the loss bank, whose limits are those of `shift`. shift_at: (height, width) of
        latents -> the factor at this size; None: `shift` at all sizes."""
        self.weighting, self.shift, self.bins = weighting, shift, bins
        self.shift_at = shift_at
        self.num_train_timesteps = num_train_timesteps
        shares = torch.arange(1, bins, dtype=torch.float64) / bins
        # {device: [bins - 1] float32}, inner limits of the bins
        self._limits = {torch.device("cpu"): self._sigmas(shares)}

    @classmethod
    def of(
        cls,
        scheduler: Mapping[str, Any],
        settings: ProcessSettings,
        *,
        side: int,
        patch: int,
        published: str,
    ) -> FlowMatching:
        """The process of a model.

        scheduler: as `family_shift`; side: of the latents of the run's resolution; patch: latents
        of a token, along a side; published: weighting scheme where none is set."""
        chosen = {
            name: getattr(settings, name)
            for name in ("logit_mean", "logit_std", "mode_scale")
            if getattr(settings, name) is not None
        }

        def shift_at(height: int, width: int) -> float:
            return family_shift(scheduler, (height // patch) * (width // patch))

        given, follows = settings.timestep_shift, None
        if given is None or given == "auto":
            given, follows = shift_at(side, side), shift_at
        return cls(
            Weighting(settings.weighting_scheme or published, **chosen),
            shift=1.0 if given == "none" else float(given),
            num_train_timesteps=scheduler.get("num_train_timesteps", 1000),
            bins=settings.bins or BINS,
            shift_at=follows,
        )

    @classmethod
    def require(cls, settings: ProcessSettings, source: str, *, published: str) -> None:
        """Raise UsageError for --snr_gamma, and for a parameter of a density that is not used.
        source: the model; published: weighting scheme where none is set."""
        for flag in settings.given("snr_gamma"):
            raise UsageError(
                f"{flag} weighs by the signal-to-noise ratio of the steps of a diffusion, and"
                f" {source!r} matches flows; use --weighting_scheme"
            )
        for scheme, names in DENSITIES.items():
            for flag in settings.given(*names):
                if (settings.weighting_scheme or published) != scheme:
                    raise UsageError(f"{flag} is of --weighting_scheme {scheme}; give it too")

    def _sigmas(self, shares, shift=None):
        """float64 shares of the draws -> float32 sigma. shift: None is that of the resolution."""
        drawn = self.weighting.quantiles(shares).clamp_min(1 / self.num_train_timesteps)
        return shifted(drawn, self.shift if shift is None else shift).float()

    def _drawn(self, generator, shift=None):
        return self._sigmas(torch.rand((), generator=generator, dtype=torch.float64), shift)

    def draw(self, generator: torch.Generator) -> torch.Tensor:
        """One sigma: 0-d float32, on the CPU. It takes one number from the generator."""
        return self._drawn(generator)

    def drawn_at(self, height: int, width: int) -> Callable[[torch.Generator], torch.Tensor]:
        """`draw` with the shift of this size, where the family's follows it."""
        if self.shift_at is None:
            return self.draw
        return functools.partial(self._drawn, shift=self.shift_at(height, width))

    def noisy(self, latents: torch.Tensor, noise: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        """The image at a time. latents, noise: [B, C, h, w] float32; time: [B]. Returns: like
        latents."""
        sigmas = time.view(-1, *[1] * (latents.ndim - 1))
        return (1 - sigmas) * latents + sigmas * noise

    def target(
        self, latents: torch.Tensor, noise: torch.Tensor, time: torch.Tensor
    ) -> torch.Tensor:
        """The velocity noise - latents, the same at all times. Returns: like latents."""
        return noise - latents

    def network_time(self, time: torch.Tensor) -> torch.Tensor:
        """What the denoiser is called with: sigma * num_train_timesteps, [B] float32."""
        return time * self.num_train_timesteps

    def weights(self, time: torch.Tensor) -> torch.Tensor | None:
        """Weights of the losses, [B] float32; None: all are 1."""
        return self.weighting.weights(time)

    def bin(self, time: torch.Tensor) -> torch.Tensor:
        """The bin of the loss bank, [B] int64: bins have equal shares of the draws at the run's
        resolution, so that all are visited equally often."""
        limits = self._limits.get(time.device)
        if limits is None:
            limits = self._limits[time.device] = self._limits[torch.device("cpu")].to(time.device)
        return torch.bucketize(time, limits)
