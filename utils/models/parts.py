"""The parts of a text-to-image pipeline, as training uses them."""

from __future__ import annotations

import inspect
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import torch

from utils.models import families, loading, pipeline_files
from utils.models.ddpm import Classes
from utils.models.networks import Say
from utils.models.pipeline_files import NO_CHOICE, FileChoice
from utils.runtime import seeding
from utils.runtime.errors import UsageError

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline, SchedulerMixin
    from transformers import PreTrainedTokenizerBase

# suffixes of the text encoders of a pipeline and of their tokenizers, in the order of their use
NUMBERS = ("", "_2", "_3")


class Parts:
    """The networks of a pipeline by what they do. A network is held once: by the pipeline."""

    def __init__(self, pipeline: DiffusionPipeline):
        """pipeline: of a class in families.FAMILIES; it belongs to the parts from now on."""
        self.pipeline = pipeline
        self.denoiser_name = families.family_of(pipeline).denoiser
        self.classes: Classes | None = None  # of a DDPM that is conditioned on them

    @property
    def denoiser(self) -> torch.nn.Module:
        """The network that predicts: a U-Net or a transformer."""
        return getattr(self.pipeline, self.denoiser_name)

    @property
    def encoders(self) -> dict[str, torch.nn.Module]:
        """{"text_encoder", "text_encoder_2" ...: text encoder}, of those that the pipeline has."""
        return self._numbered("text_encoder")

    @property
    def tokenizers(self) -> dict[str, PreTrainedTokenizerBase]:
        """{name of a text encoder: its tokenizer}."""
        return {
            name.replace("tokenizer", "text_encoder"): each
            for name, each in self._numbered("tokenizer").items()
        }

    @property
    def tokenizer(self) -> Any:
        """The first tokenizer; None of a model that reads no text."""
        return next(iter(self.tokenizers.values()), None)

    @property
    def vae(self) -> Any:
        """The AutoencoderKL: images in [-1, 1] <-> latents. None: the network predicts pixels."""
        return getattr(self.pipeline, "vae", None)

    @property
    def scheduler(self) -> SchedulerMixin:
        """The scheduler that the model came with: its noise and the kind of its prediction."""
        return self.pipeline.scheduler

    @property
    def networks(self) -> dict[str, torch.nn.Module]:
        """{name in the pipeline: network}: denoiser, text encoders, autoencoder."""
        autoencoder = {} if self.vae is None else {"vae": self.vae}
        return {self.denoiser_name: self.denoiser, **self.encoders, **autoencoder}

    @property
    def vae_factor(self) -> int:
        """Pixels per latent, along a side."""
        return 1 if self.vae is None else pipeline_files.factor(self.vae.config.block_out_channels)

    @property
    def latent_channels(self) -> int:
        """Channels of what the network denoises."""
        if self.vae is None:
            return self.pipeline.unet.config.in_channels
        return self.vae.config.latent_channels

    def _numbered(self, kind: str) -> dict[str, Any]:
        found = {f"{kind}{n}": getattr(self.pipeline, f"{kind}{n}", None) for n in NUMBERS}
        return {name: part for name, part in found.items() if part is not None}

    def replace(self, **parts: Any) -> None:
        """Put other parts in the place of those of the same names in the pipeline."""
        self.pipeline.register_modules(**parts)

    def assemble(self) -> DiffusionPipeline:
        """A pipeline of the parts, for images and checkpoints: with a scheduler of its own, without
        safety checker; no weight is copied."""
        scheduler = type(self.scheduler).from_config(self.scheduler.config)
        unused = ("safety_checker", "feature_extractor", "image_encoder")
        parts = self.pipeline.components | {"scheduler": scheduler}
        parts |= {name: None for name in unused if name in parts}
        # settings of the class beside its parts, such as SDXL's force_zeros_for_empty_prompt
        known = inspect.signature(type(self.pipeline).__init__).parameters
        settings = {
            name: value
            for name, value in self.pipeline.config.items()
            if name in known and name not in parts
        }
        if "requires_safety_checker" in known:
            settings["requires_safety_checker"] = False
        pipeline = type(self.pipeline)(**parts, **settings)
        loading.keep_text_length(self.pipeline.config, pipeline)
        return loading.plain(pipeline)


def load_parts(
    flag: str,
    source: str,
    *,
    takes: tuple[str, ...] = tuple(families.FAMILIES),
    dtype: torch.dtype = torch.float32,
    whole: Collection[str] = (),
    choice: FileChoice = NO_CHOICE,
    tokenizer: str | None = None,
    say: Say = lambda line: None,
) -> Parts:
    """Load the parts of a pipeline for training; UsageError for a class that is not in `takes`.

    flag, dtype, whole, choice, say: as `loading.load_pipeline`.
    tokenizer: a folder or hub name, instead of the pipeline's own (first) tokenizer.
    """
    pipeline = loading.load_pipeline(flag, source, dtype=dtype, choice=choice, whole=whole, say=say)
    name = type(pipeline).__name__
    if name not in takes:
        raise UsageError(
            f"{flag}={source!r} is a {name}; training needs one of: {', '.join(takes)}"
        )
    if tokenizer is not None:
        other = _other_tokenizer(tokenizer, pipeline.text_encoder, revision=choice.revision)
        pipeline.register_modules(tokenizer=other)
    if "vae" in whole:
        _decode_any_dtype(pipeline.vae)
    return Parts(pipeline)


def _decode_any_dtype(vae: Any) -> None:
    """Let an autoencoder decode latents of another dtype than its own, in which pipelines hand them
    to it as they are."""

    def cast(module: torch.nn.Module, given: tuple) -> tuple:
        return (given[0].to(next(module.parameters()).dtype), *given[1:])

    for module in (vae.post_quant_conv, vae.decoder):
        if module is not None:
            module.register_forward_pre_hook(cast)


def _other_tokenizer(
    source: str, text_encoder: Any, *, revision: str | None
) -> PreTrainedTokenizerBase:
    """The tokenizer of --tokenizer_name; UsageError if the text encoder has too few embeddings."""
    tokenizer = loading.load_tokenizer("--tokenizer_name", source, subfolder="", revision=revision)
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


def from_scratch(denoiser: Any, seed: int) -> Any:
    """A denoiser of the same architecture with new random weights, determined by the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seeding.derive_seed(seed, "unet"))
        return type(denoiser).from_config(denoiser.config)
