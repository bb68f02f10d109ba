"""Load diffusers pipelines and tokenizers.

Every loader names a dtype, and every error says what to pass instead."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from utils.models import families, networks, pipeline_files, single_files
from utils.models.networks import Say
from utils.models.pipeline_files import NO_CHOICE, FileChoice
from utils.models.single_files import Configuration
from utils.runtime.errors import DataError, UsageError

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline
    from transformers import CLIPTokenizer

    from utils.files.weight_files import WeightFiles


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
    whole: Collection[str] = (),
    choice: FileChoice = NO_CHOICE,
    say: Say = lambda line: None,
) -> DiffusionPipeline:
    """Load a pipeline of the class that its model_index.json names, onto the CPU.

    The safety checker is not loaded, because an image that it blackens would count as not copied.

    flag: the option that named the source, for errors (UsageError; DataError for weights that do
    not fit or are not finite).
    source: a folder, a hub name, or one file of weights.
    whole: names of parts that are float32 whatever the dtype.
    say: prints a line about files that are not read as they are.
    """
    _one_bar_only()
    name, configs = families.read(flag, str(source), choice=choice)
    place = single_files.configuration_of(flag, str(source), choice.config)
    wanted = _Request(
        flag, str(source), place, name, configs.index, choice, dtype, frozenset(whole), say
    )
    without = {"safety_checker": None, "requires_safety_checker": False}
    # a part that its owner removed, such as SD 3's T5, is null in model_index.json
    unused: dict[str, Any] = dict.fromkeys(k for k, e in configs.index.items() if e == [None, None])
    unused |= {key: off for key, off in without.items() if key in configs.index}
    load = _from_one_file if Path(source).is_file() else _from_folder
    try:
        pipeline = load(wanted, unused)
    except pipeline_files.loading_errors() as error:
        raise pipeline_files.unreachable(flag, source, error) from None
    _require_vocabulary(flag, source, pipeline)
    keep_text_length(configs.index, pipeline)
    return plain(pipeline)


def keep_text_length(config: Mapping[str, Any], pipeline: DiffusionPipeline) -> None:
    """Let a pipeline know, and write where it is saved, what another configuration of it records
    of its text (families.TEXT_LENGTH), which diffusers drops."""
    if families.TEXT_LENGTH in config:
        recorded = {families.TEXT_LENGTH: config[families.TEXT_LENGTH]}
        pipeline.register_to_config(**recorded)


def plain(pipeline: DiffusionPipeline) -> DiffusionPipeline:
    """The pipeline, without a progress bar of its own and without a watermark."""
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
    whole: frozenset[str]  # parts that are float32 whatever the dtype
    say: Say

    def dtype_of(self, part: str) -> torch.dtype:
        """The dtype of a part of the pipeline."""
        return torch.float32 if part in self.whole else self.dtype


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
            classes[part],
            _place_of(folder, part),
            each,
            dtype=wanted.dtype_of(part),
            say=wanted.say,
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
                    cls,
                    place.source,
                    state,
                    dtype=wanted.dtype_of(part),
                    file=wanted.source,
                    part=part,
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
