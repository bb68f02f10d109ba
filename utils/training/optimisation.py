"""Settings of the optimizer of a copy of the model, and its learning rate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Adam:
    """Settings of AdamW and its relatives, and of what is done to gradients before them."""

    learning_rate: float  # before the schedule's factor
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 1e-2
    epsilon: float = 1e-8
    max_grad_norm: float = 1.0  # gradients are clipped to this L2 norm
    # the learning rate of text encoders is this many times that of the denoiser
    encoder_factor: float = 1.0
    name: str = "adamw"  # in optimizers.OPTIMIZERS


@dataclass(frozen=True)
class Schedule:
    """Settings of the learning-rate schedule."""

    name: str  # of diffusers.optimization.get_scheduler
    warmup_steps: int  # optimizer steps of one copy
    steps: int  # optimizer steps of one copy over all rounds, never multiplied by processes


@dataclass(frozen=True)
class Optimisation:
    """How gradients become weights."""

    adam: Adam
    schedule: Schedule
    accumulation: int = 1  # micro-batches of an optimizer step
    use_ema: bool = False  # keep an exponential moving average of the weights too


def rate_at(optimisation: Optimisation) -> Callable[[int], float]:
    """The learning rate as a pure function of the optimizer step of a copy, from 0. Without a
    scheduler object nothing has to be stepped or saved."""
    from diffusers.optimization import get_scheduler

    adam, schedule = optimisation.adam, optimisation.schedule
    # only its function is used: the object would count calls, and accelerate would make one per
    # process
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=adam.learning_rate)
    scheduler = get_scheduler(
        schedule.name,
        optimizer,
        num_warmup_steps=schedule.warmup_steps,
        num_training_steps=schedule.steps,
    )
    factor = scheduler.lr_lambdas[0]
    return lambda step: adam.learning_rate * factor(step)
