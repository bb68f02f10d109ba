"""Full fine-tuning: every weight of a network learns."""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from utils.training.methods.base import Method

if TYPE_CHECKING:
    from utils.models.parts import Parts
    from utils.training.steps.base import Step


class FullWeights(Method):
    """All weights learn, in float32. A checkpoint is a whole pipeline."""

    learns_all = True

    def base_dtype(self, dtype: torch.dtype) -> torch.dtype:
        """float32, whatever the run computes in."""
        return torch.float32

    def size(
        self, name: str, network: torch.nn.Module, step: type[Step], dtype: torch.dtype
    ) -> tuple[int, int]:
        """All parameters learn."""
        return sum(each.numel() for each in network.parameters()), 0

    def prepare(self, modules: Mapping[str, torch.nn.Module], parts: Parts, step: Step) -> None:
        """Turn on the gradients of all weights."""
        for module in modules.values():
            module.requires_grad_(True)

    def weights(self, modules: Mapping[str, torch.nn.Module]) -> dict[str, torch.nn.Parameter]:
        """All parameters, in the order of the networks."""
        return {
            f"{network}.{name}": parameter
            for network, module in modules.items()
            for name, parameter in module.named_parameters()
        }

    def base_of(
        self, module: torch.nn.Module
    ) -> Callable[[], contextlib.AbstractContextManager[torch.nn.Module]]:
        """A copy, which takes as much memory as the weights."""
        before = copy.deepcopy(module).requires_grad_(False).eval()
        return functools.partial(contextlib.nullcontext, before)

    def save(self, pipeline: Any, folder: Path) -> None:
        """Write the pipeline's folder."""
        pipeline.save_pretrained(folder)
