"""The differences between pipelines: Stable Diffusion 1, 2 and XL (U-Nets), 3 and Flux
(transformers, flow matching); DDPMs, which read no text."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from utils.models import pipeline_files, single_files
from utils.models.pipeline_files import NO_CHOICE, FileChoice
from utils.models.scheduler_names import DENOISING, FLOW_MATCHING
from utils.runtime.errors import DataError, UsageError

if TYPE_CHECKING:
    import torch

Device: TypeAlias = "str | torch.device"
# argument of the pipeline's call, such as "prompt_embeds" -> [B, ...]
Embeddings: TypeAlias = "dict[str, torch.Tensor]"
# entry of model_index.json: tokens of T5, or zeros without it, that a pipeline was trained with.
# diffusers ignores entries that begin with an underscore, and always reads the class's number.
TEXT_LENGTH = "_max_sequence_length"


@dataclass(frozen=True)
class Family:
    """What generation must know about a class of pipelines, to call it with edited embeddings.

    An example, of a pipeline with one text encoder and a U-Net, as Stable Diffusion 1:

        def encode(pipeline, prompts, device):
            tokens, _ = pipeline.encode_prompt(prompts, device, 1, False)
            return {"prompt_embeds": tokens}

        def encode_negative(pipeline, prompt, device):
            negative = None if prompt is None else [prompt]
            _, tokens = pipeline.encode_prompt([""], device, 1, True, negative_prompt=negative)
            return {"prompt_embeds": tokens}

        FAMILIES["NewPipeline"] = Family(
            denoiser="unet",
            joined=True,
            encode=encode,
            encode_negative=encode_negative,
            longest=lambda pipeline: (pipeline.tokenizer, 77),
            schedulers=DENOISING,
            multiple=lambda configs: configs.factor,
            guide=lambda denoiser, scale, negative: ({"guidance_scale": scale}, scale > 1),
        )
    """

    # attribute of the network that predicts, which is also its subfolder
    denoiser: str
    # True: both branches pass through the denoiser in one call, the unconditional one first;
    # False: in two calls, the conditional one first
    joined: bool
    # (pipeline, prompts, device) -> embeddings of the conditional branch, [B, ...]; with
    # text_length also max_sequence_length=
    encode: Callable[..., Embeddings]
    # (pipeline, negative prompt, device) -> embeddings of the unconditional branch, [1, ...];
    # None stands for what the pipeline itself uses when none is given. With text_length also
    # max_sequence_length=
    encode_negative: Callable[..., Embeddings]
    # (pipeline) -> (tokenizer, number of tokens of a prompt that reach the denoiser); with
    # text_length also max_sequence_length=
    longest: Callable[..., tuple[Any, int]]
    # names of the schedulers that it accepts, without the word Scheduler
    schedulers: tuple[str, ...]
    # (configurations) -> number that must divide a side in pixels
    multiple: Callable[[pipeline_files.Configs], int]
    # (the denoiser's configuration, guidance scale, negative prompt) -> (arguments of the
    # pipeline's call, whether it runs an unconditional branch)
    guide: Callable[[dict, float, str | None], tuple[dict, bool]]
    # whether it matches flows, so that the first timestep depends on the size of the image
    flow: bool = False
    # tokens of T5 that the pipeline reads unless --max_sequence_length is given; None: no T5, and
    # the tokenizer's own length
    text_length: int | None = None
    # steps_offset that the pipeline writes into its scheduler's configuration; None leaves that
    steps_offset: int | None = None
    # whether it reads prompts and has an autoencoder; without it is sampled by models.ddpm
    text: bool = True
    # scheduler of a model without one in the options, where it is not the pipeline's own
    default_scheduler: str | None = None
    # steps and guidance scale if the options name none; None: those of the pipeline's call
    default_sampling: tuple[int, float] | None = None
    # scheduler -> settings that it gets where it takes the place of the pipeline's own
    scheduler_settings: Mapping[str, dict] = field(default_factory=dict)
    # flags that give the pipeline an unconditional branch, for errors
    unconditional_flags: str = "--guidance_scale above 1"
    # the same, of a base model by name, which is rendered at its own size
    native_scheduler: str | None = None

    def scheduler_of(self, *, native: bool) -> str | None:
        """The scheduler if the options name none; None is the pipeline's own. native: whether a
        base model is rendered at its own size."""
        return self.default_scheduler or (self.native_scheduler if native else None)

    def own_text_length(self, config: Mapping[str, Any]) -> int | None:
        """Tokens of T5 that a pipeline reads unless --max_sequence_length is given: what its folder
        records (TEXT_LENGTH), else the class's number.

        config: model_index.json, or the configuration of the loaded pipeline. DataError for a
        record that is no count."""
        recorded = config.get(TEXT_LENGTH)
        if self.text_length is None or recorded is None:
            return self.text_length
        if type(recorded) is not int or recorded < 1:
            raise DataError(
                f"model_index.json has {TEXT_LENGTH} {recorded!r}; use a whole number from 1 on"
            )
        return recorded

    def text_arguments(self, pipeline: Any, length: int | None) -> dict[str, int]:
        """Arguments of `encode`, `encode_negative` and `longest` for a number of tokens; None is
        the pipeline's own."""
        own = self.own_text_length(pipeline.config)
        if own is None:
            return {}
        return {"max_sequence_length": own if length is None else length}


