"""Where text-to-image pipelines differ: Stable Diffusion 1, 2 and XL (U-Nets), 3 and Flux
(transformers, flow matching)."""

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from utils.models import loading
from utils.runtime.errors import UsageError

# The noise of these comes from the image's own generator, and the pipelines' betas and prediction
# type fit them. Left out: those that draw from a Brownian tree or a generator of their own (an
# image would depend on its batch), those for other networks (EDM, unCLIP, consistency models), and
# those that run backwards.
DENOISING = (
    "DDIM",
    "DDPM",
    "DEISMultistep",
    "DPMSolverMultistep",
    "DPMSolverSinglestep",
    "EulerAncestralDiscrete",
    "EulerDiscrete",
    "HeunDiscrete",
    "KDPM2AncestralDiscrete",
    "KDPM2Discrete",
    "LCM",
    "LMSDiscrete",
    "PNDM",
    "SASolver",
    "TCD",
    "UniPCMultistep",
)
FLOW_MATCHING = ("FlowMatchEulerDiscrete",)


@dataclass(frozen=True)
class Family:
    """What is particular to a pipeline class.

    denoiser: attribute of the network that predicts. joined: both branches go through it in one
    call, the unconditional first; else in two, the conditional first. encode: (pipeline, prompts,
    device) -> {name in the pipeline's call: [B, ...]}, conditional. encode_negative: (pipeline,
    prompt or None, device) -> the same of one unconditional prompt, [1, ...]; None is what the
    pipeline itself takes when none is given. longest: (pipeline) -> (tokenizer, tokens of a prompt
    that reach the network). schedulers: names that it takes. multiple: (autoencoder's factor, patch
    size) -> what divides a side in pixels. guide: (the denoiser's configuration, scale, negative
    prompt or None) -> (arguments of the call, is there an unconditional branch)."""

    denoiser: str
    joined: bool
    encode: Callable
    encode_negative: Callable
    longest: Callable
    schedulers: tuple
    multiple: Callable
    guide: Callable
    # steps, guidance and scheduler of a base model are those of Stable Diffusion's papers
    stable_diffusion: bool = True


def _sd_encode(pipeline, prompts, device):
    own, _ = pipeline.encode_prompt(prompts, device, 1, False)
    return {"prompt_embeds": own}


def _sd_negative(pipeline, prompt, device):
    _, negative = pipeline.encode_prompt(
        [""], device, 1, True, negative_prompt=None if prompt is None else [prompt]
    )
    return {"prompt_embeds": negative}


# XL and 3 answer (tokens, negative tokens, pooled, negative pooled). The negative side is asked for
# as such: XL takes zeros, not the empty prompt's embedding, when none is given and its
# configuration says so.
def _paired_encode(pipeline, prompts, device, **others):
    tokens, _, pooled, _ = pipeline.encode_prompt(
        prompt=prompts,
        prompt_2=None,
        device=device,
        num_images_per_prompt=1,
        do_classifier_free_guidance=False,
        **others,
    )
    return {"prompt_embeds": tokens, "pooled_prompt_embeds": pooled}


def _paired_negative(pipeline, prompt, device, **others):
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


def _sd3_encode(pipeline, prompts, device):
    return _paired_encode(pipeline, prompts, device, prompt_3=None)


def _sd3_negative(pipeline, prompt, device):
    return _paired_negative(pipeline, prompt, device, prompt_3=None)


def _flux_encode(pipeline, prompts, device):
    tokens, pooled, _ = pipeline.encode_prompt(
        prompt=prompts, prompt_2=None, device=device, num_images_per_prompt=1
    )
    return {"prompt_embeds": tokens, "pooled_prompt_embeds": pooled}


def _flux_negative(pipeline, prompt, device):
    return _flux_encode(pipeline, [prompt], device)


def _clip_length(pipeline):
    own = tokenizer_of(pipeline)
    return own, own.model_max_length


def _sd3_length(pipeline):
    # without its T5, which may be left out to save memory, CLIP's 77 tokens are all that reaches
    # the network
    return _clip_length(pipeline) if pipeline.tokenizer_3 is None else (pipeline.tokenizer_3, 256)


