"""What training asks of a family of models: what goes into the network, and what comes out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import torch

from utils.runtime.errors import UsageError

if TYPE_CHECKING:
    from utils.models.parts import Parts
    from utils.training.process.base import Process, ProcessSettings

# what the network reads of B prompts: {"tokens": [B, T, D]}, in some families "pooled": [B, P] too
Text: TypeAlias = "dict[str, torch.Tensor]"


@dataclass(frozen=True)
class StepSettings:
    """Flags that steps read."""

    max_sequence_length: int | None = None  # tokens of T5; None is the pipeline's own number
    guidance_scale: float = 1.0  # what a guidance-distilled network is called with


class Step(ABC):
    """A training step of a family. Nothing in it changes."""

    # text encoders that --train_text_encoder trains, of those that the pipeline has
    trainable_encoders: tuple[str, ...] = ("text_encoder",)
    # layers that LoRA adapts unless --lora_layers names others, by the ends of their names
    lora_layers: tuple[str, ...] = ("to_q", "to_k", "to_v", "to_out.0")
    encoder_lora_layers: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "out_proj")
    # whether it reads prompts
    reads_text: bool = True
    # whether the autoencoder may compute in half precision
    half_vae: bool = True
    # text encoders that overflow in float16, and so compute in float32 there
    float32_encoders: tuple[str, ...] = ()
    # values of --mixed_precision in which the denoiser overflows
    refused_precisions: tuple[str, ...] = ()
    # whether the loss bank of anti-gradient control is corrected for its start at zero, without
    # --agc_bias_correction: Stable Diffusion 1 and 2 are trained as published
    corrects_bank: bool = True
    # whether text encoders that learn have weights without a gradient
    unused_weights: bool = False

    def __init__(self, parts: Parts, settings: StepSettings):
        """parts: of a pipeline of the family."""
        self.settings = settings

    @classmethod
    def float32_parts(cls, dtype: torch.dtype) -> tuple[str, ...]:
        """Parts that are loaded in float32 where a model is loaded in `dtype`."""
        return () if cls.half_vae else ("vae",)

    @classmethod
    @abstractmethod
    def require_process(cls, settings: ProcessSettings, source: str) -> None:
        """Raise UsageError for a flag that has no meaning in the family's noise process. source:
        the model, for errors."""

    @classmethod
    def require_precision(
        cls, precision: str, source: str, *, parts: Collection[str], learns_text: bool
    ) -> None:
        """Raise UsageError for a --mixed_precision in which a network overflows. parts: names of
        the pipeline's parts; learns_text: --train_text_encoder."""
        if precision in cls.refused_precisions:
            raise UsageError(
                f"--mixed_precision={precision!r}: the transformer of {source!r} overflows in"
                " float16; use bf16"
            )

    @abstractmethod
    def require_trainable(self, flag: str, source: str, parts: Parts) -> None:
        """Raise UsageError for a model that cannot be trained. flag, source: where it came from."""

    @abstractmethod
    def process(self, parts: Parts, settings: ProcessSettings, resolution: int) -> Process:
        """The noise process of a model. resolution: side of the training images in pixels."""

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
