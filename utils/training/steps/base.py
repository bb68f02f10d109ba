"""What training asks of a family of models: what goes into the network, and what comes out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import torch

if TYPE_CHECKING:
    from utils.models.parts import Parts
    from utils.training.process.base import Process, ProcessSettings

# what the network reads of B prompts: {"tokens": [B, T, D]}, in some families "pooled": [B, P] too
Text: TypeAlias = "dict[str, torch.Tensor]"


class Step(ABC):
    """A training step of a family, as functions without state."""

    # text encoders that --train_text_encoder trains, of those that the pipeline has
    trainable_encoders: tuple[str, ...] = ("text_encoder",)
    # whether the autoencoder may compute in half precision
    half_vae: bool = True

    @abstractmethod
    def require_trainable(self, flag: str, source: str, parts: Parts) -> None:
        """Raise UsageError for a model that cannot be trained. flag, source: where it came from."""

    @abstractmethod
    def process(self, parts: Parts, settings: ProcessSettings) -> Process:
        """The noise process of a model."""

    @abstractmethod
    def text_shapes(self, parts: Parts) -> dict[str, tuple[int, ...]]:
        """{entry of Text: its shape for one prompt}."""

    @abstractmethod
    def token_ids(self, parts: Parts, prompts: Sequence[str]) -> dict[str, torch.Tensor]:
        """{text encoder: token ids of B prompts, [B, T] int64}, on the CPU."""

    @abstractmethod
    def text(
        self, encoders: Mapping[str, torch.nn.Module], ids: Mapping[str, torch.Tensor]
    ) -> Text:
        """What the network reads of prompts. encoders: as Parts.encoders, on the device of the
        ids; ids: as `token_ids` gives them. Gradients flow through encoders that learn."""

    def extras(self, batch: Mapping[str, Any], resolution: int) -> dict[str, torch.Tensor]:
        """Further inputs of the network for a micro-batch, on the CPU: {name: [B, ...]}."""
        return {}

    @abstractmethod
    def predict(
        self,
        denoiser: torch.nn.Module,
        noisy: torch.Tensor,
        time: torch.Tensor,
        text: Text,
        extras: Mapping[str, torch.Tensor],
    ) -> torch.Tensor:
        """The network's prediction. noisy: [B, C, h, w]; time: as the network takes it, [B].
        Returns: like noisy."""