def _sd_encode(pipeline: Any, prompts: list[str], device: Device) -> Embeddings:
    own, _ = pipeline.encode_prompt(prompts, device, 1, False)
    return {"prompt_embeds": own}


def _sd_negative(pipeline: Any, prompt: str | None, device: Device) -> Embeddings:
    _, negative = pipeline.encode_prompt(
        [""], device, 1, True, negative_prompt=None if prompt is None else [prompt]
    )
    return {"prompt_embeds": negative}


# encode_prompt of XL and 3 returns (tokens, negative tokens, pooled, negative pooled). The negative
# side is requested as such, not as an empty prompt: XL uses zeros when no negative prompt is given
# and its configuration says so.
def _paired_encode(pipeline: Any, prompts: list[str], device: Device, **others: Any) -> Embeddings:
    tokens, _, pooled, _ = pipeline.encode_prompt(
        prompt=prompts,
        prompt_2=None,
        device=device,
        num_images_per_prompt=1,
        do_classifier_free_guidance=False,
        **others,
    )
    return {"prompt_embeds": tokens, "pooled_prompt_embeds": pooled}


def _paired_negative(
    pipeline: Any, prompt: str | None, device: Device, **others: Any
) -> Embeddings:
    _, tokens, _, pooled = pipeline.encode_prompt(
        prompt=[""],
        prompt_2=None,
        device=device,
        num_images_per_prompt=1,
        do_classifier_free_guidance=True,
        negative_prompt=None if prompt is None else [prompt],
        **others,
    )
    return {"prompt_embeds": tokens, "pooled_prompt_embeds": pooled}


def _sd3_encode(
    pipeline: Any, prompts: list[str], device: Device, *, max_sequence_length: int
) -> Embeddings:
    return _paired_encode(
        pipeline, prompts, device, prompt_3=None, max_sequence_length=max_sequence_length
    )


def _sd3_negative(
    pipeline: Any, prompt: str | None, device: Device, *, max_sequence_length: int
) -> Embeddings:
    return _paired_negative(
        pipeline, prompt, device, prompt_3=None, max_sequence_length=max_sequence_length
    )


def _flux_encode(
    pipeline: Any, prompts: list[str], device: Device, *, max_sequence_length: int
) -> Embeddings:
    tokens, pooled, _ = pipeline.encode_prompt(
        prompt=prompts,
        prompt_2=None,
        device=device,
        num_images_per_prompt=1,
        max_sequence_length=max_sequence_length,
    )
    return {"prompt_embeds": tokens, "pooled_prompt_embeds": pooled}


def _flux_negative(
    pipeline: Any, prompt: str | None, device: Device, *, max_sequence_length: int
) -> Embeddings:
    # called only when a negative prompt is given: Flux has no unconditional branch otherwise
    assert prompt is not None
    return _flux_encode(pipeline, [prompt], device, max_sequence_length=max_sequence_length)


def _clip_length(pipeline: Any) -> tuple[Any, int]:
    tokenizer = tokenizer_of(pipeline)
    return tokenizer, tokenizer.model_max_length


