"""The parts of tiny-sd3: small versions of Stable Diffusion 3's networks, beside the autoencoder
and the tokenizer of tiny-sd."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.nn import functional

from assets.tiny_sd_parts import MAX_LENGTH
from utils.models.families import TEXT_LENGTH

WIDTH = 64  # of each text encoder, and of its projection
ZERO_TOKENS = 1  # in T5's place; the pipeline's call needs no fewer
SHIFT = 1.0  # of the schedule; Stable Diffusion 3's shift of 3 is for images of 1,024 pixels


def build_text_encoder(tokenizer, *, layers):
    """A CLIP text encoder with a projection. layers: the last one reaches only the projection."""
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    return CLIPTextModelWithProjection(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            intermediate_size=4 * WIDTH,
            num_hidden_layers=layers,
            num_attention_heads=4,
            max_position_embeddings=MAX_LENGTH,
            projection_dim=WIDTH,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def build_transformer():
    """Four blocks of 128 channels, queries and keys normalised as in Stable Diffusion 3.5."""
    from diffusers import SD3Transformer2DModel

    transformer = SD3Transformer2DModel(
        sample_size=16,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=4,
        attention_head_dim=32,
        num_attention_heads=4,
        joint_attention_dim=2 * WIDTH,
        caption_projection_dim=128,
        pooled_projection_dim=2 * WIDTH,
        pos_embed_max_size=16,
        qk_norm="rms_norm",
    )
    start_as_identity(transformer)
    return transformer


def start_as_identity(transformer):
    """Set to zero what modulates the blocks, and the last layer, as Peebles and Xie (2023) do
    (adaLN-Zero): every block starts as the identity, and the network as zero."""
    last = [transformer.norm_out.linear, transformer.proj_out]
    blocks = transformer.transformer_blocks
    modulations = [n.linear for b in blocks for n in (b.norm1, b.norm1_context)]
    for layer in [*modulations, *last]:
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)


class RepeatedLastToken:
    """Joint attention of text and image in which the text's last token stands for `count` equal
    ones.

    Without T5 the pipeline appends zero tokens, as many as its max_sequence_length says. They have
    no positions, so they are equal in every block, and N equal keys are one key whose logit is
    larger by log N: exp(l + log N) = N exp(l). One token of this attention therefore computes what
    N do, to rounding, at the cost of one."""

    def __init__(self):
        self.log_count = torch.zeros(())

    def stand_for(self, count: int) -> None:
        """Let the last token stand for `count` equal ones."""
        self.log_count = torch.tensor(math.log(count))

    def __call__(
        self,
        attn: Any,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        attention_mask: None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """hidden_states [B, I, D] of the image, encoder_hidden_states [B, T, D] of the text.
        Returns: both, after attention over all I + T tokens."""

        def heads(projected):
            return projected.unflatten(-1, (attn.heads, -1)).transpose(1, 2)

        def normed(norm, states):
            return states if norm is None else norm(states)

        image, text = hidden_states, encoder_hidden_states
        query = [normed(attn.norm_q, heads(attn.to_q(image)))]
        query += [normed(attn.norm_added_q, heads(attn.add_q_proj(text)))]
        key = [normed(attn.norm_k, heads(attn.to_k(image)))]
        key += [normed(attn.norm_added_k, heads(attn.add_k_proj(text)))]
        value = [heads(attn.to_v(image)), heads(attn.add_v_proj(text))]
        more = functional.pad(
            self.log_count.to(image).view(1, 1, 1, 1), (image.shape[1] + text.shape[1] - 1, 0)
        )
        joint = functional.scaled_dot_product_attention(
            torch.cat(query, 2), torch.cat(key, 2), torch.cat(value, 2), attn_mask=more
        )
        joint = joint.transpose(1, 2).flatten(2)
        image_part, text_part = joint.split([image.shape[1], text.shape[1]], 1)
        if not attn.context_pre_only:
            text_part = attn.to_add_out(text_part)
        return attn.to_out[1](attn.to_out[0](image_part)), text_part


def build_pipeline(folder):
    """An untrained StableDiffusion3Pipeline without T5, which records that it reads one zero token
    in T5's place. The first text encoder starts from tiny-sd's, as Stable Diffusion 3 starts from
    encoders that know words.

    folder: of tiny-sd, whose autoencoder and tokenizer it shares."""
    from diffusers import (
        AutoencoderKL,
        FlowMatchEulerDiscreteScheduler,
        StableDiffusion3Pipeline,
    )
    from transformers import CLIPTextModel, CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(folder, subfolder="tokenizer")
    vae = AutoencoderKL.from_pretrained(folder, subfolder="vae").requires_grad_(False).eval()
    known = CLIPTextModel.from_pretrained(folder, subfolder="text_encoder")
    vae.register_to_config(shift_factor=0.0)  # the pipeline's decoding needs a number
    first = build_text_encoder(tokenizer, layers=2)
    first.text_model.load_state_dict(known.state_dict())
    pipeline = StableDiffusion3Pipeline(
        transformer=build_transformer(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=SHIFT),
        vae=vae,
        text_encoder=first,
        tokenizer=tokenizer,
        text_encoder_2=build_text_encoder(tokenizer, layers=3),
        tokenizer_2=tokenizer,
        text_encoder_3=None,
        tokenizer_3=None,
    )
    pipeline.register_to_config(**{TEXT_LENGTH: ZERO_TOKENS})
    return pipeline
