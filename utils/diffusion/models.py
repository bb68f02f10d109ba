"""Load and save pipelines and their parts. Every loader passes a dtype and every failure says what to pass instead."""

import math
import os
from dataclasses import dataclass
from pathlib import Path

import torch

from utils import devices, seeding
from utils.errors import UsageError


@dataclass(frozen=True)
class DiffusionParts:
    """The parts of a Stable Diffusion 1.x or 2.x pipeline."""

    tokenizer: object
    text_encoder: object
    vae: object
    unet: object
    scheduler: object

    @property
    def vae_factor(self):
        """Pixels a side per latent a side."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    @property
    def noise_scheduler(self):
        """A DDPMScheduler with the pipeline's betas and prediction type; it adds the noise in training."""
        from diffusers import DDPMScheduler

        return DDPMScheduler.from_config(self.scheduler.config)


def require_pipeline(flag, source):
    """Check before anything loads that a folder given as model is a pipeline; a hub name passes."""
    path = Path(source)
    if path.is_dir() and not (path / "model_index.json").is_file():
        raise UsageError(f"{flag}={str(source)!r} is not a pipeline folder: it has no model_index.json; {HINT}")
    if not path.is_dir() and (path.is_absolute() or source.startswith(".") or source.count("/") > 1):
        raise UsageError(f"{flag}={str(source)!r} does not exist; {HINT}")


HINT = "takes a folder as written by diffusers' save_pretrained, or a hub name owner/model"


def _unreachable(flag, source, error):
    if Path(source).is_dir():
        said = str(error).strip().splitlines()[0][:160] if str(error).strip() else type(error).__name__
        return UsageError(f"{flag}={str(source)!r} is not whole: {said}; {HINT}")
    tried = "the local cache (HF_HUB_OFFLINE is set)" if os.environ.get("HF_HUB_OFFLINE") else "the hub and its cache"
    said = str(error).strip().splitlines()[0][:160] if str(error).strip() else type(error).__name__
    return UsageError(
        f"{flag}={source!r} is no folder here and could not be had from {tried} ({said}); download the pipeline where "
        f"there is a network and pass its folder with {flag}"
    )


def _loading_errors():
    # what a missing, gated, misspelled or unreachable source raises in the libraries' loaders
    import httpx
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError
    from safetensors import SafetensorError

    return (
        OSError,
        ValueError,
        KeyError,
        AttributeError,
        HfHubHTTPError,
        HFValidationError,
        httpx.HTTPError,
        SafetensorError,
    )


def require_resolution(flag, source, resolution, *, revision=None):
    """Check, from the configuration alone, that the autoencoder's factor divides --resolution, and that 8 does, which
    diffusers' Stable Diffusion pipeline asks for whatever the autoencoder."""
    from diffusers import AutoencoderKL

    require_pipeline(flag, source)
    try:
        config = AutoencoderKL.load_config(source, subfolder="vae", revision=revision)
        levels = len(config["block_out_channels"])
    except _loading_errors() as error:
        raise _unreachable(flag, source, error) from None
    factor = math.lcm(8, 2 ** (levels - 1))
    if resolution % factor:
        raise UsageError(f"--resolution={resolution} is not accepted; {source!r} takes multiples of {factor}")


def _one_bar_only():
    """Silence the libraries' own bars: each stage shows one of its own. Downloads keep theirs."""
    import diffusers.utils.logging
    import transformers.utils.logging

    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()


def load_pipeline(flag, source, *, dtype=torch.float32, revision=None):
    """A pipeline of whatever class the folder or hub repository says it is, on the CPU, without safety checker.

    The safety checker is left out because a blackened image would count as not copied.
    """
    from diffusers import DiffusionPipeline

    require_pipeline(flag, source)
    _one_bar_only()
    try:
        config = DiffusionPipeline.load_config(source, revision=revision)
        unused = {"safety_checker": None} if "safety_checker" in config else {}
        unused |= {"requires_safety_checker": False} if "requires_safety_checker" in config else {}
        pipeline = DiffusionPipeline.from_pretrained(source, dtype=dtype, revision=revision, **unused)
    except _loading_errors() as error:
        raise _unreachable(flag, source, error) from None
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def load_tokenizer(flag, source, *, subfolder="tokenizer", revision=None):
    """A CLIP tokenizer of a pipeline, or of a folder or hub name of its own with subfolder=""."""
    from transformers import CLIPTokenizer

    try:
        return CLIPTokenizer.from_pretrained(source, subfolder=subfolder, revision=revision)
    except _loading_errors() as error:
        raise _unreachable(flag, source, error) from None


def load_parts(flag, source, *, revision=None, tokenizer=None):
    """The parts of an SD 1.x / 2.x pipeline, float32, for training; UsageError for another family.

    tokenizer: a folder or hub name instead of the pipeline's own.
    """
    pipeline = load_pipeline(flag, source, revision=revision)
    if type(pipeline).__name__ != "StableDiffusionPipeline":
        raise UsageError(f"{flag}={source!r} is a {type(pipeline).__name__}; training takes a StableDiffusionPipeline")
    if pipeline.scheduler.config.prediction_type not in ("epsilon", "v_prediction"):
        kind = pipeline.scheduler.config.prediction_type
        raise UsageError(f"{flag}={source!r} predicts {kind!r}; training takes one of: epsilon, v_prediction")
    own = pipeline.tokenizer
    if tokenizer is not None:
        own = load_tokenizer("--tokenizer_name", tokenizer, subfolder="", revision=revision)
        if len(own) > pipeline.text_encoder.config.vocab_size:
            raise UsageError(
                f"--tokenizer_name={tokenizer!r} has {len(own)} ids; the model's text encoder takes "
                f"{pipeline.text_encoder.config.vocab_size}"
            )
        # a tokenizer of its own may know no length, or one that the encoder has no positions for
        own.model_max_length = min(own.model_max_length, pipeline.text_encoder.config.max_position_embeddings)
    return DiffusionParts(own, pipeline.text_encoder, pipeline.vae, pipeline.unet, pipeline.scheduler)


def assemble(parts):
    """A StableDiffusionPipeline around parts at hand, without safety checker; nothing is copied."""
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline(
        tokenizer=parts.tokenizer, text_encoder=parts.text_encoder, vae=parts.vae, unet=parts.unet,
        scheduler=type(parts.scheduler).from_config(parts.scheduler.config), safety_checker=None,
        feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def token_ids(tokenizer, prompts):
    """Prompts as ids, padded and cut to the tokenizer's length. Returns: [B, T] int64, on the CPU."""
    return tokenizer(
        prompts, padding="max_length", max_length=tokenizer.model_max_length, truncation=True, return_tensors="pt"
    ).input_ids


def embed(tokenizer, text_encoder, prompts, *, device):
    """Token embeddings of prompts. Returns: [B, T, D]."""
    return text_encoder(devices.to_device(token_ids(tokenizer, prompts), torch.device(device)))[0]


def from_scratch(unet, seed):
    """A U-Net of the same architecture with initial weights of their own, a function of the seed. Returns: like unet."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seeding.derive_seed(seed, "unet"))
        return type(unet).from_config(unet.config)
