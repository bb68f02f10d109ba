"""The memory that weights take while all of them learn, known from the configuration alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from utils.models import families, networks
from utils.runtime import devices
from utils.runtime.errors import UsageError

if TYPE_CHECKING:
    from utils.models.pipeline_files import Configs

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
