"""STAGE: the model that a run starts from: one that exists, or a new DDPM; refuses flags that have
no effect on it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from utils.cli import flags
from utils.data import prompt_styles
from utils.data.duplication import DUPLICATIONS
from utils.models import ddpm, ddpm_networks, families, parts, pipeline_files, single_files
from utils.models.ddpm import Classes
from utils.models.parts import Parts
from utils.models.pipeline_files import FileChoice
from utils.runtime.errors import UsageError
from utils.training import steps

if TYPE_CHECKING:
    import torch

    from utils.cli.train_options import TrainOptions
    from utils.data.image_sets import ImageSet
    from utils.models.pipeline_files import Configs

FLAG = "--pretrained_model_name_or_path"
# fields of the options that have no effect on a model that reads no text
OF_TEXT = (
    "tokenizer_name",
    "train_text_encoder",
    "instance_prompt_loc",
    "instance_prompt",
    "caption_column",
    "image_column",
    "caption_template",
    "trainspecial",
    "trainspecial_prob",
    "rand_noise_lam",
    "mixup_noise_lam",
    "validation_prompt",
    "with_prior_preservation",
    "class_data_dir",
    "class_data_prompt",
    "trigger_word",
    "trigger_class",
    "max_sequence_length",
    "config",
)
# fields that choose among the files of a base model
OF_BASE = ("revision", "variant", "config", "unet", "unet_from_scratch")
STYLES = ("nolevel", "classlevel")  # of --class_prompt without text


def choice_of(opts: TrainOptions) -> FileChoice:
    """Which files of the base model are read."""
    return FileChoice(
        revision=opts.revision, variant=opts.variant, config=opts.config, unet=opts.unet
    )


def configs_of(opts: TrainOptions) -> tuple[str, str, Configs]:
    """What is known of the model before it is loaded: the name of its source, the class of its
    pipeline, its configurations. UsageError unless it can be trained with these options."""
    arch, source = opts.unconditional_arch, opts.pretrained_model_name_or_path
    if arch is not None:
        for name in flags.given(opts, OF_BASE):
            raise UsageError(
                f"--{name}={getattr(opts, name)!r} chooses among the files of a base model, and"
                f" --unconditional_arch={arch!r} starts without one; leave one of them out"
            )
        configs = ddpm_networks.configs_of(ddpm_networks.configuration(arch))
        source, name = arch, configs.index["_class_name"]
    else:
        choice = choice_of(opts)
        name, configs = families.read(FLAG, source, choice=choice, takes=tuple(steps.STEPS))
    if not families.FAMILIES[name].text:
        _require_no_text(opts, source)
    return source, name, configs


def encoder_configs(opts: TrainOptions, configs: Configs) -> dict[str, dict]:
    """{text encoder: its configuration} of the model, of those that can be read. configs: of it."""
    if opts.unconditional_arch is not None:
        return {}
    source, choice = opts.pretrained_model_name_or_path, choice_of(opts)
    place = single_files.configuration_of(FLAG, source, choice.config)
    return pipeline_files.encoder_configs(place.source, configs.index, revision=choice.revision)


def _require_no_text(opts: TrainOptions, source: str) -> None:
    known = [name for name in OF_TEXT if hasattr(opts, name)]
    for name in flags.given(opts, known):
        raise UsageError(
            f"--{name}={getattr(opts, name)!r} has no effect: {source!r} reads no text; leave the"
            " flag out"
        )
    if opts.lora_rank is not None:
        raise UsageError(
            f"--lora_rank={opts.lora_rank}: {source!r} is a DDPM, and adapters are trained of"
            " models that read text; leave the flag out"
        )
    if opts.class_prompt not in STYLES:
        raise UsageError(
            f"--class_prompt={opts.class_prompt!r} needs captions, and {source!r} reads no text;"
            f" use {' or '.join(STYLES)}"
        )
    if DUPLICATIONS[opts.duplication].varies:
        raise UsageError(
            f"--duplication={opts.duplication!r} draws among an image's captions, and {source!r}"
            " reads no text; use dup_both"
        )
    if opts.caption_dropout and opts.class_prompt != "classlevel":
        raise UsageError(
            f"--class_dropout={opts.caption_dropout:g} hides classes, and {source!r} is trained"
            " without; give --class_prompt classlevel"
        )


def load(
    opts: TrainOptions,
    images: ImageSet,
    *,
    dtype: torch.dtype,
    seed: int,
    say: Callable[[str], None],
) -> Parts:
    """The model, as it came. images: of the run, whose classes it learns."""
    if opts.unconditional_arch is not None:
        return _new(opts, images, seed)
    source, takes = opts.pretrained_model_name_or_path, tuple(steps.STEPS)
    name, _ = families.read(FLAG, source, choice=choice_of(opts), takes=takes)
    loaded = parts.load_parts(
        FLAG,
        source,
        takes=takes,
        dtype=dtype,
        whole=steps.STEPS[name].float32_parts(dtype),
        choice=choice_of(opts),
        tokenizer=opts.tokenizer_name,
        say=say,
    )
    steps.of(loaded).require_trainable(FLAG, source, loaded)
    if not families.family_of(loaded.pipeline).text:
        own = ddpm.read_classes(FLAG, source, loaded.denoiser.config)
        loaded.classes = _of_images(opts, own, images)
    return loaded


def _new(opts: TrainOptions, images: ImageSet, seed: int) -> Parts:
    assert opts.unconditional_arch is not None
    config, classes = ddpm_networks.configuration(opts.unconditional_arch), None
    if opts.class_prompt == "classlevel":
        names = tuple(prompt_styles.class_names(images))
        classes = Classes(names, null=len(names) if opts.caption_dropout else None)
    made = Parts(
        ddpm_networks.new_pipeline(
            config,
            side=opts.resolution,
            labels=None if classes is None else classes.count,
            seed=seed,
        )
    )
    made.classes = classes
    steps.of(made).require_trainable("--unconditional_arch", opts.unconditional_arch, made)
    return made


def _of_images(opts: TrainOptions, own: Classes | None, images: ImageSet) -> Classes | None:
    """The classes of a model by the names that the images give them; UsageError where they do not
    fit."""
    source, asked = opts.pretrained_model_name_or_path, opts.class_prompt == "classlevel"
    if asked != (own is not None):
        needed = "classlevel" if own is not None else "nolevel"
        raise UsageError(
            f"--class_prompt={opts.class_prompt!r}: {source!r} was made"
            f" {'with' if own is not None else 'without'} classes; use {needed}"
        )
    if own is None:
        return None
    if opts.caption_dropout and own.null is None:
        raise UsageError(
            f"--class_dropout={opts.caption_dropout:g}: {source!r} has no null class; leave the"
            " flag out, or start with --unconditional_arch"
        )
    names = tuple(prompt_styles.class_names(images))
    numbered = own.names == tuple(map(str, range(len(own.names))))
    if numbered and len(names) == len(own.names):
        return Classes(names, own.null)
    foreign = [name for name in names if name not in own.names]
    if foreign:
        raise UsageError(
            f"--instance_data_dir={opts.instance_data_dir!r}: its class {foreign[0]!r} is none of"
            f" the {len(own.names)} classes of {source!r}; use images of these classes"
        )
    return own
