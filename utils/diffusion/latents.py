"""Pixels to latents, noise onto latents, targets and losses: the arithmetic of a training step, as pure functions."""

import torch


def posterior_sample(mean, std, noise, *, scaling_factor):
    """A sample of the autoencoder's posterior, scaled as the U-Net expects it.

    mean, std, noise: [B, C, H, W], one dtype. Returns: (mean + std * noise) * scaling_factor.
    """
    return (mean + std * noise) * scaling_factor


def encode(vae, pixels, noise):
    """Images to latents: a sample of the posterior times `vae.config.scaling_factor`.

    pixels: [B, 3, H, W] in [-1, 1]; noise: [B, C, H/f, W/f] standard normal. Returns: latents like noise.
    """
    posterior = vae.encode(pixels).latent_dist
    return posterior_sample(posterior.mean, posterior.std, noise, scaling_factor=vae.config.scaling_factor)


class PosteriorCache:
    """The autoencoder's posterior of images that look the same at every draw, encoded once and sampled anew each time.

    Kept in memory on the device: two float32 latents an image, 32 KiB at 256 px with Stable Diffusion's autoencoder.
    """

    def __init__(self, vae):
        self.vae, self._known = vae, {}

    def sample(self, indices, pixels, noise):
        """As `encode` of pixels [B, 3, H, W] whose images have the numbers `indices`. Returns: latents like noise."""
        new = [i for i, index in enumerate(indices) if index not in self._known]
        if new:
            posterior = self.vae.encode(pixels[new]).latent_dist
            for i, mean, std in zip(new, posterior.mean, posterior.std, strict=True):
                self._known[indices[i]] = mean, std
        mean, std = (torch.stack(part) for part in zip(*(self._known[i] for i in indices), strict=True))
        return posterior_sample(mean, std, noise, scaling_factor=self.vae.config.scaling_factor)


def target(scheduler, latents, noise, timesteps):
    """What the U-Net is asked for: the noise, or the velocity v = a_t * noise - s_t * latents (Salimans & Ho 2022).

    scheduler: a DDPMScheduler; latents, noise: [B, C, H, W]; timesteps: [B]. ValueError on any other prediction type.
    """
    kind = scheduler.config.prediction_type
    if kind == "epsilon":
        return noise
    if kind == "v_prediction":
        return scheduler.get_velocity(latents, noise, timesteps)
    raise ValueError(f"prediction_type={kind!r} cannot be trained; a base model with one of: epsilon, v_prediction")


def squared_error(pred, wanted):
    """Squared error per sample, unreduced over the batch so that loss control can weigh samples.

    pred, wanted: [B, C, H, W], any float dtype. Returns: [B], float32, mean over channel and space.
    """
    return (pred.float() - wanted.float()).square().flatten(1).mean(1)
