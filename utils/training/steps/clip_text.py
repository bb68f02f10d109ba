"""What families with several text encoders take from CLIP, and the tokenizing that all share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch


def token_ids(tokenizer: Any, prompts: Sequence[str], length: int) -> torch.Tensor:
    """Token ids of B prompts, padded and cut to a length: [B, length] int64, on the CPU."""
    tokenized = tokenizer(
        list(prompts),
        padding="max_length",
        max_length=length,
        truncation=True,
        return_tensors="pt",
    )
    return tokenized.input_ids


def penultimate(encoder: Any, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The last but one hidden state [B, T, D] of a CLIP text encoder, and its first output, which
    is the projected embedding [B, P] where it has a projection."""
    output = encoder(ids, output_hidden_states=True)
    return output.hidden_states[-2], output[0]
