"""The optimizers of --optimizer by name, and the state that each keeps beside the weights.

A new one is a function and a line in OPTIMIZERS. Nothing heavy is imported before one is made, so
that --help can list them."""

from __future__ import annotations

import contextlib
import importlib.util
import io
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from utils.runtime.errors import UsageError

if TYPE_CHECKING:
    import torch

    from utils.training.optimisation import Adam

    Weights = Iterable[torch.nn.Parameter]


def _arguments(adam: Adam) -> dict[str, Any]:
    return {
        "lr": adam.learning_rate,
        "betas": adam.betas,
        "eps": adam.epsilon,
        "weight_decay": adam.weight_decay,
    }


def adamw(weights: Weights, adam: Adam) -> torch.optim.Optimizer:
    """Fused AdamW (Loshchilov & Hutter 2019)."""
    import torch

    return torch.optim.AdamW(weights, fused=True, **_arguments(adam))


def adamw_8bit(weights: Weights, adam: Adam) -> torch.optim.Optimizer:
    """AdamW with moments of 8 bits (Dettmers et al. 2022)."""
    import bitsandbytes

    return bitsandbytes.optim.AdamW8bit(weights, **_arguments(adam))


def prodigy(weights: Weights, adam: Adam) -> torch.optim.Optimizer:
    """Prodigy (Mishchenko & Defazio 2023): Adam whose learning rate is a factor on one that it
    estimates. Bias correction and the safeguard for a warm-up are on, as trainers of diffusion
    models have them; weight decay is AdamW's."""
    import prodigyopt

    with contextlib.redirect_stdout(io.StringIO()):  # it prints how it decays weights
        return prodigyopt.Prodigy(
            weights, use_bias_correction=True, safeguard_warmup=True, **_arguments(adam)
        )


@dataclass(frozen=True)
class Kind:
    """An optimizer that --optimizer names."""

    make: Callable[[Weights, Adam], torch.optim.Optimizer]
    package: str | None = None  # that has to be installed for it
    # numbers of its parameter groups that change in training; they belong to a copy
    numbers: tuple[str, ...] = ()
    counts_in_python: bool = False  # its "step" of each weight is no tensor
    moments: int = 2  # numbers that it keeps for each weight, at most
    moment_bytes: int = 4  # of each, beside a few of a block
    finds_rate: bool = False  # the learning rate is a factor on one that it finds


OPTIMIZERS = {
    "adamw": Kind(adamw),
    "adamw8bit": Kind(adamw_8bit, package="bitsandbytes", counts_in_python=True, moment_bytes=1),
    "prodigy": Kind(
        prodigy,
        package="prodigyopt",
        numbers=("d", "d_max", "d_numerator", "k"),
        counts_in_python=True,
        moments=4,
        finds_rate=True,
    ),
}


def require(name: str) -> None:
    """Raise UsageError unless the package of an optimizer is installed."""
    package = OPTIMIZERS[name].package
    if package is not None and importlib.util.find_spec(package) is None:
        raise UsageError(
            f"--optimizer {name} needs the package {package}, which is not installed: pip install"
            f" {package}"
        )


def applied_rate(optimizer: torch.optim.Optimizer, rate: float) -> float:
    """The learning rate of the next step: `rate`, times what the optimizer found by itself."""
    return rate * optimizer.param_groups[0].get("d", 1.0)


# The state of a copy ------------------------------------------------------------------------------


def state_of(
    optimizer: torch.optim.Optimizer, name: str, weights: Mapping[str, torch.nn.Parameter]
) -> dict[str, torch.Tensor]:
    """{name: tensor in host memory} of the moments of each weight and of the optimizer's numbers.

    name: of the optimizer, in OPTIMIZERS; weights: by name, those that it trains."""
    import torch

    from utils.runtime import devices

    state = {
        f"moments/{weight}/{key}": devices.to_host(torch.as_tensor(value))
        for weight, parameter in weights.items()
        for key, value in optimizer.state.get(parameter, {}).items()
    }
    for i, group in enumerate(optimizer.param_groups):
        for key in OPTIMIZERS[name].numbers:
            state[f"optimizer/{i}/{key}"] = torch.tensor(group[key], dtype=torch.float64)
    return state


def load_state(
    optimizer: torch.optim.Optimizer,
    name: str,
    weights: Mapping[str, torch.nn.Parameter],
    state: Mapping[str, torch.Tensor],
) -> None:
    """Load what `state_of` gave. Without an entry, a weight has no moments yet, and a number is
    that of a new optimizer."""
    kind = OPTIMIZERS[name]
    optimizer.state.clear()
    for weight, parameter in weights.items():
        prefix = f"moments/{weight}/"
        moments = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
        if moments:
            optimizer.state[parameter] = {
                key: int(value)
                if kind.counts_in_python and key == "step"
                else value.to(parameter.device, copy=True)
                for key, value in moments.items()
            }
    for i, group in enumerate(optimizer.param_groups):
        for key in kind.numbers:
            new = optimizer.defaults[key]
            saved = state.get(f"optimizer/{i}/{key}")
            group[key] = new if saved is None else type(new)(saved.item())
