"""The registry of train-time mitigations: values of flags go in, hooks for the training loop come
out. The loop calls hooks and knows no mitigation by name."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from utils.data import caption_edits, duplication
from utils.data.encoder_window import Window
from utils.models import embedding_edits
from utils.runtime import flag_values
from utils.runtime.errors import UsageError
from utils.training.augmentation import NearThreshold
from utils.training.loss_control import AntiGradientControl, LossRule
from utils.training.step_random import StepRandom
from utils.training.steps.base import Text

# What a mitigation edits --------------------------------------------------------------------------


@dataclass(frozen=True)
class EmbeddingEdit:
    """An edit of the token embeddings of a micro-batch.

    apply: (embeddings [B, T, D], partners, drawn) -> [B, T, D], on the device; gradients flow
        through it to a text encoder that is trained. partners: embeddings [B, T, D] of other
        prompts of the batch, or None; drawn: the random value of this micro-batch, or None.
    stream: the stream of utils/runtime/seeding.STREAMS that the random value is drawn from; an
        edit that draws must name one.
    draw_sample: (torch generator of a sample, shape (T, D)) -> tensor. The random value is the
        stack of all samples, [B, ...].
    draw_step: (numpy generator of the step) -> number, one for the global batch; an edit has
        draw_sample or draw_step, not both (ValueError).
    partners: whether it needs the partners; they are a permutation of the global batch.
    pooled: whether it edits pooled embeddings [B, P] of the prompts too, where a model reads them.
    """

    apply: Callable[..., torch.Tensor]
    stream: str | None = None
    draw_sample: Callable[[torch.Generator, tuple[int, int]], torch.Tensor] | None = None
    draw_step: Callable[[np.random.Generator], float] | None = None
    partners: bool = False
    pooled: bool = False

    def __post_init__(self) -> None:
        if self.draw_sample is not None and self.draw_step is not None:
            raise ValueError("an EmbeddingEdit has draw_sample or draw_step, not both")
        draws = self.draw_sample is not None or self.draw_step is not None
        if draws != (self.stream is not None):
            raise ValueError("an EmbeddingEdit names a stream if it draws a value, else none")

    def draw(self, random: StepRandom, shape: tuple[int, int]) -> torch.Tensor | float | None:
        """The random value of a micro-batch, on the CPU. shape: (T, D) of an embedding."""
        if self.stream is None:
            return None
        if self.draw_sample is not None:
            generators = random.of_samples(self.stream)
            return torch.stack([self.draw_sample(each, shape) for each in generators])
        if self.draw_step is not None:
            return float(self.draw_step(random.of_step(self.stream)))
        return None


@dataclass(frozen=True)
class TrainMitigation:
    """One train-time mitigation; what it does not edit stays None.

    flag: the flag that turned it on, for errors.
    edit_caption: (own, captions, rng, RandomTokens) -> caption of a draw. It must be picklable: it
        runs in the processes that read images.
    prompts: (captions) -> the captions that edit_caption may return instead of `own`, so that their
        embeddings can be computed once and kept; None if it makes new text.
    embedding: the edit of token embeddings.
    loss_rule: (num_timesteps=, device=) -> LossRule, which decides what samples are trained on.
    augmentation: (images=, device=) -> NearThreshold, which decides how images are shown by what
        the loss rule knows of them.
    """

    flag: str
    edit_caption: Callable[..., str] | None = None
    prompts: Callable[[Sequence[str]], Sequence[str]] | None = None
    embedding: EmbeddingEdit | None = None
    loss_rule: Callable[..., LossRule] | None = None
    augmentation: Callable[..., NearThreshold] | None = None


# The mitigations ----------------------------------------------------------------------------------


def caption_edit(*, trainspecial: str | None, trainspecial_prob: float) -> TrainMitigation | None:
    """MC, RC, CWR and random word addition: another caption (Somepalli et al. 2023)."""
    if trainspecial is None:
        return None
    edit = caption_edits.TRAIN_EDITS[trainspecial]
    return TrainMitigation(
        "--trainspecial",
        edit_caption=functools.partial(edit.edit, p=trainspecial_prob),
        prompts=edit.prompts,
    )


def mixup(*, mixup_noise_lam: float) -> TrainMitigation | None:
    """Mixup: embeddings are mixed with those of a partner, with one ratio ~ Beta(a, 1) for each
    step."""
    if not mixup_noise_lam:
        return None
    edit = EmbeddingEdit(
        embedding_edits.mix,
        stream="mixup",
        draw_step=lambda rng: rng.beta(mixup_noise_lam, 1),
        partners=True,
        pooled=True,
    )
    return TrainMitigation("--mixup_noise_lam", embedding=edit)


def _drawn_normal(generator, shape):
    return torch.randn(shape, generator=generator)


def embedding_noise(*, rand_noise_lam: float) -> TrainMitigation | None:
    """GN: Gaussian noise of standard deviation lambda on the embeddings."""
    if not rand_noise_lam:
        return None

    def noisy(own, partners, noise):
        return embedding_edits.add_noise(own, noise, rand_noise_lam)

    return TrainMitigation(
        "--rand_noise_lam",
        embedding=EmbeddingEdit(noisy, stream="noise", draw_sample=_drawn_normal),
    )


def anti_gradient_control(
    *, mem_ratio: float | None, arr_ema_decay: float, agc_bias_correction: bool
) -> TrainMitigation | None:
    """AGC: samples whose loss is far below the usual loss at their timestep are dropped (Liu et al.
    2024)."""
    if not mem_ratio:
        return None
    rule = functools.partial(
        AntiGradientControl,
        ratio=mem_ratio,
        decay=arr_ema_decay,
        bias_correction=agc_bias_correction,
    )
    return TrainMitigation("--mem_ratio", loss_rule=rule)


def threshold_augmentation(
    *, agc_augment: float | None, arr_ema_decay: float
) -> TrainMitigation | None:
    """Images whose losses are near the threshold of anti-gradient control are shown cropped and
    mirrored (after an idea of Guan et al. 2025)."""
    if agc_augment is None:
        return None
    near = functools.partial(NearThreshold, reach=agc_augment, decay=arr_ema_decay)
    return TrainMitigation("--agc_augment", augmentation=near)


# The parameters of each function are the flags that it reads; it returns None when they turn it
# off. A new mitigation is a function like these, a line here and a test, and its flags in
# utils/cli/train_mitigation_options.py (a new caption edit of --trainspecial: a line in
# utils/data/caption_edits.py alone). Edits are applied, and draw their random numbers, in this
# order.
MITIGATIONS = (
    caption_edit,
    mixup,
    embedding_noise,
    anti_gradient_control,
    threshold_augmentation,
)


def flag_names() -> tuple[str, ...]:
    """Names of the flags that the mitigations read."""
    return flag_values.flag_names(MITIGATIONS)


def chosen(values: Mapping[str, Any]) -> tuple[TrainMitigation, ...]:
    """The mitigations that flags turn on; UsageError when two of them decide on losses.

    values: flag (without dashes) -> value, of all of `flag_names()`.
    """
    built = (build(**flag_values.arguments(build, values)) for build in MITIGATIONS)
    mitigations = tuple(each for each in built if each is not None)
    rules = [each.flag for each in mitigations if each.loss_rule is not None]
    if len(rules) > 1:
        raise UsageError(
            f"{' and '.join(rules)} both decide which samples are dropped; use one of them"
        )
    return mitigations


# Hooks --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TrainHooks:
    """What a training loop calls.

    choose_caption: (an image's captions, whether it is duplicated, rng) -> caption of a draw.
    prompts: (an image's captions) -> every prompt that a draw can have, so that their embeddings
        can be computed once and kept; None if choose_caption makes new text.
    dropout: share of the draws whose prompt is empty, in [0, 1).
    embedding_edits: applied one after the other.
    loss_rule: (num_timesteps=, device=) -> LossRule; None trains on every sample.
    augmentation: (images=, device=) -> NearThreshold; None shows images as they are drawn.
    """

    choose_caption: Callable[[list, bool, np.random.Generator], str]
    prompts: Callable[[Sequence[str]], Sequence[str]] | None
    dropout: float = 0.0
    embedding_edits: tuple[EmbeddingEdit, ...] = ()
    loss_rule: Callable[..., LossRule] | None = None
    augmentation: Callable[..., NearThreshold] | None = None

    @property
    def partners(self) -> bool:
        """Whether an edit needs the prompts of partners."""
        return any(edit.partners for edit in self.embedding_edits)

    def draw(self, random: StepRandom, shape: tuple[int, int]) -> tuple:
        """The random value of each embedding edit for a micro-batch, on the CPU."""
        return tuple(edit.draw(random, shape) for edit in self.embedding_edits)

    def edit_text(self, own: Text, partners: Text | None, drawn: Sequence) -> Text:
        """Apply every embedding edit. own, partners: what the network reads of the prompts; drawn:
        as `draw` gives them."""
        for edit, value in zip(self.embedding_edits, drawn, strict=True):
            edited = own if edit.pooled else {"tokens": own["tokens"]}
            own = own | {
                name: edit.apply(each, None if partners is None else partners[name], value)
                for name, each in edited.items()
            }
        return own


def _edited_caption(captions, duplicated, rng, *, choose, edits, tokens):
    caption = choose(captions, duplicated, rng)
    for edit in edits:
        caption = edit(caption, captions, rng, tokens)
    return caption


def _possible_prompts(captions, *, listings):
    return [prompt for listing in listings for prompt in listing(captions)]


def _empty_prompt(captions):
    return [""]


def _random_tokens(tokenizer: Any, window: Window | None) -> caption_edits.RandomTokens:
    own = window or Window(tokenizer, tokenizer.model_max_length)
    return caption_edits.RandomTokens(tokenizer, own)


def train_hooks(
    mitigations: Iterable[TrainMitigation],
    *,
    choice: duplication.CaptionChoice,
    tokenizer: Any,
    window: Window | None = None,
    dropout: float = 0.0,
) -> TrainHooks:
    """Hooks of several mitigations.

    choice: of --duplication, which caption they start from; tokenizer: of which edits draw random
    tokens, None of a model that reads no text; window: what the model reads of a caption, None is
    the tokenizer's length; dropout: --caption_dropout, the share of the draws whose prompt is
    empty."""
    mitigations = tuple(mitigations)
    captions = [each for each in mitigations if each.edit_caption is not None]
    choose = functools.partial(
        _edited_caption,
        choose=choice.choose,
        edits=[each.edit_caption for each in captions],
        tokens=None if tokenizer is None else _random_tokens(tokenizer, window),
    )
    listings = [choice.prompts, *(each.prompts for each in captions)]
    if dropout:
        listings.append(_empty_prompt)
    prompts = None
    if None not in listings:
        prompts = functools.partial(_possible_prompts, listings=listings)
    return TrainHooks(
        choose,
        prompts,
        dropout,
        tuple(each.embedding for each in mitigations if each.embedding is not None),
        next((each.loss_rule for each in mitigations if each.loss_rule is not None), None),
        next((each.augmentation for each in mitigations if each.augmentation is not None), None),
    )
