"""Diffusion in discrete steps (Ho et al. 2020), predicting noise or velocity."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from utils.runtime.errors import UsageError
from utils.training.process.base import FLOW_FLAGS, Process, ProcessSettings

if TYPE_CHECKING:
    from diffusers import DDPMScheduler, SchedulerMixin

PREDICTIONS = ("epsilon", "v_prediction")


def noise_scheduler(scheduler: SchedulerMixin) -> DDPMScheduler:
    """A DDPMScheduler with the betas and the kind of prediction of a pipeline's scheduler; it adds
    the noise in training."""
    from diffusers import DDPMScheduler

    return DDPMScheduler.from_config(scheduler.config)


def target(
    scheduler: DDPMScheduler,
    latents: torch.Tensor,
    noise: torch.Tensor,
    timesteps: torch.Tensor,
) -> torch.Tensor:
    """The target of the U-Net: the noise, or the velocity v = a_t * noise - s_t * latents (Salimans
    & Ho 2022).

    latents, noise: [B, C, H, W]; timesteps: [B]. ValueError on any other prediction type."""
    kind = scheduler.config.prediction_type
    if kind == "epsilon":
        return noise
    if kind == "v_prediction":
        return scheduler.get_velocity(latents, noise, timesteps)
    raise ValueError(
        f"prediction_type={kind!r} cannot be trained; a base model with one of:"
        f" {', '.join(PREDICTIONS)}"
    )


def snr_weights(scheduler: DDPMScheduler, timesteps: torch.Tensor, gamma: float) -> torch.Tensor:
    """Min-SNR weights (Hang et al. 2023): min(SNR, gamma) / SNR for noise, / (SNR + 1) for
    velocity.

    timesteps: [B]; gamma > 0. Returns: [B], float32.
    """
    alphas = scheduler.alphas_cumprod.to(timesteps.device, torch.float32)[timesteps]
    snr = alphas / (1 - alphas)
    divisor = snr + 1 if scheduler.config.prediction_type == "v_prediction" else snr
    return snr.clamp(max=gamma) / divisor


class Diffusion(Process):
    """The process of a DDPM. A time is a step, int64, uniform on 0 ... steps - 1."""

    def __init__(
        self,
        scheduler: SchedulerMixin,
        *,
        snr_gamma: float | None = None,
        bins: int | None = None,
    ):
        """scheduler: of the pipeline; snr_gamma: of Min-SNR weights, None weighs all alike; bins:
        of the loss bank, None makes each step a class of its own."""
        self.scheduler, self.snr_gamma = noise_scheduler(scheduler), snr_gamma
        self.steps = self.scheduler.config.num_train_timesteps
        self.bins = min(bins or self.steps, self.steps)
        # schedulers with an offset give a short schedule when asked for all of their steps
        self.preview_steps = min(50, max(1, self.steps // 2))

    @classmethod
    def require(cls, settings: ProcessSettings, source: str) -> None:
        """Raise UsageError for a flag of flow matching."""
        for flag in settings.given(*FLOW_FLAGS):
            raise UsageError(
                f"{flag} is of models that match flows (SD 3, Flux), and {source!r} predicts noise"
                " or velocity in discrete steps, drawn evenly; --snr_gamma weighs its losses"
            )

    def draw(self, generator: torch.Generator) -> torch.Tensor:
        """A uniform step."""
        return torch.randint(self.steps, (), generator=generator)

    def noisy(self, latents: torch.Tensor, noise: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        """sqrt(a_t) * latents + sqrt(1 - a_t) * noise, a_t the product of the alphas."""
        return self.scheduler.add_noise(latents, noise, time)

    def target(
        self, latents: torch.Tensor, noise: torch.Tensor, time: torch.Tensor
    ) -> torch.Tensor:
        """Noise or velocity, see `target` of this module."""
        return target(self.scheduler, latents, noise, time)

    def network_time(self, time: torch.Tensor) -> torch.Tensor:
        """The steps themselves."""
        return time

    def weights(self, time: torch.Tensor) -> torch.Tensor | None:
        """Min-SNR weights, where they are asked for."""
        return snr_weights(self.scheduler, time, self.snr_gamma) if self.snr_gamma else None

    def bin(self, time: torch.Tensor) -> torch.Tensor:
        """The share of the steps that lie below, in bins: the steps themselves unless there are
        fewer bins."""
        return time * self.bins // self.steps
