"""The training step of Stable Diffusion 1 and 2: one text encoder, a U-Net, diffusion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch

from utils.runtime.errors import UsageError
from utils.training.process.diffusion import PREDICTIONS, Diffusion
from utils.training.steps.base import Step, Text

if TYPE_CHECKING:
    from utils.models.parts import Parts
    from utils.training.process.base import ProcessSettings


class StableDiffusionStep(Step):
    """The U-Net reads the last hidden state of the text encoder for all of its positions."""

    corrects_bank = False

    @classmethod
    def require_process(cls, settings: ProcessSettings, source: str) -> None:
        """Raise UsageError for a flag of flow matching."""
        Diffusion.require(settings, source)

    def require_trainable(self, flag: str, source: str, parts: Parts) -> None:
        """Raise UsageError unless the model predicts noise or velocity."""
        kind = parts.scheduler.config.prediction_type
        if kind not in PREDICTIONS:
            raise UsageError(
                f"{flag}={source!r} predicts {kind!r}; training needs one of:"
                f" {', '.join(PREDICTIONS)}"
            )

    def process(self, parts: Parts, settings: ProcessSettings, resolution: int) -> Diffusion:
        """Diffusion with the noise of the model's scheduler."""
        return Diffusion(parts.scheduler, snr_gamma=settings.snr_gamma, bins=settings.bins)

    def text_shapes(self, parts: Parts) -> dict[str, tuple[int, ...]]:
        """{"tokens": (T, D)}: positions of a prompt, width of the text encoder."""
        width = parts.encoders["text_encoder"].config.hidden_size
        return {"tokens": (parts.tokenizer.model_max_length, width)}

    def token_ids(self, parts: Parts, prompts: Sequence[str]) -> dict[str, torch.Tensor]:
        """Token ids, padded and cut to the tokenizer's length."""
        tokenized = parts.tokenizer(
            list(prompts),
            padding="max_length",
            max_length=parts.tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        )
        return {"text_encoder": tokenized.input_ids}

    def text(
        self, encoders: Mapping[str, torch.nn.Module], ids: Mapping[str, torch.Tensor]
    ) -> Text:
        """{"tokens": [B, T, D]}."""
        return {"tokens": encoders["text_encoder"](ids["text_encoder"])[0]}

    def predict(
        self,
        denoiser: torch.nn.Module,
        noisy: torch.Tensor,
        time: torch.Tensor,
        text: Text,
        extras: Mapping[str, torch.Tensor],
    ) -> torch.Tensor:
        """The U-Net's noise or velocity, like noisy."""
        return denoiser(noisy, time, encoder_hidden_states=text["tokens"]).sample
