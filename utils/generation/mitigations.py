"""The registry of inference-time mitigations: values of flags go in, hooks come out. A generation
calls the hooks and knows no mitigation by name."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from utils.data.caption_edits import PROMPT_EDITS, RandomTokens
from utils.generation import guidance
from utils.generation.denoiser_hook import Chain, Hook
from utils.generation.detectors import Detection, Detector
from utils.models import embedding_edits
from utils.runtime import flag_values
from utils.runtime.errors import UsageError


@dataclass(frozen=True)
class Mitigation:
    """A mitigation with the values of its flags. A hook that it does not use stays None."""

    # its part of a folder's name
    name: str
    # the flag that turned it on, for errors
    flag: str
    # (prompt, numpy generator of the prompt, RandomTokens) -> edited prompt
    edit_prompt: Callable[[str, np.random.Generator, Any], str] | None = None
    # (token embeddings of one image and branch [T, D], torch generator of that image and branch) ->
    # [T, D]; pooled embeddings stay as they are
    edit_embedding: Callable[[torch.Tensor, torch.Generator], torch.Tensor] | None = None
    # (guidance scale) -> a hook of denoiser_hook; called for each batch
    steer: Callable[[float], Hook] | None = None
    # whether it needs the unconditional branch
    unconditional: bool = False
    # whether it needs a scheduler that evaluates the denoiser once per step
    first_order: bool = False
    # (first timestep of the scheduler) -> None; raises UsageError if it does not fit the flags
    check: Callable[[float], None] | None = None
    # (whether the pipeline runs an unconditional branch) -> a line to print before the
    # generation, or None
    note: Callable[[bool], str | None] | None = None
    # (manifest rows of a finished generation) -> a line to print, or None
    summary: Callable[[list[dict]], str | None] | None = None


def embedding_noise(*, rand_noise_lam: float) -> Mitigation | None:
    """GNI: Gaussian noise of standard deviation lambda on the embeddings, drawn for each of the two
    branches."""
    if not rand_noise_lam:
        return None
    edit = functools.partial(embedding_edits.drawn_noise, strength=rand_noise_lam)
    return Mitigation(
        f"ginfer{rand_noise_lam:g}",
        "--rand_noise_lam",
        edit_embedding=edit,
        note=_noise_on_one_branch,
    )


def _noise_on_one_branch(guided: bool) -> str | None:
    if guided:
        return None
    return (
        "this pipeline runs without an unconditional branch: --rand_noise_lam adds noise to the"
        " conditional one only"
    )


def prompt_edit(*, rand_augs: str | None, rand_aug_repeats: int) -> Mitigation | None:
    """RT, CWR and RNA: words inserted into the prompt."""
    if rand_augs is None:
        return None
    edit = functools.partial(PROMPT_EDITS[rand_augs], times=rand_aug_repeats)
    return Mitigation(f"auginfer_{rand_augs}_{rand_aug_repeats}", "--rand_augs", edit_prompt=edit)


def published_scale_before(cfg_start: float | str | None) -> float:
    """The guidance scale before a transition as published (Jain et al. 2025): 0, the unconditional
    prediction, before a timestep that is given; 1, the conditional one, before one that is
    detected, as the authors' code does it."""
    return 1.0 if isinstance(cfg_start, str) else 0.0


def guidance_transition(*, cfg_start: float | str | None, cfg_before: float) -> Mitigation | None:
    """Another guidance scale before a transition point, which is given or detected per image."""
    if cfg_start is None:
        return None
    if isinstance(cfg_start, str):
        return Mitigation(
            f"cfgstart_{cfg_start}_{cfg_before:g}",
            "--cfg_start",
            steer=lambda scale: guidance.DynamicTransition(scale=scale, before=cfg_before),
            unconditional=True,
            first_order=True,
            summary=guidance.count_unguided,
        )
    return Mitigation(
        f"cfgstart_{cfg_start:g}_{cfg_before:g}",
        "--cfg_start",
        steer=lambda scale: guidance.StaticTransition(start=cfg_start, before=cfg_before),
        unconditional=True,
        check=functools.partial(_require_start_below, cfg_start),
    )


def _require_start_below(start: float, first_timestep: float) -> None:
    if start >= first_timestep:
        raise UsageError(
            f"--cfg_start={start:g} is not below the first timestep; use auto, or a number from 0"
            f" to below {first_timestep:g}"
        )


# The parameters of each are the flags that it reads. To add a mitigation, write a function like
# these, a line here and a test, and declare a new flag in utils/cli/generation_options.py; the
# folder's name and the settings that are recorded follow from it.
MITIGATIONS: tuple[Callable[..., Mitigation | None], ...] = (
    embedding_noise,
    prompt_edit,
    guidance_transition,
)


@dataclass(frozen=True)
class Published:
    """A mitigation at a strength that was published."""

    name: str  # short, for a folder
    label: str  # in words
    flags: Mapping[str, Any]  # {flag of diff_inference.py: value}
    source: str  # where


