"""Denoiser: the networks that a step of training runs forward and backward, and their inputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import torch

if TYPE_CHECKING:
    from utils.training.steps.base import Step, Text
    from utils.training.train_mitigations import TrainHooks


class DenoiserInputs(NamedTuple):
    """Arguments of `Denoiser` for a micro-batch of B samples, on the device."""

    noisy: torch.Tensor  # [B, C, h, w] noisy latents
    time: torch.Tensor  # [B] as the network takes it
    # what the network reads of the prompts, or their token ids where text encoders learn
    own: Text
    partners: Text | None  # the same of the partners' prompts, where an edit needs them
    drawn: tuple | None  # the random value of each embedding edit; None: no edit is applied
    extras: dict[str, torch.Tensor]  # further inputs of the family, {name: [B, ...]}


class Denoiser(torch.nn.Module):
    """The networks that a step runs forward and backward: the denoiser and, when they learn, the
    text encoders."""

    def __init__(
        self,
        network: torch.nn.Module,
        encoders: Mapping[str, torch.nn.Module] | None,
        step: Step,
        hooks: TrainHooks,
    ):
        """encoders: all text encoders, where any of them learns; else None."""
        super().__init__()
        self.network, self.family, self.hooks = network, step, hooks
        self.encoders = None if encoders is None else torch.nn.ModuleDict(encoders)

    def forward(
        self,
        noisy: torch.Tensor,
        time: torch.Tensor,
        own: Text,
        partners: Text | None,
        drawn: tuple | None,
        extras: dict[str, torch.Tensor],
    ) -> torch.Tensor:
        """The prediction for a micro-batch; arguments as in DenoiserInputs. Returns: like noisy."""
        if self.encoders is not None:
            own = self.family.text(self.encoders, own)
            partners = None if partners is None else self.family.text(self.encoders, partners)
        text = own if drawn is None else self.hooks.edit_text(own, partners, drawn)
        return self.family.predict(self.network, noisy, time, text, extras)
