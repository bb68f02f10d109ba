"""The step of each family as its published trainer takes it, written with the pipelines' own code:
from pixels, prompts and drawn numbers to a prediction and its target."""

import torch


def latents_of(pipeline, pixels, posterior):
    """A sample of the autoencoder's posterior, as the family scales it."""
    vae = pipeline.vae
    found = vae.encode(pixels).latent_dist
    sample = found.mean + found.std * posterior
    return (sample - (vae.config.shift_factor or 0)) * vae.config.scaling_factor


def stable_diffusion_xl(pipeline, batch, noise):
    """train_text_to_image_sdxl: time ids are original size, crop and target size."""
    from diffusers import DDPMScheduler

    scheduler = DDPMScheduler.from_config(pipeline.scheduler.config)
    latents = latents_of(pipeline, batch["pixels"], noise.posterior)
    tokens, _, pooled, _ = pipeline.encode_prompt(
        batch["prompt"], device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False
    )
    time_ids = [
        pipeline._get_add_time_ids(size, crop, (16, 16), torch.float32, pooled.shape[1])
        for size, crop in zip(batch["original_size"], batch["crop"], strict=True)
    ]
    predicted = pipeline.unet(
        scheduler.add_noise(latents, noise.noise, noise.time),
        noise.time,
        tokens,
        added_cond_kwargs={"time_ids": torch.cat(time_ids), "text_embeds": pooled},
    ).sample
    return predicted, noise.noise


def stable_diffusion_3(pipeline, batch, noise, length=256):
    """train_dreambooth_sd3 without preconditioning."""
    latents = latents_of(pipeline, batch["pixels"], noise.posterior)
    tokens, _, pooled, _ = pipeline.encode_prompt(
        batch["prompt"],
        None,
        None,
        device="cpu",
        do_classifier_free_guidance=False,
        max_sequence_length=length,
    )
    sigmas = noise.time.view(-1, 1, 1, 1)
    predicted = pipeline.transformer(
        hidden_states=(1 - sigmas) * latents + sigmas * noise.noise,
        timestep=noise.time * 1000,
        encoder_hidden_states=tokens,
        pooled_projections=pooled,
    ).sample
    return predicted, noise.noise - latents


def flux(pipeline, batch, noise, length=512, guidance=1.0):
    """train_dreambooth_flux."""
    latents = latents_of(pipeline, batch["pixels"], noise.posterior)
    tokens, pooled, text_ids = pipeline.encode_prompt(
        batch["prompt"], None, device="cpu", max_sequence_length=length
    )
    count, channels, height, width = latents.shape
    sigmas = noise.time.view(-1, 1, 1, 1)
    noisy = (1 - sigmas) * latents + sigmas * noise.noise
    predicted = pipeline.transformer(
        hidden_states=pipeline._pack_latents(noisy, count, channels, height, width),
        timestep=noise.time * 1000 / 1000,
        guidance=(
            torch.full((count,), guidance) if pipeline.transformer.config.guidance_embeds else None
        ),
        pooled_projections=pooled,
        encoder_hidden_states=tokens,
        txt_ids=text_ids,
        img_ids=pipeline._prepare_latent_image_ids(
            count, height // 2, width // 2, "cpu", torch.float32
        ),
    ).sample
    factor = pipeline.vae_scale_factor
    predicted = pipeline._unpack_latents(predicted, height * factor, width * factor, factor)
    return predicted, noise.noise - latents


RECIPES = {
    "SDXL": stable_diffusion_xl,
    "SD 3, 2 blocks": stable_diffusion_3,
    "SD 3.5": stable_diffusion_3,
    "SD 3 without T5": stable_diffusion_3,
    "Flux": flux,
    "Flux without guidance": flux,
}
