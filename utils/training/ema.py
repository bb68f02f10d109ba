"""Exponential moving average of the weights in training (--use_ema)."""

import torch

DECAY = 0.9999


def decay_at(updates, decay=DECAY):
    """min(decay, (1 + n) / (10 + n)) for update n, counted from 0: short averages first, while
    weights still travel far."""
    return min(decay, (1 + updates) / (10 + updates))


class WeightAverage:
    """averages: {name: float32 tensor}, beside the weights {name: parameter} they follow."""

    def __init__(self, weights):
        self.weights = weights
        self.averages = {n: p.detach().float().clone() for n, p in weights.items()}

    @torch.no_grad()
    def update(self, updates):
        """average <- d * average + (1 - d) * weight, after optimizer step number `updates`, counted
        from 0."""
        averages, weights = (
            list(self.averages.values()),
            [self.weights[n].detach() for n in self.averages],
        )
        torch._foreach_lerp_(averages, weights, 1 - decay_at(updates))

    @torch.no_grad()
    def swap(self):
        """Exchange weights and averages in place, to save or show the averages; a second call puts
        them back."""
        for name, average in self.averages.items():
            held = self.weights[name].detach().clone()
            self.weights[name].copy_(average)
            average.copy_(held)
