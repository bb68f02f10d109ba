"""STAGE: the options of a generation whose model reads no text (a DDPM): refuses those of prompts,
chooses the classes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from utils.cli import flags
from utils.generation.sampling import Prompt
from utils.models import ddpm
from utils.runtime.errors import UsageError

if TYPE_CHECKING:
    from utils.cli.generation_options import GenerationOptions
    from utils.generation.model_source import ModelSource
    from utils.models.pipeline_files import Configs

# fields of the options that have no effect without text
OF_TEXT = (
    "prompts",
    "prompt",
    "capstyle",
    "captoken",
    "im_batch",
    "instance_prompt_loc",
    "caption_column",
    "image_column",
    "negative_prompt",
    "max_sequence_length",
    "rand_noise_lam",
    "rand_augs",
    "lora",
    "config",
)


def require_fitting(opts: GenerationOptions, source: str, *, text: bool) -> None:
    """Raise UsageError for an option that has no effect on a model.

    text: whether it reads prompts."""
    if text:
        if opts.classes:
            raise UsageError(
                f"--classes={','.join(opts.classes)!r}: {source!r} reads prompts, not classes; give"
                " --prompt"
            )
        return
    if opts.has_own_prompts:
        raise UsageError(
            f"{opts.script} generates from prompts, and {source!r} reads no text; use"
            " diff_inference.py"
        )
    for name in flags.given(opts, OF_TEXT):
        raise UsageError(
            f"--{name}={getattr(opts, name)!r} does not fit {source!r}, a model that reads no text;"
            " give the number of images with -nb"
        )


def classes_of(
    opts: GenerationOptions, model: ModelSource, configs: Configs
) -> ddpm.Classes | None:
    """The classes of a model, None without any. UsageError for guidance without a null class."""
    classes = ddpm.read_classes(model.flag, model.source, configs.denoiser)
    if opts.guidance_scale is not None and (classes is None or classes.null is None):
        raise UsageError(
            f"--guidance_scale={opts.guidance_scale:g} has no effect: {model.source!r} has no null"
            " class; leave the flag out, or use a model that was trained with --class_dropout"
        )
    return classes


def images_of(opts: GenerationOptions, classes: ddpm.Classes | None, source: str) -> list[Prompt]:
    """What the model reads for each image: the classes in turn, or nothing."""
    labels = ddpm.choose_labels(classes, opts.classes, source)
    assert opts.nbatches is not None  # the options require -nb without prompts
    if labels is None:
        return [Prompt("", silent=True)] * opts.nbatches
    turns = (labels[i % len(labels)] for i in range(opts.nbatches))
    return [Prompt("", label=label, silent=True) for label in turns]
