"""The training step of a DDPM: no text and no autoencoder; a network with classes reads labels."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch

from utils.data import prompt_styles
from utils.models.ddpm import Classes
from utils.runtime.errors import UsageError
from utils.training.process.diffusion import PREDICTIONS, Diffusion
from utils.training.steps.base import Step, Text

if TYPE_CHECKING:
    from utils.models.parts import Parts
    from utils.training.process.base import ProcessSettings

LABELS = "labels"  # entry of Text: [B] int64


@functools.cache
def _labels(classes: Classes) -> dict[str, int]:
    """{prompt: label}; the empty prompt is the null class."""
    named = {prompt_styles.class_prompt(name): i for i, name in enumerate(classes.names)}
    return named if classes.null is None else named | {"": classes.null}


class DdpmStep(Step):
    """Latents are the pixels themselves, in [-1, 1]. The class of an image is found by its prompt
    under --class_prompt classlevel."""

    trainable_encoders = ()
    reads_text = False
    corrects_bank = False  # as published

    @classmethod
    def require_process(cls, settings: ProcessSettings, source: str) -> None:
        """Raise UsageError for a flag of flow matching."""
        Diffusion.require(settings, source)

    def require_trainable(self, flag: str, source: str, parts: Parts) -> None:
        """Raise UsageError unless the model predicts noise or velocity of three channels."""
        kind = parts.scheduler.config.prediction_type
        if kind not in PREDICTIONS:
            raise UsageError(
                f"{flag}={source!r} predicts {kind!r}; training needs one of:"
                f" {', '.join(PREDICTIONS)}"
            )
        channels = (parts.denoiser.config.in_channels, parts.denoiser.config.out_channels)
        if channels != (3, 3):
            raise UsageError(
                f"{flag}={source!r} has {channels[0]} channels and predicts {channels[1]}; images"
                " have 3"
            )

    def process(self, parts: Parts, settings: ProcessSettings, resolution: int) -> Diffusion:
        """Diffusion with the noise of the model's scheduler."""
        return Diffusion(parts.scheduler, snr_gamma=settings.snr_gamma, bins=settings.bins)

    def text_shapes(self, parts: Parts) -> dict[str, tuple[int, ...]]:
        """{}: there are no embeddings."""
        return {}

    def token_ids(self, parts: Parts, prompts: Sequence[str]) -> dict[str, torch.Tensor]:
        """{"labels": [B]} of a model with classes, else {}."""
        if parts.classes is None:
            return {}
        labels = _labels(parts.classes)
        return {LABELS: torch.tensor([labels[prompt] for prompt in prompts])}

    def text(
        self, encoders: Mapping[str, torch.nn.Module], ids: Mapping[str, torch.Tensor]
    ) -> Text:
        """The labels themselves."""
        return dict(ids)

    def predict(
        self,
        denoiser: torch.nn.Module,
        noisy: torch.Tensor,
        time: torch.Tensor,
        text: Text,
        extras: Mapping[str, torch.Tensor],
    ) -> torch.Tensor:
        """The network's noise or velocity, like noisy."""
        return denoiser(noisy, time, class_labels=text.get(LABELS)).sample