def _flux_length(pipeline):
    return pipeline.tokenizer_2, 512


def _guide(denoiser, scale, negative_prompt):
    # a network distilled for few steps takes the scale as an input and has one branch
    return {"guidance_scale": scale}, scale > 1 and denoiser.get("time_cond_proj_dim") is None


def _guide_flux(denoiser, scale, negative_prompt):
    """The scale is an input of the network, unless a negative prompt asks for the unconditional
    branch; the network's own guidance is then 1, so that the scale means what it does elsewhere."""
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
    multiple=lambda factor, patch: math.lcm(8, factor),
    guide=_guide,
)
FAMILIES = {
    "StableDiffusionPipeline": _SD,
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
        multiple=lambda factor, patch: factor * patch,
        guide=_guide,
        stable_diffusion=False,
    ),
    "FluxPipeline": Family(
        denoiser="transformer",
        joined=False,
        encode=_flux_encode,
        encode_negative=_flux_negative,
        longest=_flux_length,
        schedulers=FLOW_MATCHING,
        multiple=lambda factor, patch: factor * 2,
        guide=_guide_flux,
        stable_diffusion=False,
    ),
}


TRAINED = ("StableDiffusionPipeline",)  # what diff_train.py takes


def read(flag, source, *, revision=None, takes=tuple(FAMILIES)):
    """Class name and models.Configs of a pipeline, without its weights; UsageError for a class that
    is not in `takes`."""
    index = loading.read_index(flag, source, revision=revision)
    name = index.get("_class_name")
    if name not in takes:
        raise UsageError(f"{flag}={str(source)!r} is a {name}; takes one of: {', '.join(takes)}")
    return name, loading.read_configs(
        flag, source, index, denoiser=FAMILIES[name].denoiser, revision=revision
    )


def require_resolution(source, name, configs, side):
    """UsageError unless a pipeline of class `name` takes images of `side` pixels."""
    multiple = FAMILIES[name].multiple(configs.factor, configs.patch)
    positions = configs.denoiser.get("pos_embed_max_size")
    largest = positions and positions * configs.factor * configs.patch
    if side % multiple or largest and side > largest:
        limit = f", up to {largest}" if largest else ""
        raise UsageError(
            f"--resolution={side} is not accepted; {source!r} takes multiples of {multiple}{limit}"
        )


def family_of(pipeline):
    """The Family of a loaded pipeline."""
    return FAMILIES[type(pipeline).__name__]


def tokenizer_of(pipeline):
    """The CLIP tokenizer of a pipeline; SDXL may have its second alone."""
    return pipeline.tokenizer or pipeline.tokenizer_2


def default_sampling(name):
    """Steps and guidance scale when none are given: 50 and 7.5 for Stable Diffusion 1, 2 and XL, as
    published; else the pipeline's own."""
    if FAMILIES[name].stable_diffusion:
        return 50, 7.5
    import diffusers

    own = inspect.signature(getattr(diffusers, name).__call__).parameters
    return own["num_inference_steps"].default, own["guidance_scale"].default


def require_guidance(name, denoiser, scale, negative_prompt, *, scale_given):
    """Whether a pipeline of class `name` runs with an unconditional branch; UsageError names an
    option without effect.

    denoiser: its configuration.
    """
    _, guided = FAMILIES[name].guide(denoiser, scale, negative_prompt)
    if negative_prompt is not None and not guided:
        raise UsageError(
            f"--negative_prompt={negative_prompt!r} has no effect with --guidance_scale={scale:g}:"
            " guidance is off; takes a scale above 1 and a network that is not distilled"
        )
    if (
        scale_given
        and not guided
        and not FAMILIES[name].joined
        and not denoiser.get("guidance_embeds", False)
    ):
        raise UsageError(
            f"--guidance_scale={scale:g} has no effect: this network takes no scale; with"
            " --negative_prompt, which may be empty, it is that of classifier-free guidance"
        )
    return guided
