"""Predictions of the model as it was before training, for losses that hold on to them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from utils.models.parts import Parts
    from utils.training.frozen_networks import FrozenNetworks
    from utils.training.methods.base import Method
    from utils.training.steps.base import Step, Text

Before = Callable[[], contextlib.AbstractContextManager[torch.nn.Module]]  # see Method.base_of


def _copied(module: torch.nn.Module, before: Before) -> int:
    """Bytes of the weights that a network's base takes beside the network."""
    with before() as base:
        if base is module:
            return 0
        return sum(p.numel() * p.element_size() for p in base.parameters())


class BaseModel:
    """The networks that learn, as they were before training. Build it before the first step and
    before a state is loaded.

    bytes: of the copies of weights that it takes, on the device."""

    def __init__(
        self,
        parts: Parts,
        modules: Mapping[str, torch.nn.Module],
        method: Method,
        step: Step,
        *,
        frozen: FrozenNetworks,
    ):
        """modules: those that learn, {name in the pipeline: network}; frozen: the others."""
        self.parts, self.step, self.frozen = parts, step, frozen
        self._before: dict[str, Before] = {n: method.base_of(each) for n, each in modules.items()}
        self.bytes = sum(_copied(modules[n], before) for n, before in self._before.items())

    @torch.no_grad()
    def predict(
        self,
        noisy: torch.Tensor,
        time: torch.Tensor,
        text: Text,
        extras: Mapping[str, torch.Tensor],
    ) -> torch.Tensor:
        """What the model predicted before training. time: as the network takes it, [B]; text: what
        it reads of the prompts, or token ids where text encoders learn. Returns: like noisy."""
        with contextlib.ExitStack() as stack:
            networks = {n: stack.enter_context(before()) for n, before in self._before.items()}
            denoiser = networks.pop(self.parts.denoiser_name)
            if self.frozen.learns_text:
                text = self.step.text(self.parts.encoders | self.frozen.encoders | networks, text)
            return self.step.predict(denoiser, noisy, time, text, extras)
