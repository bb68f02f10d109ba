"""The memory that a run takes, known from the configuration of its model alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch

from utils.models import families, networks
from utils.runtime import devices
from utils.runtime.errors import UsageError
from utils.training import ensemble, optimizers

if TYPE_CHECKING:
    from utils.models.pipeline_files import Configs
    from utils.training.methods.base import Method
    from utils.training.steps.base import Step

# of a weight that learns: itself, its gradient and two moments, in float32
BYTES = 16


def denoiser(name: str, configs: Configs) -> torch.nn.Module:
    """The denoiser of a pipeline of class `name`, on the device "meta": no weight is loaded."""
    network = networks.network_classes(configs.index)[families.FAMILIES[name].denoiser]
    with torch.device("meta"):
        return network.from_config(configs.denoiser)


def parameters(name: str, configs: Configs) -> int:
    """Weights of the denoiser of a pipeline of class `name`; none of them is loaded."""
    return sum(each.numel() for each in denoiser(name, configs).parameters())


def require_room(source: str, count: int, device: torch.device) -> None:
    """Raise UsageError if `count` weights that learn do not fit into the memory of a device, each
    process having all of them.

    source: the model, for the error."""
    need, whole = count * BYTES, devices.total_memory(device)
    if need > whole:
        raise UsageError(
            f"--pretrained_model_name_or_path={source!r}: to train all {count / 1e9:.2f} billion"
            f" weights takes {need / 2**30:.0f} GiB (weights, gradients and moments in float32),"
            f" and {device} has {whole / 2**30:.0f} GiB; this toolkit does not divide a model among"
            " devices"
        )


# What a run needs ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plan:
    """What decides on the memory of a process beside the configuration of its model."""

    method: Method
    step: type[Step]
    dtype: torch.dtype  # in which the run computes
    optimizer: str  # in optimizers.OPTIMIZERS
    learns_text: bool = False
    use_ema: bool = False
    holds_base: bool = False  # whether a loss needs the model as it was before training
    copies: int = 1  # of the model, that take turns in the process
    splits: int = 1  # copies of all processes


@dataclass(frozen=True)
class Needs:
    """Bytes of a process before its first step, by what they are for; without activations."""

    device: Mapping[str, int]
    host: Mapping[str, int]  # on a CPU both are of one memory
    not_counted: tuple[str, ...] = ()  # text encoders whose configuration could not be read

    def record(self) -> dict[str, Any]:
        """As run.json and --dry_run show it."""
        return asdict(self)

    def line(self) -> str:
        """What is printed before weights are read."""
        parts = [f"{name} {in_words(size)}" for name, size in self.device.items() if size]
        waiting = [f"{name} {in_words(size)}" for name, size in self.host.items() if size]
        lines = [
            f"memory of a process: {in_words(sum(self.device.values()))} of its device"
            f" ({', '.join(parts)}), and activations, which the first step shows"
        ]
        if waiting:
            lines.append(f"in host memory {', '.join(waiting)}")
        if self.not_counted:
            lines.append(f"not counted: {', '.join(self.not_counted)}")
        return "; ".join(lines)


def in_words(size: int) -> str:
    """Bytes as text, in GiB from one on."""
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"


def networks_of(
    name: str, configs: Configs, encoders: Mapping[str, dict]
) -> dict[str, torch.nn.Module]:
    """{part: network} of a pipeline of class `name`, on the device "meta": no weight is loaded.
    encoders: {text encoder: its configuration}."""
    classes = networks.network_classes(configs.index)
    found = {families.FAMILIES[name].denoiser: denoiser(name, configs)}
    with torch.device("meta"):
        if configs.vae:
            found["vae"] = classes["vae"].from_config(configs.vae)
        for part, config in encoders.items():
            found[part] = classes[part](classes[part].config_class.from_dict(dict(config)))
    return found


def _count(network):
    return sum(each.numel() for each in network.parameters())


def needs(plan: Plan, found: Mapping[str, torch.nn.Module], *, denoiser_name: str) -> Needs:
    """What a process needs. found: as `networks_of`; denoiser_name: the one that predicts."""
    step, method, dtype = plan.step, plan.method, plan.dtype
    texts = step.trainable_encoders if plan.learns_text else ()
    sizes = {
        name: method.size(name, network, step, dtype)
        for name, network in found.items()
        if name == denoiser_name or name in texts
    }
    learns = sum(count for count, _ in sizes.values())
    frozen = {name: each for name, each in found.items() if name not in sizes}
    whole, loaded = step.float32_parts(dtype), method.base_dtype(dtype)
    dtypes = {name: torch.float32 if name in whole else dtype for name in frozen}
    kind = optimizers.OPTIMIZERS[plan.optimizer]
    device = {
        "weights that learn": learns * 4,
        "their gradients": learns * 4,
        "moments": learns * kind.moments * kind.moment_bytes,
        "averages": learns * 4 if plan.use_ema else 0,
        "base weights": sum(rests for _, rests in sizes.values()),
        "copy of the base model": learns * 4 if plan.holds_base and method.learns_all else 0,
        "frozen networks": sum(_count(e) * dtypes[n].itemsize for n, e in frozen.items()),
    }
    # a network in another precision than the one it was loaded in is a copy
    kept = [n for n in frozen if dtypes[n] != (torch.float32 if n in whole else loaded)]
    averaged = learns * 4 * (2 if plan.use_ema else 1)
    waiting = ensemble.waiting_bytes(
        plan.copies,
        plan.splits,
        weights=learns * 4,
        averaged=averaged,
        moments=kind.moments,
        measures=method.measures_average,
    )
    host = {
        "originals of frozen networks": sum(_count(frozen[n]) * loaded.itemsize for n in kept),
        "waiting copies": waiting if plan.copies > 1 else 0,
    }
    return Needs(device, host)
