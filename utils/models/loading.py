"""Load and save pipelines and their parts. Every loader passes a dtype and every failure says what
to pass instead."""

import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path

import torch

from utils.files import hub, whole_files
from utils.runtime import devices, seeding
from utils.runtime.errors import UsageError, first_line


def _factor(block_out_channels):
    return 2 ** (len(block_out_channels) - 1)  # an autoencoder halves the side between its blocks


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
        return _factor(self.vae.config.block_out_channels)

    @property
    def noise_scheduler(self):
        """A DDPMScheduler with the pipeline's betas and prediction type; it adds the noise in
        training."""
        from diffusers import DDPMScheduler

        return DDPMScheduler.from_config(self.scheduler.config)


def require_pipeline(flag, source):
    """Check before anything loads that a folder given as model is a pipeline; a hub name passes."""
    path = Path(source)
    if path.is_dir() and not (path / "model_index.json").is_file():
        raise UsageError(
            f"{flag}={str(source)!r} is not a pipeline folder: it has no model_index.json; {HINT}"
        )
    if not path.is_dir() and (
        path.is_absolute() or source.startswith(".") or source.count("/") > 1
    ):
        raise UsageError(f"{flag}={str(source)!r} does not exist; {HINT}")


HINT = "takes a folder as written by diffusers' save_pretrained, or a hub name owner/model"


def _unreachable(flag, source, error):
    said = first_line(error)
    if Path(source).is_dir():
        return UsageError(f"{flag}={str(source)!r} is not whole: {said}; {HINT}")
    tried = (
        "the local cache (HF_HUB_OFFLINE is set)"
        if os.environ.get("HF_HUB_OFFLINE")
        else "the hub and its cache"
    )
    return UsageError(
        f"{flag}={source!r} is no folder here and could not be had from {tried} ({said}); download"
        f" the pipeline where there is a network and pass its folder with {flag}"
    )


def _loading_errors():
    # what a missing, gated, misspelled or unreachable source raises in the libraries' loaders
    from safetensors import SafetensorError

    return (
        OSError,
        ValueError,
        KeyError,
        AttributeError,
        SafetensorError,
        *hub.connection_errors(),
    )


@dataclass(frozen=True)
class Configs:
    """What a pipeline's folder or hub repository says of it, without its weights. index:
    model_index; vae, denoiser, scheduler: their configurations."""

    index: dict
    vae: dict
    denoiser: dict
    scheduler: dict

    @property
    def factor(self):
        """Pixels a side per latent a side."""
        return _factor(self.vae["block_out_channels"])

    @property
    def patch(self):
        """Latents a side per token of a transformer; 1 for a U-Net."""
        return self.denoiser.get("patch_size", 1)


def read_index(flag, source, *, revision=None):
    """model_index.json of a pipeline as a dict; UsageError when it cannot be had."""
    from diffusers import DiffusionPipeline

    require_pipeline(flag, source)
    try:
        return DiffusionPipeline.load_config(source, revision=revision)
    except _loading_errors() as error:
        raise _unreachable(flag, source, error) from None


def read_configs(flag, source, index, *, denoiser, revision=None):
    """Configurations of a pipeline with that model_index whose predicting network is the folder
    `denoiser`."""
    from diffusers import AutoencoderKL, DDIMScheduler

    try:
        found = (
            AutoencoderKL.load_config(source, subfolder=part, revision=revision)
            for part in ("vae", denoiser)
        )
        # of whatever class it is
        scheduler = DDIMScheduler.load_config(source, subfolder="scheduler", revision=revision)
        made = Configs(index, *found, scheduler)
        made.vae["block_out_channels"]  # a folder may hold another network's configuration
        return made
    except _loading_errors() as error:
        raise _unreachable(flag, source, error) from None


def _one_bar_only():
    """Silence the libraries' own bars: each stage shows one of its own. Downloads keep theirs."""
    import diffusers.utils.logging
    import transformers.utils.logging

    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()


def load_pipeline(flag, source, *, dtype=torch.float32, revision=None):
    """A pipeline of whatever class the folder or hub repository says it is, on the CPU, without
    safety checker.

    The safety checker is left out because a blackened image would count as not copied.
    """
    from diffusers import DiffusionPipeline

    require_pipeline(flag, source)
    _one_bar_only()
    try:
        config = DiffusionPipeline.load_config(source, revision=revision)
        unused = {"safety_checker": None} if "safety_checker" in config else {}
        unused |= {"requires_safety_checker": False} if "requires_safety_checker" in config else {}
        pipeline = DiffusionPipeline.from_pretrained(
            source, dtype=dtype, revision=revision, **unused
        )
    except _loading_errors() as error:
        raise _unreachable(flag, source, error) from None
    pipeline.set_progress_bar_config(disable=True)
    if hasattr(pipeline, "watermark"):
        # SDXL writes one into the pixels, where a package for it happens to be installed
        pipeline.watermark = None
    return pipeline


