"""What training asks of a method: which weights learn, and what a checkpoint of them is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch


class Method(ABC):
    """A way to fine-tune networks."""

    # whether every weight of a network learns
    learns_all: bool = False

    @abstractmethod
    def base_dtype(self, dtype: torch.dtype) -> torch.dtype:
        """The dtype in which a model is loaded, for a run that computes in `dtype`."""

    @abstractmethod
    def prepare(self, modules: Mapping[str, torch.nn.Module]) -> None:
        """Make what learns in the networks ready to learn. modules: {name in the pipeline:
        network}."""

    @abstractmethod
    def weights(self, modules: Mapping[str, torch.nn.Module]) -> dict[str, torch.nn.Parameter]:
        """{network and name within it: float32 parameter} of all that learns, in a fixed order."""

    @abstractmethod
    def save(self, pipeline: Any, folder: Path) -> None:
        """Write a checkpoint of a pipeline whose networks hold what was learnt."""
