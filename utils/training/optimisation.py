"""The optimizer of a copy of the model and its learning rate."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch

from utils.runtime.errors import UsageError


@dataclass(frozen=True)
class AdamW:
    """Settings of AdamW, and of what is done to gradients before it."""

    learning_rate: float  # before the schedule's factor
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 1e-2
    epsilon: float = 1e-8
    max_grad_norm: float = 1.0  # gradients are clipped to this L2 norm
    eight_bit: bool = False  # moments in 8 bits, by bitsandbytes


@dataclass(frozen=True)
class Schedule:
    """Settings of the learning-rate schedule."""

    name: str  # of diffusers.optimization.get_scheduler
    warmup_steps: int  # optimizer steps of one copy
    steps: int  # optimizer steps of one copy over all rounds, never multiplied by processes


@dataclass(frozen=True)
class Optimisation:
    """How gradients become weights."""

    adam: AdamW
    schedule: Schedule
    accumulation: int = 1  # micro-batches of an optimizer step
    snr_gamma: float | None = None  # of Min-SNR weights; None weighs all timesteps alike
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


def make_optimizer(adam: AdamW, parameters: Iterable[torch.nn.Parameter]) -> torch.optim.Optimizer:
    """Fused AdamW, or AdamW with 8-bit moments; UsageError says what to install for the latter."""
    arguments = {
        "lr": adam.learning_rate,
        "betas": adam.betas,
        "eps": adam.epsilon,
        "weight_decay": adam.weight_decay,
    }
    if not adam.eight_bit:
        return torch.optim.AdamW(parameters, fused=True, **arguments)
    require_8bit()
    import bitsandbytes

    return bitsandbytes.optim.AdamW8bit(parameters, **arguments)


def require_8bit() -> None:
    """Raise UsageError unless bitsandbytes can be imported."""
    if importlib.util.find_spec("bitsandbytes") is None:
        raise UsageError(
            "--use_8bit_adam needs the package bitsandbytes, which is not installed: pip install"
            " bitsandbytes"
        )
