"""The training step of Flux.1: T5's tokens, CLIP's pooled embedding, and a transformer over packed
latents that may take a guidance scale as an input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch

from utils.training.steps.base import Text
from utils.training.steps.clip_text import token_ids
from utils.training.steps.flow import FlowStep

if TYPE_CHECKING:
    from utils.models.parts import Parts

CLIP = "text_encoder"


def pack(latents: torch.Tensor) -> torch.Tensor:
    """Squares of 2 x 2 latents become tokens, row by row: [B, C, h, w] -> [B, h / 2 * w / 2, 4 *
    C]. h and w must be even."""
    batch, channels, height, width = latents.shape
    squares = latents.reshape(batch, channels, height // 2, 2, width // 2, 2)
    squares = squares.permute(0, 2, 4, 1, 3, 5)
    return squares.reshape(batch, height // 2 * (width // 2), channels * 4)


def unpack(tokens: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """The inverse of `pack`: [B, h / 2 * w / 2, 4 * C] -> [B, C, h, w]. height, width: h, w."""
    batch, _, channels = tokens.shape
    squares = tokens.reshape(batch, height // 2, width // 2, channels // 4, 2, 2)
    return squares.permute(0, 3, 1, 4, 2, 5).reshape(batch, channels // 4, height, width)


def image_ids(height: int, width: int, device: torch.device) -> torch.Tensor:
    """The place of each token of `pack`: (0, row, column). height, width: of the latents. Returns:
    [h / 2 * w / 2, 3] float32."""
    rows = torch.arange(height // 2, device=device, dtype=torch.float32)
    columns = torch.arange(width // 2, device=device, dtype=torch.float32)
    row, column = torch.meshgrid(rows, columns, indexing="ij")
    return torch.stack([torch.zeros_like(row), row, column], -1).reshape(-1, 3)


class FluxStep(FlowStep):
    """The transformer reads T5's tokens and CLIP's pooled embedding."""

    trainable_encoders = (CLIP,)
    # in float16 its transformer overflows
    refused_precisions = ("fp16",)
    t5 = "text_encoder_2"
    lora_layers = (
        "attn.to_q",
        "attn.to_k",
        "attn.to_v",
        "attn.to_out.0",
        "attn.add_q_proj",
        "attn.add_k_proj",
        "attn.add_v_proj",
        "attn.to_add_out",
        "ff.net.0.proj",
        "ff.net.2",
        "ff_context.net.0.proj",
        "ff_context.net.2",
    )

    def patch(self, parts: Parts) -> int:
        """Latents of a token along a side: those that `pack` joins."""
        return 2

    def text_shapes(self, parts: Parts) -> dict[str, tuple[int, ...]]:
        """{"tokens": (T, D) of T5, "pooled": (P,) of CLIP}."""
        encoders = parts.encoders
        return {
            "tokens": (self.length, encoders[self.t5].config.d_model),
            "pooled": (encoders[CLIP].config.hidden_size,),
        }

    def token_ids(self, parts: Parts, prompts: Sequence[str]) -> dict[str, torch.Tensor]:
        """Token ids of CLIP at its tokenizer's length, of T5 at its own."""
        tokenizers = parts.tokenizers
        clip = tokenizers[CLIP].model_max_length
        return {
            CLIP: token_ids(tokenizers[CLIP], prompts, clip),
            self.t5: token_ids(tokenizers[self.t5], prompts, self.length),
        }

    def text(
        self, encoders: Mapping[str, torch.nn.Module], ids: Mapping[str, torch.Tensor]
    ) -> Text:
        """{"tokens": [B, T, D], "pooled": [B, P]}."""
        return {
            "tokens": encoders[self.t5](ids[self.t5])[0],
            "pooled": encoders[CLIP](ids[CLIP]).pooler_output,
        }

    def predict(
        self,
        denoiser: torch.nn.Module,
        noisy: torch.Tensor,
        time: torch.Tensor,
        text: Text,
        extras: Mapping[str, torch.Tensor],
    ) -> torch.Tensor:
        """The transformer's velocity, like noisy. time: sigma * 1000, of which the transformer
        takes a thousandth."""
        height, width = noisy.shape[-2:]
        guidance = None
        if denoiser.config.guidance_embeds:
            guidance = torch.full((len(noisy),), self.settings.guidance_scale, device=noisy.device)
        predicted = denoiser(
            hidden_states=pack(noisy),
            timestep=time / 1000,
            guidance=guidance,
            encoder_hidden_states=text["tokens"],
            pooled_projections=text["pooled"],
            txt_ids=torch.zeros(text["tokens"].shape[1], 3, device=noisy.device),
            img_ids=image_ids(height, width, noisy.device),
        ).sample
        return unpack(predicted, height, width)
