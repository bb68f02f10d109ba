"""Load and save diffusers pipelines and their parts.

Every loader names a dtype, and every error says what to pass instead."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from utils.models import families, pipeline_files
from utils.runtime import devices, seeding
from utils.runtime.errors import UsageError

if TYPE_CHECKING:
    from diffusers import (
        AutoencoderKL,
        DDPMScheduler,
        DiffusionPipeline,
        SchedulerMixin,
        StableDiffusionPipeline,
        UNet2DConditionModel,
    )
    from transformers import CLIPTextModel, CLIPTokenizer


@dataclass(frozen=True)
class DiffusionParts:
    """The parts of a Stable Diffusion 1.x or 2.x pipeline."""

    tokenizer: CLIPTokenizer  # text -> ids
    text_encoder: CLIPTextModel  # ids [B, T] -> embeddings [B, T, D]
    vae: AutoencoderKL  # images in [-1, 1] <-> latents
    unet: UNet2DConditionModel  # the denoiser
    scheduler: SchedulerMixin  # betas and prediction type

    @property
    def vae_factor(self) -> int:
        """Pixels per latent, along a side."""
        return pipeline_files.factor(self.vae.config.block_out_channels)

    @property
    def noise_scheduler(self) -> DDPMScheduler:
        """A DDPMScheduler with the pipeline's betas and prediction type; it adds the noise in
        training."""
        from diffusers import DDPMScheduler

        return DDPMScheduler.from_config(self.scheduler.config)


def _one_bar_only() -> None:
    """Turn off the libraries' progress bars, as each stage shows its own. Downloads keep theirs."""
    import diffusers.utils.logging
    import transformers.utils.logging

    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()


def load_pipeline(
    flag: str,
    source: str | Path,
    *,
    dtype: torch.dtype = torch.float32,
    revision: str | None = None,
) -> DiffusionPipeline:
    """Load a pipeline of the class that its model_index.json names, onto the CPU.

    The safety checker is not loaded, because an image that it blackens would count as not copied.

    flag: the option that named the source, for errors (UsageError).
    source: a folder or a hub name.
    """
    from diffusers import DiffusionPipeline

    pipeline_files.require_pipeline(flag, source)
    _one_bar_only()
    try:
        config = pipeline_files.read_index(flag, source, revision=revision)
        without = {"safety_checker": None, "requires_safety_checker": False}
        unused: dict[str, Any] = {name: off for name, off in without.items() if name in config}
        pipeline = DiffusionPipeline.from_pretrained(
            source, dtype=dtype, revision=revision, **unused
        )
    except pipeline_files.loading_errors() as error:
        raise pipeline_files.unreachable(flag, source, error) from None
    pipeline.set_progress_bar_config(disable=True)
    if hasattr(pipeline, "watermark"):
        # SDXL writes a watermark into the pixels if a package for it is installed
        pipeline.watermark = None
    return pipeline


# Parts for training -------------------------------------------------------------------------------


def load_tokenizer(
    flag: str,
    source: str | Path,
    *,
    subfolder: str = "tokenizer",
    revision: str | None = None,
) -> CLIPTokenizer:
    """Load the CLIP tokenizer of a pipeline; subfolder="" loads one that has a folder or a hub name
    of its own."""
    from transformers import CLIPTokenizer

    try:
        return CLIPTokenizer.from_pretrained(source, subfolder=subfolder, revision=revision)
    except pipeline_files.loading_errors() as error:
        raise pipeline_files.unreachable(flag, source, error) from None


def load_parts(
    flag: str,
    source: str,
    *,
    revision: str | None = None,
    tokenizer: str | None = None,
) -> DiffusionParts:
    """Load the parts of an SD 1.x or 2.x pipeline in float32, for training; UsageError for another
    class of pipeline or another kind of prediction.

    tokenizer: a folder or hub name, instead of the pipeline's own tokenizer.
    """
    pipeline = load_pipeline(flag, source, revision=revision)
    if type(pipeline).__name__ not in families.TRAINED:
        raise UsageError(
            f"{flag}={source!r} is a {type(pipeline).__name__}; training needs one of:"
            f" {', '.join(families.TRAINED)}"
        )
    if pipeline.scheduler.config.prediction_type not in ("epsilon", "v_prediction"):
        kind = pipeline.scheduler.config.prediction_type
        raise UsageError(
            f"{flag}={source!r} predicts {kind!r}; training needs one of: epsilon, v_prediction"
        )
    return DiffusionParts(
        tokenizer=(
            pipeline.tokenizer
            if tokenizer is None
            else _other_tokenizer(tokenizer, pipeline.text_encoder, revision=revision)
        ),
        text_encoder=pipeline.text_encoder,
        vae=pipeline.vae,
        unet=pipeline.unet,
        scheduler=pipeline.scheduler,
    )


def _other_tokenizer(
    source: str, text_encoder: CLIPTextModel, *, revision: str | None
) -> CLIPTokenizer:
    """The tokenizer of --tokenizer_name; UsageError if the text encoder has too few embeddings."""
    tokenizer = load_tokenizer("--tokenizer_name", source, subfolder="", revision=revision)
    if len(tokenizer) > text_encoder.config.vocab_size:
        raise UsageError(
            f"--tokenizer_name={source!r} has {len(tokenizer)} ids; the model's text encoder has"
            f" embeddings for {text_encoder.config.vocab_size}"
        )
    # it may set no length, or one for which the encoder has no positions
    tokenizer.model_max_length = min(
        tokenizer.model_max_length, text_encoder.config.max_position_embeddings
    )
    return tokenizer


def assemble(parts: DiffusionParts) -> StableDiffusionPipeline:
    """A StableDiffusionPipeline of the parts, without safety checker; no weight is copied."""
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline(
        tokenizer=parts.tokenizer,
        text_encoder=parts.text_encoder,
        vae=parts.vae,
        unet=parts.unet,
        scheduler=type(parts.scheduler).from_config(parts.scheduler.config),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def token_ids(tokenizer: CLIPTokenizer, prompts: list[str]) -> torch.Tensor:
    """Token ids of prompts, padded and cut to the tokenizer's length: [B, T] int64, on the CPU."""
    return tokenizer(
        prompts,
        padding="max_length",
        max_length=tokenizer.model_max_length,
        truncation=True,
        return_tensors="pt",
    ).input_ids


def embed(
    tokenizer: CLIPTokenizer,
    text_encoder: CLIPTextModel,
    prompts: list[str],
    *,
    device: str | torch.device,
) -> torch.Tensor:
    """Token embeddings of prompts: [B, T, D], in the text encoder's dtype."""
    return text_encoder(devices.to_device(token_ids(tokenizer, prompts), torch.device(device)))[0]


def from_scratch(unet: UNet2DConditionModel, seed: int) -> UNet2DConditionModel:
    """A U-Net of the same architecture with new random weights, determined by the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seeding.derive_seed(seed, "unet"))
        return type(unet).from_config(unet.config)
