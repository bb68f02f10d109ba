"""Load and save diffusers pipelines and their parts.

Every loader names a dtype, and every error says what to pass instead."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from utils.models import families, networks, pipeline_files, single_files
from utils.models.networks import Say
from utils.models.pipeline_files import NO_CHOICE, FileChoice
from utils.models.single_files import Configuration
from utils.runtime import devices, seeding
from utils.runtime.errors import DataError, UsageError

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

    from utils.files.weight_files import WeightFiles


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


def _local_folder(source: str | Path, choice: FileChoice, unused: dict[str, Any]) -> Path:
    """The folder of a pipeline; of one on the hub, in the hub's cache."""
    from diffusers import DiffusionPipeline

    if Path(source).is_dir():
        return Path(source)
    return Path(
        DiffusionPipeline.download(
            source, revision=choice.revision, variant=choice.variant, **unused
        )
    )


def _place_of(folder: Path, part: str) -> Path:
    # a pipeline on the hub may hold its only network's files beside model_index.json
    return folder / part if (folder / part).is_dir() else folder


def network_files(
    flag: str, folder: Path, index: Mapping[str, Any], variant: str | None
) -> dict[str, WeightFiles]:
    """{part: files of its weights} of a pipeline's networks, found by their names alone.

    flag: the option that named the folder; index: model_index.json. UsageError if a network has no
    weights, or none has weights of the variant; DataError if parts of them are missing."""
    given = f"{flag}={str(folder)!r}"
    files = {
        part: pipeline_files.weights_of(given, _place_of(folder, part), variant)
        for part in networks.network_classes(index)
    }
    if variant is not None and all(each.variant != variant for each in files.values()):
        raise UsageError(
            f"--variant={variant!r}: {str(folder)!r} holds no weights of this variant; leave the"
            " flag out"
        )
    return files


def load_pipeline(
    flag: str,
    source: str | Path,
    *,
    dtype: torch.dtype = torch.float32,
    choice: FileChoice = NO_CHOICE,
    say: Say = lambda line: None,
) -> DiffusionPipeline:
    """Load a pipeline of the class that its model_index.json names, onto the CPU.

    The safety checker is not loaded, because an image that it blackens would count as not copied.

    flag: the option that named the source, for errors (UsageError; DataError for weights that do
    not fit or are not finite).
    source: a folder, a hub name, or one file of weights.
    say: prints a line about files that are not read as they are.
    """
    _one_bar_only()
    name, configs = families.read(flag, str(source), choice=choice)
    place = single_files.configuration_of(flag, str(source), choice.config)
    wanted = _Request(flag, str(source), place, name, configs.index, choice, dtype, say)
    without = {"safety_checker": None, "requires_safety_checker": False}
    unused = {key: off for key, off in without.items() if key in configs.index}
    load = _from_one_file if Path(source).is_file() else _from_folder
    try:
        pipeline = load(wanted, unused)
    except pipeline_files.loading_errors() as error:
        raise pipeline_files.unreachable(flag, source, error) from None
    _require_vocabulary(flag, source, pipeline)
    pipeline.set_progress_bar_config(disable=True)
    if hasattr(pipeline, "watermark"):
        # SDXL writes a watermark into the pixels if a package for it is installed
        pipeline.watermark = None
    return pipeline


@dataclass(frozen=True)
class _Request:
    """A pipeline to load: what is known of it before its weights are read."""

    flag: str
    source: str
    place: Configuration
    class_name: str
    index: Mapping[str, Any]  # model_index.json
    choice: FileChoice
    dtype: torch.dtype
    say: Say


def _from_folder(wanted: _Request, unused: dict[str, Any]) -> DiffusionPipeline:
    from diffusers import DiffusionPipeline

    choice = wanted.choice
    folder = _local_folder(wanted.source, choice, unused)
    given = _given_network(wanted)
    index = {part: entry for part, entry in wanted.index.items() if part not in given}
    classes, files = (
        networks.network_classes(index),
        network_files(wanted.flag, folder, index, choice.variant),
    )
    for line in pipeline_files.lines_about(files, choice.variant):
        wanted.say(line)
    for part, each in files.items():
        given[part] = networks.load_network(
            classes[part], _place_of(folder, part), each, dtype=wanted.dtype, say=wanted.say
        )
    return DiffusionPipeline.from_pretrained(folder, dtype=wanted.dtype, **given, **unused)


def _given_network(wanted: _Request) -> dict[str, torch.nn.Module]:
    """{part: network} of --unet; {} without it."""
    if wanted.choice.unet is None:
        return {}
    place = pipeline_files.network_of_trainer(wanted.choice.unet)
    assert place is not None  # families.read has looked
    part = families.FAMILIES[wanted.class_name].denoiser
    files = pipeline_files.weights_of(
        f"--unet={wanted.choice.unet!r}", place, wanted.choice.variant
    )
    network = networks.load_network(
        networks.network_classes(wanted.index)[part],
        place,
        files,
        dtype=wanted.dtype,
        say=wanted.say,
    )
    return {part: network}


def _from_one_file(wanted: _Request, unused: dict[str, Any]) -> DiffusionPipeline:
    given = _given_network(wanted)
    classes, place = networks.network_classes(wanted.index), wanted.place
    with networks.silent():
        for part, cls in classes.items():
            state = None
            if part not in given:
                state = single_files.converted(wanted.source, place, part, cls)
            if state is not None:
                given[part] = networks.from_state(
                    cls, place.source, state, dtype=wanted.dtype, file=wanted.source, part=part
                )
        pipeline = single_files.load(
            wanted.source,
            wanted.place,
            wanted.class_name,
            dtype=wanted.dtype,
            **given,
            **unused,
        )
    for part in classes:
        networks.require_whole(wanted.source, part, getattr(pipeline, part))
    return pipeline


def _require_vocabulary(flag: str, source: str | Path, pipeline: DiffusionPipeline) -> None:
    """Raise DataError if a tokenizer has more ids than its text encoder has embeddings."""
    for number in ("", "_2", "_3"):
        tokenizer = getattr(pipeline, f"tokenizer{number}", None)
        encoder = getattr(pipeline, f"text_encoder{number}", None)
        if tokenizer is not None and encoder is not None:
            ids, known = len(tokenizer), encoder.config.vocab_size
            if ids > known:
                raise DataError(
                    f"{flag}={str(source)!r}: tokenizer{number} has {ids} ids, and"
                    f" text_encoder{number} embeddings for {known}; use both of one model"
                )


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
    choice: FileChoice = NO_CHOICE,
    tokenizer: str | None = None,
    say: Say = lambda line: None,
) -> DiffusionParts:
    """Load the parts of an SD 1.x or 2.x pipeline in float32, for training; UsageError for another
    class of pipeline or another kind of prediction.

    choice, say: as `load_pipeline`.
    tokenizer: a folder or hub name, instead of the pipeline's own tokenizer.
    """
    pipeline = load_pipeline(flag, source, choice=choice, say=say)
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
            else _other_tokenizer(tokenizer, pipeline.text_encoder, revision=choice.revision)
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
