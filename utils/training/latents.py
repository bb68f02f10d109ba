"""The arithmetic of a training step as pure functions: pixels to latents, targets, losses and their
weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, DDPMScheduler


def posterior_sample(
    mean: torch.Tensor, std: torch.Tensor, noise: torch.Tensor, *, scaling_factor: float
) -> torch.Tensor:
    """A sample of the autoencoder's posterior, scaled as the U-Net expects it.

    mean, std, noise: [B, C, H, W], one dtype. Returns: (mean + std * noise) * scaling_factor.
    """
    return (mean + std * noise) * scaling_factor


def encode(vae: AutoencoderKL, pixels: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """Images to latents: a sample of the posterior times `vae.config.scaling_factor`.

    pixels: [B, 3, H, W] in [-1, 1]; noise: [B, C, H/f, W/f] standard normal. Returns: latents like
    noise."""
    posterior = vae.encode(pixels).latent_dist
    return posterior_sample(
        posterior.mean, posterior.std, noise, scaling_factor=vae.config.scaling_factor
    )


@torch.no_grad()
def moments(vae: AutoencoderKL, pixels: torch.Tensor) -> torch.Tensor:
    """Mean and standard deviation of the posterior of images [B, 3, H, W] in [-1, 1]. Returns: [B,
    2, C, H/f, W/f]."""
    posterior = vae.encode(pixels).latent_dist
    return torch.stack([posterior.mean, posterior.std], 1)


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
        f"prediction_type={kind!r} cannot be trained; a base model with one of: epsilon,"
        " v_prediction"
    )


def squared_error(pred: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Squared error per sample, unreduced over the batch so that loss control can weigh samples.

    pred, wanted: [B, C, H, W], any float dtype. Returns: [B], float32, mean over channel and space.
    """
    return (pred.float() - wanted.float()).square().flatten(1).mean(1)


def snr_weights(scheduler: DDPMScheduler, timesteps: torch.Tensor, gamma: float) -> torch.Tensor:
    """Min-SNR weights (Hang et al. 2023): min(SNR, gamma) / SNR for noise, / (SNR + 1) for
    velocity.

    timesteps: [B]; gamma > 0. Returns: [B], float32.
    """
    alphas = scheduler.alphas_cumprod.to(timesteps.device, torch.float32)[timesteps]
    snr = alphas / (1 - alphas)
    divisor = snr + 1 if scheduler.config.prediction_type == "v_prediction" else snr
    return snr.clamp(max=gamma) / divisor
