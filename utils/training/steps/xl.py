"""The training step of Stable Diffusion XL: two text encoders, a pooled embedding, and six numbers
that tell the U-Net the size of the original image, the crop and the size of the training image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from utils.runtime.errors import UsageError
from utils.training.steps.base import Text
from utils.training.steps.clip_text import penultimate, token_ids
from utils.training.steps.stable_diffusion import StableDiffusionStep

if TYPE_CHECKING:
    from utils.models.parts import Parts


class StableDiffusionXLStep(StableDiffusionStep):
    """The U-Net reads the last but one hidden states of all text encoders beside one another."""

    trainable_encoders = ("text_encoder", "text_encoder_2")
    # in float16 its activations overflow
    half_vae = False
    corrects_bank = True
    # the last layer of an encoder is left out
    unused_weights = True

    def require_trainable(self, flag: str, source: str, parts: Parts) -> None:
        """Raise UsageError unless the model predicts noise or velocity, and a text encoder gives
        the pooled embedding."""
        super().require_trainable(flag, source, parts)
        if not any(map(_projects, parts.encoders.values())):
            raise UsageError(
                f"{flag}={source!r} has no text encoder with a projection; training needs"
                " text_encoder_2"
            )

    def text_shapes(self, parts: Parts) -> dict[str, tuple[int, ...]]:
        """{"tokens": (T, D), "pooled": (P,)}: D is the sum of the encoders' widths, P the width of
        the projection."""
        encoders = parts.encoders.values()
        pooled = next(e.config.projection_dim for e in encoders if _projects(e))
        width = sum(encoder.config.hidden_size for encoder in encoders)
        return {"tokens": (parts.tokenizer.model_max_length, width), "pooled": (pooled,)}

    def token_ids(self, parts: Parts, prompts: Sequence[str]) -> dict[str, torch.Tensor]:
        """Token ids of each encoder, padded and cut to its tokenizer's length."""
        tokenizers = parts.tokenizers
        return {
            name: token_ids(tokenizers[name], prompts, tokenizers[name].model_max_length)
            for name in parts.encoders
        }

    def text(
        self, encoders: Mapping[str, torch.nn.Module], ids: Mapping[str, torch.Tensor]
    ) -> Text:
        """{"tokens": [B, T, D], "pooled": [B, P]}; pooled is of the encoder with a projection."""
        states, pooled = [], None
        for name, each in ids.items():
            state, first = penultimate(encoders[name], each)
            states.append(state)
            if pooled is None and first.ndim == 2:
                pooled = first
        assert pooled is not None  # require_trainable has looked
        return {"tokens": torch.cat(states, -1), "pooled": pooled}

    def extras(self, batch: Mapping[str, Any], resolution: int) -> dict[str, torch.Tensor]:
        """{"time_ids": [B, 6] float32}: height and width of the original image, top and left of the
        crop in the resized image, height and width of the training image."""
        sizes = batch["original_size"], batch["crop"], batch["target_size"]
        rows = [(*size, *crop, *target) for size, crop, target in zip(*sizes, strict=True)]
        return {"time_ids": torch.tensor(rows, dtype=torch.float32)}

    def predict(
        self,
        denoiser: torch.nn.Module,
        noisy: torch.Tensor,
        time: torch.Tensor,
        text: Text,
        extras: Mapping[str, torch.Tensor],
    ) -> torch.Tensor:
        """The U-Net's noise or velocity, like noisy."""
        added = {"text_embeds": text["pooled"], "time_ids": extras["time_ids"]}
        return denoiser(
            noisy, time, encoder_hidden_states=text["tokens"], added_cond_kwargs=added
        ).sample


def _projects(encoder):
    return hasattr(encoder, "text_projection")