def _sd3_length(pipeline: Any, *, max_sequence_length: int) -> tuple[Any, int]:
    # without T5, which may be removed to save memory, only CLIP's 77 tokens reach the network
    if pipeline.tokenizer_3 is None:
        return _clip_length(pipeline)
    return pipeline.tokenizer_3, max_sequence_length


def _flux_length(pipeline: Any, *, max_sequence_length: int) -> tuple[Any, int]:
    return pipeline.tokenizer_2, max_sequence_length


def _no_text(*_: Any) -> Any:
    raise TypeError("this pipeline reads no text")


def _guide(denoiser: dict, scale: float, negative_prompt: str | None) -> tuple[dict, bool]:
    # a network distilled for few steps takes the scale as an input and has no unconditional branch
    return {"guidance_scale": scale}, scale > 1 and denoiser.get("time_cond_proj_dim") is None


def _guide_flux(denoiser: dict, scale: float, negative_prompt: str | None) -> tuple[dict, bool]:
    """The scale is an input of the network, unless a negative prompt asks for an unconditional
    branch. Then the network's own guidance is 1, and the scale is that of classifier-free guidance
    as in the other families."""
    if negative_prompt is not None:
        return {"true_cfg_scale": scale, "guidance_scale": 1.0}, scale > 1
    return {"guidance_scale": scale}, False


_SD = Family(
    denoiser="unet",
    joined=True,
    encode=_sd_encode,
    encode_negative=_sd_negative,
    longest=_clip_length,
    schedulers=DENOISING,
    multiple=lambda configs: math.lcm(8, configs.factor),
    guide=_guide,
    default_sampling=(50, 7.5),  # as published, and the scheduler too
    native_scheduler="DPMSolverMultistep",
)
_DDPM = Family(
    denoiser="unet",
    joined=True,
    encode=_no_text,
    encode_negative=_no_text,
    longest=_no_text,
    schedulers=DENOISING,
    multiple=lambda configs: 2 ** (len(configs.denoiser["block_out_channels"]) - 1),
    guide=lambda denoiser, scale, negative: ({}, False),
    text=False,
    # 50 steps of DDIM, in the sequence of timesteps in which DDPMs' memorization was measured
    default_scheduler="DDIM",
    default_sampling=(50, 1.0),
    scheduler_settings={
        "DDIM": {"timestep_spacing": "leading", "steps_offset": 1, "set_alpha_to_one": False}
    },
    unconditional_flags="--guidance_scale above 1 and a model that was trained with"
    " --class_dropout",
)
FAMILIES = {
    "StableDiffusionPipeline": replace(_SD, steps_offset=1),
    "StableDiffusionXLPipeline": replace(
        _SD, encode=_paired_encode, encode_negative=_paired_negative
    ),
    "StableDiffusion3Pipeline": Family(
        denoiser="transformer",
        joined=True,
        encode=_sd3_encode,
        encode_negative=_sd3_negative,
        longest=_sd3_length,
        schedulers=FLOW_MATCHING,
        multiple=lambda configs: configs.factor * configs.patch,
        guide=_guide,
        flow=True,
        text_length=256,
    ),
    "FluxPipeline": Family(
        denoiser="transformer",
        joined=False,
        encode=_flux_encode,
        encode_negative=_flux_negative,
        longest=_flux_length,
        schedulers=FLOW_MATCHING,
        multiple=lambda configs: configs.factor * 2,
        guide=_guide_flux,
        flow=True,
        text_length=512,
        unconditional_flags="--guidance_scale above 1 and --negative_prompt, which may be empty",
    ),
    "DDPMPipeline": _DDPM,
    "DDIMPipeline": _DDPM,
}


