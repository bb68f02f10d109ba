"""Exponential moving average of the weights in training (--use_ema)."""

from __future__ import annotations

from collections.abc import Mapping

import torch

DECAY = 0.9999


def decay_at(updates: int, decay: float = DECAY) -> float:
    """min(decay, (1 + n) / (10 + n)) for update n, counted from 0: the first averages are short,
    while the weights still travel far (as in diffusers' EMAModel)."""
    return min(decay, (1 + updates) / (10 + updates))


class WeightAverage:
    """Averages of the weights of a model, float32, beside the weights that they follow."""

    def __init__(self, weights: Mapping[str, torch.nn.Parameter]):
        self.weights = weights
        self.averages = {n: p.detach().float().clone() for n, p in weights.items()}

    @torch.no_grad()
    def update(self, updates: int) -> None:
        """average <- d * average + (1 - d) * weight, after optimizer step number `updates`, counted
        from 0."""
        averages = list(self.averages.values())
        weights = [self.weights[n].detach() for n in self.averages]
        torch._foreach_lerp_(averages, weights, 1 - decay_at(updates))

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange weights and averages in place, to save or show the averages. A second call puts
        them back."""
        for name, average in self.averages.items():
            weight = self.weights[name].detach().clone()
            self.weights[name].copy_(average)
            average.copy_(weight)
