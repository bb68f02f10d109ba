"""The training step of Stable Diffusion 3 and 3.5: two CLIP encoders, T5 where it was not removed,
and a transformer that matches flows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from utils.training.steps.base import StepSettings, Text
from utils.training.steps.clip_text import penultimate, token_ids
from utils.training.steps.flow import FlowStep

if TYPE_CHECKING:
    from utils.models.parts import Parts

CLIPS = ("text_encoder", "text_encoder_2")


class StableDiffusion3Step(FlowStep):
    """The transformer reads CLIP's tokens, the last but one hidden states of both encoders beside
    one another and filled up with zeros, and then T5's tokens, or as many zeros without T5."""

    trainable_encoders = CLIPS
    half_vae = False
    # the last layer of a CLIP encoder is left out of its tokens
    unused_weights = True
    published_weighting = "logit_normal"
    t5 = "text_encoder_3"
    lora_layers = (
        "attn.to_q",
        "attn.to_k",
        "attn.to_v",
        "attn.to_out.0",
        "attn.add_q_proj",
        "attn.add_k_proj",
        "attn.add_v_proj",
        "attn.to_add_out",
    )

    def __init__(self, parts: Parts, settings: StepSettings):
        """parts: a Stable Diffusion 3 pipeline."""
        super().__init__(parts, settings)
        self.width = parts.denoiser.config.joint_attention_dim  # of a token

    def text_shapes(self, parts: Parts) -> dict[str, tuple[int, ...]]:
        """{"tokens": (T, D), "pooled": (P,)}: T counts CLIP's and T5's tokens, P is the sum of
        CLIP's projections."""
        pooled = sum(parts.encoders[name].config.projection_dim for name in CLIPS)
        tokens = parts.tokenizer.model_max_length + self.length
        return {"tokens": (tokens, self.width), "pooled": (pooled,)}

    def token_ids(self, parts: Parts, prompts: Sequence[str]) -> dict[str, torch.Tensor]:
        """Token ids of each encoder: CLIP's at the first tokenizer's length, as the pipeline does,
        T5's at its own."""
        tokenizers, clip = parts.tokenizers, parts.tokenizer.model_max_length
        return {
            name: token_ids(tokenizers[name], prompts, self.length if name == self.t5 else clip)
            for name in parts.encoders
        }

    def text(
        self, encoders: Mapping[str, torch.nn.Module], ids: Mapping[str, torch.Tensor]
    ) -> Text:
        """{"tokens": [B, T, D], "pooled": [B, P]}."""
        states, pooled = zip(*(penultimate(encoders[n], ids[n]) for n in CLIPS), strict=True)
        clip = torch.cat(states, -1)
        clip = functional.pad(clip, (0, self.width - clip.shape[-1]))
        long = clip.new_zeros(len(clip), self.length, self.width)
        if self.t5 in ids:
            long = encoders[self.t5](ids[self.t5])[0].to(clip)
        return {"tokens": torch.cat([clip, long], 1), "pooled": torch.cat(pooled, -1)}

    def predict(
        self,
        denoiser: torch.nn.Module,
        noisy: torch.Tensor,
        time: torch.Tensor,
        text: Text,
        extras: Mapping[str, torch.Tensor],
    ) -> torch.Tensor:
        """The transformer's velocity, like noisy."""
        return denoiser(
            hidden_states=noisy,
            timestep=time,
            encoder_hidden_states=text["tokens"],
            pooled_projections=text["pooled"],
        ).sample