def read(
    flag: str,
    source: str,
    *,
    choice: FileChoice = NO_CHOICE,
    takes: tuple[str, ...] = tuple(FAMILIES),
) -> tuple[str, pipeline_files.Configs]:
    """Read the class and the configuration of a pipeline without its weights; UsageError for a
    class that is not in `takes`.

    flag: the option that named the source, for errors.
    source: a folder, a hub name, or one file of weights.
    choice: which files are read.
    Returns: (name of the class, pipeline_files.Configs).
    """
    place = single_files.configuration_of(flag, source, choice.config)
    index = _index_of(place, choice.revision)
    name = index.get("_class_name")
    if name not in takes:
        raise UsageError(f"{flag}={str(source)!r} is a {name}; use one of: {', '.join(takes)}")
    configs = pipeline_files.read_configs(
        place.flag,
        place.source,
        index,
        denoiser=FAMILIES[name].denoiser,
        autoencoder=FAMILIES[name].text,
        revision=choice.revision,
    )
    if Path(source).is_dir():
        pipeline_files.require_weights(flag, source, index, choice)
    if choice.unet is None:
        return name, configs
    denoiser = pipeline_files.denoiser_of(choice.unet, configs.denoiser)
    return name, replace(configs, denoiser=denoiser)


def _index_of(place: single_files.Configuration, revision: str | None) -> dict:
    try:
        return pipeline_files.read_index(place.flag, place.source, revision=revision)
    except UsageError:
        if place.file is None:
            raise
        raise place.unreachable() from None


def multiple_of_sides(name: str, configs: pipeline_files.Configs) -> int:
    """The number of pixels that must divide a side of an image, for a pipeline of class `name`."""
    return FAMILIES[name].multiple(configs)


def require_resolution(source: str, name: str, configs: pipeline_files.Configs, side: int) -> None:
    """Raise UsageError unless a pipeline of class `name` generates images with a side of `side`
    pixels."""
    require_sides(f"--resolution={side}", source, name, configs, [side])


def require_sides(
    given: str, source: str, name: str, configs: pipeline_files.Configs, sides: Iterable[int]
) -> None:
    """Raise UsageError unless a pipeline of class `name` takes images with these sides, in pixels.
    given: the flag with its value, for the error."""
    multiple = multiple_of_sides(name, configs)
    positions = configs.denoiser.get("pos_embed_max_size")
    largest = positions * configs.factor * configs.patch if positions else None
    if any(side % multiple or (largest and side > largest) for side in sides):
        limit = f" up to {largest}" if largest else ""
        raise UsageError(
            f"{given} is not accepted; use a multiple of {multiple}{limit} with {source!r}"
        )


def family_of(pipeline: Any) -> Family:
    """The Family of a loaded pipeline."""
    return FAMILIES[type(pipeline).__name__]


def require_text_length(source: str, name: str, length: int | None) -> None:
    """Raise UsageError for a --max_sequence_length, unless a pipeline of class `name` has T5."""
    if length is not None and FAMILIES[name].text_length is None:
        raise UsageError(
            f"--max_sequence_length={length} is the number of tokens of T5, and {source!r} is a"
            f" {name}, which has none; leave the flag out"
        )


def tokenizer_of(pipeline: Any) -> Any:
    """The CLIP tokenizer of a pipeline; SDXL may have only its second one."""
    return pipeline.tokenizer or pipeline.tokenizer_2


def default_sampling(name: str) -> tuple[int, float]:
    """Default steps and guidance scale of a class."""
    published = FAMILIES[name].default_sampling
    if published is not None:
        return published
    import diffusers

    own = inspect.signature(getattr(diffusers, name).__call__).parameters
    return own["num_inference_steps"].default, own["guidance_scale"].default


def require_guidance(
    name: str,
    denoiser: dict,
    scale: float,
    negative_prompt: str | None,
    *,
    scale_given: bool,
) -> bool:
    """Whether a pipeline of class `name` runs an unconditional branch; UsageError for an option
    that would have no effect.

    denoiser: the denoiser's configuration.
    scale_given: whether --guidance_scale was given, so that `scale` is not a default.
    """
    _, guided = FAMILIES[name].guide(denoiser, scale, negative_prompt)
    if negative_prompt is not None and not guided:
        raise UsageError(
            f"--negative_prompt={negative_prompt!r} has no effect with --guidance_scale={scale:g}:"
            " guidance is off; use a scale above 1 and a network that is not distilled"
        )
    if (
        scale_given
        and not guided
        and not FAMILIES[name].joined
        and not denoiser.get("guidance_embeds", False)
    ):
        raise UsageError(
            f"--guidance_scale={scale:g} has no effect: this network takes no scale; with"
            " --negative_prompt, which may be empty, it is the scale of classifier-free guidance"
        )
    return guided