# LoRA ---------------------------------------------------------------------------------------------


def require_lora(place):
    """UsageError unless --lora can be used here: peft is installed, and what looks like a path is a
    safetensors file or a folder of one."""
    if importlib.util.find_spec("peft") is None:
        raise UsageError(
            f"--lora={place!r} needs the package peft, which is not installed: pip install peft"
        )
    path, takes = (
        Path(place),
        "takes a .safetensors file, a folder that holds one, or a hub name owner/model",
    )
    if path.is_file() and path.suffix != ".safetensors":
        raise UsageError(
            f"--lora={place!r} is not a .safetensors file, and others are not opened; {takes}"
        )
    if path.is_dir() and len(list(path.glob("*.safetensors"))) != 1:
        raise UsageError(
            f"--lora={place!r} holds {len(list(path.glob('*.safetensors')))} .safetensors files;"
            f" {takes}"
        )
    like_path = (
        path.is_absolute()
        or place.startswith(".")
        or place.endswith(".safetensors")
        or path.parent.is_dir()
    )
    if not path.exists() and (like_path or place.count("/") != 1):
        raise UsageError(f"--lora={place!r} does not exist; {takes}")


def _lora_file(place):
    path = Path(place)
    return next(path.glob("*.safetensors")) if path.is_dir() else path


def lora_id(place):
    """What LoRA weights are known by: of a file here its SHA-256, 16 digits; else the hub's
    name."""
    path = _lora_file(place)
    return whole_files.file_sha256(path)[:16] if path.is_file() else place


def load_lora(pipeline, place):
    """Add LoRA weights to a pipeline's networks, for good: generation then costs what it did
    without."""
    path = _lora_file(place)
    where = {"weight_name": path.name} if path.is_file() else {}
    try:
        pipeline.load_lora_weights(
            str(path.parent) if where else place, use_safetensors=True, **where
        )
    except (*_loading_errors(), RuntimeError) as error:
        if not where:
            raise UsageError(
                f"--lora={place!r} is no file here and could not be had from the hub"
                f" ({first_line(error)}); download it where there is a network and pass the"
                " .safetensors file"
            ) from None
        raise UsageError(
            f"--lora={place!r} does not fit a {type(pipeline).__name__}: {first_line(error)}"
        ) from None
    if not pipeline.get_active_adapters():
        raise UsageError(f"--lora={place!r} holds no LoRA weights for a {type(pipeline).__name__}")
    pipeline.fuse_lora()
    pipeline.unload_lora_weights()


# Parts for training -------------------------------------------------------------------------------


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
        raise UsageError(
            f"{flag}={source!r} is a {type(pipeline).__name__}; training takes a"
            " StableDiffusionPipeline"
        )
    if pipeline.scheduler.config.prediction_type not in ("epsilon", "v_prediction"):
        kind = pipeline.scheduler.config.prediction_type
        raise UsageError(
            f"{flag}={source!r} predicts {kind!r}; training takes one of: epsilon, v_prediction"
        )
    own = pipeline.tokenizer
    if tokenizer is not None:
        own = load_tokenizer("--tokenizer_name", tokenizer, subfolder="", revision=revision)
        if len(own) > pipeline.text_encoder.config.vocab_size:
            raise UsageError(
                f"--tokenizer_name={tokenizer!r} has {len(own)} ids; the model's text encoder takes"
                f" {pipeline.text_encoder.config.vocab_size}"
            )
        # a tokenizer of its own may know no length, or one that the encoder has no positions for
        own.model_max_length = min(
            own.model_max_length, pipeline.text_encoder.config.max_position_embeddings
        )
    return DiffusionParts(
        own, pipeline.text_encoder, pipeline.vae, pipeline.unet, pipeline.scheduler
    )


def assemble(parts):
    """A StableDiffusionPipeline around parts at hand, without safety checker; nothing is copied."""
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


def token_ids(tokenizer, prompts):
    """Prompts as ids, padded and cut to the tokenizer's length. Returns: [B, T] int64, on the
    CPU."""
    return tokenizer(
        prompts,
        padding="max_length",
        max_length=tokenizer.model_max_length,
        truncation=True,
        return_tensors="pt",
    ).input_ids


def embed(tokenizer, text_encoder, prompts, *, device):
    """Token embeddings of prompts. Returns: [B, T, D]."""
    return text_encoder(devices.to_device(token_ids(tokenizer, prompts), torch.device(device)))[0]


def from_scratch(unet, seed):
    """A U-Net of the same architecture with initial weights of their own, a function of the seed.
    Returns: like unet."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seeding.derive_seed(seed, "unet"))
        return type(unet).from_config(unet.config)
