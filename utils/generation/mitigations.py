"""The one list of mitigations: flags' values in, hooks out. A training loop or a generation calls
hooks, never names."""

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass

import torch

from utils.data.caption_edits import PROMPT_EDITS
from utils.generation import guidance
from utils.models import embedding_edits
from utils.runtime.errors import UsageError

# At inference -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Mitigation:
    """One inference-time mitigation; a hook that it does not need stays None.

    name: its part of a folder's name; flag: what turned it on, for errors.
    edit_prompt: (prompt, numpy rng of the prompt, RandomTokens) -> prompt.
    edit_embedding: (token embeddings of one image and branch [T, D], torch generator of both) ->
    [T, D]. Pooled embeddings are not offered. steer: (guidance scale) -> a hook of `steering`, made
    anew for each batch; its `report()`, if it has one, gives a dict an image, kept in the manifest.
    unconditional: whether it needs that branch. first_order: whether it needs a scheduler that
    evaluates the network once a step."""

    name: str
    flag: str
    edit_prompt: Callable | None = None
    edit_embedding: Callable | None = None
    steer: Callable | None = None
    unconditional: bool = False
    first_order: bool = False


def embedding_noise(*, rand_noise_lam):
    """GNI: Gaussian noise of standard deviation lambda on the embeddings of both branches, drawn
    independently."""
    if not rand_noise_lam:
        return None
    edit = functools.partial(embedding_edits.drawn_noise, strength=rand_noise_lam)
    return Mitigation(f"ginfer{rand_noise_lam:g}", "--rand_noise_lam", edit_embedding=edit)


def prompt_edit(*, rand_augs, rand_aug_repeats):
    """RT, CWR and RNA: words inserted into the prompt."""
    if rand_augs is None:
        return None
    edit = functools.partial(PROMPT_EDITS[rand_augs], times=rand_aug_repeats)
    return Mitigation(f"auginfer_{rand_augs}_{rand_aug_repeats}", "--rand_augs", edit_prompt=edit)


def guidance_transition(*, cfg_start, cfg_before):
    """Another guidance scale before a transition point, given or found for each image."""
    if cfg_start is None:
        return None
    if cfg_start == "auto":

        def steer(scale):
            return guidance.DynamicTransition(scale=scale, before=cfg_before)

    else:

        def steer(scale):
            return guidance.StaticTransition(start=cfg_start, before=cfg_before)

    start = cfg_start if cfg_start == "auto" else f"{cfg_start:g}"
    return Mitigation(
        f"cfgstart_{start}_{cfg_before:g}",
        "--cfg_start",
        steer=steer,
        unconditional=True,
        first_order=cfg_start == "auto",
    )


# The parameters of each are the flags that it reads. A new one is a function like these, a line
# here and a test (and its flags' declaration in `options`): its name in folders and its place in
# the settings follow from it.
MITIGATIONS = (embedding_noise, prompt_edit, guidance_transition)


def _arguments(build, values):
    return {name: values[name] for name in inspect.signature(build).parameters}


def chosen(values):
    """The mitigations that options turn on. values: {flag: value}. Returns: tuple of Mitigation."""
    return tuple(filter(None, (build(**_arguments(build, values)) for build in MITIGATIONS)))


def settings(values):
    """The flags of all mitigations, for records; None where one is off."""
    return {
        name: value if build(**_arguments(build, values)) else None
        for build in MITIGATIONS
        for name, value in _arguments(build, values).items()
    }


def without():
    """Values of all mitigations' flags that turn every one off."""
    return dict.fromkeys(
        name for build in MITIGATIONS for name in inspect.signature(build).parameters
    )


@dataclass(frozen=True)
class SampleHooks:
    """What a generation calls: the hooks of several mitigations, one after the other. tokens:
    RandomTokens for prompts."""

    mitigations: tuple = ()
    tokens: object = None

    def edit_prompt(self, prompt, rng):
        """The prompt with every edit."""
        for each in self.mitigations:
            prompt = each.edit_prompt(prompt, rng, self.tokens) if each.edit_prompt else prompt
        return prompt

    def edit_embeddings(self, embeddings, generators):
        """[B, T, D] with every edit, each image with its own generator. Returns: [B, T, D]."""
        for each in self.mitigations:
            if each.edit_embedding:
                edited = (
                    each.edit_embedding(e, g) for e, g in zip(embeddings, generators, strict=True)
                )
                embeddings = torch.stack(list(edited))
        return embeddings

    def steering(self, scale):
        """The hooks at the denoiser's output for one batch, as one, or None."""
        hooks = [each.steer(scale) for each in self.mitigations if each.steer]
        return Chain(hooks) if hooks else None


def require(mitigations, *, guided, tokenizer, order=1):
    """UsageError when the pipeline lacks what a mitigation needs. guided: has that branch;
    tokenizer: has one; order: of its scheduler, evaluations of the network a step."""
    for each in mitigations:
        if each.unconditional and not guided:
            raise UsageError(
                f"{each.flag} needs an unconditional branch, and this pipeline runs without: takes"
                " --guidance_scale above 1, and for Flux --negative_prompt, which may be empty"
            )
        if each.first_order and order > 1:
            raise UsageError(
                f"{each.flag}='auto' compares steps, and this scheduler evaluates the network"
                f" {order} times in each; takes a number, or another --scheduler"
            )
        if each.edit_prompt and not tokenizer:
            raise UsageError(
                f"{each.flag} needs a tokenizer, which this pipeline does not have; takes another"
                " pipeline"
            )


class Chain:
    """Several hooks of `steering` as one."""

    def __init__(self, hooks):
        self.hooks = hooks

    def __call__(self, prediction):
        for hook in self.hooks:
            prediction = hook(prediction)
        return prediction

    def report(self, size):
        """What the hooks say of each of `size` images. Returns: [dict] * size."""
        notes = [{} for _ in range(size)]
        for hook in self.hooks:
            if hasattr(hook, "report"):
                notes = [one | more for one, more in zip(notes, hook.report(), strict=True)]
        return notes
