"""The registry of extra losses of a training step: values of flags go in, `Regularisation` objects
come out. The trainer asks each for samples and knows none by name."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from utils.data import caption_edits
from utils.runtime import flag_values

CLASS_IMAGES = "class_images"  # the draws of class images, beside those of training images


@dataclass(frozen=True)
class Noised:
    """Noisy latents of a micro-batch of B samples, on the device."""

    noisy: torch.Tensor  # [B, C, h, w]
    time: torch.Tensor  # [B], of the process
    wanted: torch.Tensor  # [B, C, h, w], what the network has to predict of an image
    extras: dict[str, torch.Tensor]  # further inputs of the family, {name: [B, ...]}


@dataclass(frozen=True)
class Samples:
    """Samples of an extra loss: the squared error of each prediction, weighted by its time as that
    of a training image is, and averaged."""

    noised: Noised
    prompts: Sequence[str]  # B
    # whether what the base model predicts is wanted, instead of noised.wanted
    of_base: bool = False
    counted: Sequence[bool] | None = None  # B: which samples the mean is of; None: all


# (batch of draws beside the training images, stream of their random numbers) -> Noised
NoiseOf = Callable[[Mapping[str, Any], str], Noised]


class Regularisation(ABC):
    """An extra loss of every micro-batch, beside that of its training images."""

    flag: str  # that turned it on
    weight: float  # of the loss, above 0
    beside: str | None = None  # the draws that it needs beside the training images
    needs_base: bool = False  # whether it needs predictions of the base model

    @abstractmethod
    def prompts(self, captions: Iterable[str]) -> list[str]:
        """Every prompt that samples can have, where training images can have `captions`, so that
        embeddings can be computed once and kept."""

    @abstractmethod
    def samples(self, batch: Mapping[str, Any], own: Noised, noise_of: NoiseOf) -> Samples:
        """The samples of a micro-batch. batch: as training_data.loader gives it; own: its training
        images with their noise."""


class PriorPreservation(Regularisation):
    """Prior preservation (Ruiz et al. 2023, equation 4): the loss of class images with the prompt
    of the class. A micro-batch has as many of them as training images."""

    flag, beside = "--with_prior_preservation", CLASS_IMAGES

    def __init__(self, prompt: str, weight: float):
        """prompt: of all class images."""
        self.prompt, self.weight = prompt, weight

    def prompts(self, captions: Iterable[str]) -> list[str]:
        """The prompt of the class."""
        return [self.prompt]

    def samples(self, batch: Mapping[str, Any], own: Noised, noise_of: NoiseOf) -> Samples:
        """Class images, with random numbers of their own."""
        images = batch[CLASS_IMAGES]
        return Samples(noise_of(images, "class-draws"), images["prompt"])


class OutputPreservation(Regularisation):
    """Differential output preservation: for a caption c with the trigger word and its class caption
    c', the same with the word of the class, the loss |f(x_t, t, c') - f_base(x_t, t, c')|^2 on the
    noisy latent x_t of the training image; f_base is the model before training.

    Captions without the trigger word take no part: their class caption would be what is learnt."""

    flag, needs_base = "--trigger_class", True

    def __init__(self, word: str, other: str, weight: float):
        """word: the trigger word; other: the word of the class."""
        self.word, self.other, self.weight = word, other, weight

    def class_caption(self, caption: str) -> str:
        """The caption with the word of the class in the place of the trigger word."""
        return caption_edits.with_word(caption, self.word, self.other)

    def prompts(self, captions: Iterable[str]) -> list[str]:
        """The class caption of each caption."""
        return [self.class_caption(caption) for caption in captions]

    def samples(self, batch: Mapping[str, Any], own: Noised, noise_of: NoiseOf) -> Samples:
        """The training images with their class captions."""
        captions = batch["prompt"]
        return Samples(
            own,
            self.prompts(captions),
            of_base=True,
            counted=[caption_edits.has_word(caption, self.word) for caption in captions],
        )


# The registry -------------------------------------------------------------------------------------


def prior_preservation(
    *, with_prior_preservation: bool, class_data_prompt: str | None, prior_loss_weight: float
) -> Regularisation | None:
    """Prior preservation by class images."""
    if not with_prior_preservation or class_data_prompt is None:
        return None
    return PriorPreservation(class_data_prompt, prior_loss_weight)


def output_preservation(
    *, trigger_word: str | None, trigger_class: str | None, preservation_weight: float
) -> Regularisation | None:
    """Differential output preservation, which needs no pictures."""
    if trigger_word is None or trigger_class is None:
        return None
    return OutputPreservation(trigger_word, trigger_class, preservation_weight)


# The parameters of each function are the flags that it reads; it returns None when they turn it
# off. A new extra loss is a function like these, a line here and a test, and its flags in
# utils/cli/preservation_options.py.
REGULARISATIONS = (prior_preservation, output_preservation)


def flag_names() -> tuple[str, ...]:
    """Names of the flags that the extra losses read."""
    return flag_values.flag_names(REGULARISATIONS)


def chosen(values: Mapping[str, Any]) -> tuple[Regularisation, ...]:
    """The extra losses that flags turn on. values: flag (without dashes) -> value, of all of
    `flag_names()`."""
    built = (build(**flag_values.arguments(build, values)) for build in REGULARISATIONS)
    return tuple(each for each in built if each is not None)