def _words(edit: str) -> dict[str, Any]:
    """Flags of an edit of prompts at its published strength."""
    return {"rand_augs": edit, "rand_aug_repeats": 4}


_SOMEPALLI, _JAIN = "Somepalli et al. 2023", "Jain et al. 2025"
PUBLISHED: tuple[Published, ...] = (
    Published("noise", "noise on the embeddings", {"rand_noise_lam": 0.1}, _SOMEPALLI),
    Published("words", "random words inserted", _words("rand_word_add"), _SOMEPALLI),
    Published("repeats", "words repeated", _words("rand_word_repeat"), _SOMEPALLI),
    Published("numbers", "random numbers inserted", _words("rand_numb_add"), _SOMEPALLI),
    Published("late", "late guidance", {"cfg_start": 500.0}, f"{_JAIN}, for LAION-10k"),
    Published(
        "opposite",
        "opposite guidance, then guidance",
        {"cfg_start": 650.0, "cfg_before": -2.0},
        f"{_JAIN}, for LAION-10k",
    ),
    Published("dynamic", "guidance from a detected timestep", {"cfg_start": "auto"}, _JAIN),
)


def flag_names() -> tuple[str, ...]:
    """The flags that the mitigations read."""
    return flag_values.flag_names(MITIGATIONS)


def chosen(values: Mapping[str, Any]) -> tuple[Mitigation, ...]:
    """The mitigations that flags turn on. values: {flag: value}."""
    built = (build(**flag_values.arguments(build, values)) for build in MITIGATIONS)
    return tuple(mitigation for mitigation in built if mitigation is not None)


def settings(values: Mapping[str, Any]) -> dict[str, Any]:
    """The flags of all mitigations, for records; those of a mitigation that is off are None."""
    recorded: dict[str, Any] = {}
    for build in MITIGATIONS:
        given = flag_values.arguments(build, values)
        recorded |= given if build(**given) else dict.fromkeys(given)
    return recorded


def without() -> dict[str, None]:
    """Values of all mitigations' flags that turn every mitigation off."""
    return dict.fromkeys(flag_names())


def require(
    mitigations: Iterable[Mitigation],
    *,
    tokenizer: bool,
    order: int = 1,
    first_timestep: float = math.inf,
) -> None:
    """Raise UsageError if the pipeline lacks what a mitigation needs, or does not fit its flags.

    tokenizer: whether the pipeline has one.
    order: evaluations of the denoiser per step of its scheduler.
    first_timestep: at which its scheduler starts.
    """
    for each in mitigations:
        if each.first_order and order > 1:
            raise UsageError(
                f"{each.flag}='auto' compares steps, and this scheduler evaluates the network"
                f" {order} times in each; use a number, or another --scheduler"
            )
        if each.edit_prompt and not tokenizer:
            raise UsageError(
                f"{each.flag} needs a tokenizer, which this pipeline does not have; use another"
                " pipeline"
            )
        if each.check:
            each.check(first_timestep)


def notes(mitigations: Iterable[Mitigation], *, guided: bool) -> list[str]:
    """What mitigations report about a pipeline before the generation: lines to print.

    guided: whether it runs an unconditional branch.
    """
    lines = [each.note(guided) for each in mitigations if each.note]
    return [line for line in lines if line is not None]


def summaries(mitigations: Iterable[Mitigation], rows: list[dict]) -> list[str]:
    """What mitigations report about a finished generation: lines to print.

    rows: its manifest rows.
    """
    lines = [each.summary(rows) for each in mitigations if each.summary]
    return [line for line in lines if line is not None]


@dataclass(frozen=True)
class SampleHooks:
    """All that a generation calls: the hooks of its mitigations in order, and its detectors."""

    mitigations: Sequence[Mitigation] = ()
    # source of random words for the edits of prompts; None if no mitigation edits them
    tokens: RandomTokens | None = None
    # by name; they see the predictions before a mitigation changes them
    detectors: Mapping[str, Detector] = field(default_factory=dict)

    def edit_prompt(self, prompt: str, rng: np.random.Generator) -> str:
        """The prompt after every edit."""
        for each in self.mitigations:
            prompt = each.edit_prompt(prompt, rng, self.tokens) if each.edit_prompt else prompt
        return prompt

    def edit_embeddings(
        self, embeddings: torch.Tensor, generators: Sequence[torch.Generator]
    ) -> torch.Tensor:
        """The token embeddings of a batch and one branch after every edit: [B, T, D].

        generators: one per image.
        """
        for each in self.mitigations:
            if each.edit_embedding:
                edited = [
                    each.edit_embedding(e, g) for e, g in zip(embeddings, generators, strict=True)
                ]
                embeddings = torch.stack(edited)
        return embeddings

    def steering(self, scale: float) -> Chain | None:
        """The hooks at the denoiser for one batch, as one; None if there are none.

        scale: the guidance scale of the generation.
        """
        hooks: list[Hook] = [Detection(self.detectors)] if self.detectors else []
        hooks += [each.steer(scale) for each in self.mitigations if each.steer]
        return Chain(hooks) if hooks else None
