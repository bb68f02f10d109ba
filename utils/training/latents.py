"""The arithmetic of images and losses in a training step, as pure functions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from diffusers import AutoencoderKL


def posterior_sample(
    mean: torch.Tensor,
    std: torch.Tensor,
    noise: torch.Tensor,
    *,
    scaling_factor: float,
    shift_factor: float = 0.0,
) -> torch.Tensor:
    """A sample of the autoencoder's posterior, scaled as the network expects it.

    mean, std, noise: [B, C, H, W], one dtype. Returns: (mean + std * noise - shift_factor) *
    scaling_factor.
    """
    return (mean + std * noise - shift_factor) * scaling_factor


def scaling(vae: AutoencoderKL) -> dict[str, float]:
    """{"scaling_factor", "shift_factor"} of an autoencoder; most have no shift."""
    shift = getattr(vae.config, "shift_factor", None)
    return {"scaling_factor": vae.config.scaling_factor, "shift_factor": shift or 0.0}


def encode(vae: AutoencoderKL, pixels: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """Images to latents: a sample of the posterior, shifted and scaled.

    pixels: [B, 3, H, W] in [-1, 1]; noise: [B, C, H/f, W/f] standard normal. Returns: latents like
    noise."""
    posterior = vae.encode(pixels).latent_dist
    return posterior_sample(posterior.mean, posterior.std, noise, **scaling(vae))


@torch.no_grad()
def moments(vae: AutoencoderKL, pixels: torch.Tensor) -> torch.Tensor:
    """Mean and standard deviation of the posterior of images [B, 3, H, W] in [-1, 1]. Returns: [B,
    2, C, H/f, W/f]."""
    posterior = vae.encode(pixels).latent_dist
    return torch.stack([posterior.mean, posterior.std], 1)


def squared_error(pred: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Squared error per sample, unreduced over the batch so that loss control can weigh samples.

    pred, wanted: [B, C, H, W], any float dtype. Returns: [B], float32, mean over channel and space.
    """
    return (pred.float() - wanted.float()).square().flatten(1).mean(1)
