"""What training asks of a method: which weights learn, and what a checkpoint of them is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from utils.models.parts import Parts
    from utils.training.steps.base import Step


class Method(ABC):
    """A way to fine-tune networks."""

    # whether every weight of a network learns
    learns_all: bool = False
    # whether an average of weights is not the average of what the weights do
    measures_average: bool = False
    # whether a step in training draws from torch's own generators, as torch's dropout does
    draws_globally: bool = False

    @abstractmethod
    def base_dtype(self, dtype: torch.dtype) -> torch.dtype:
        """The dtype in which a model is loaded, for a run that computes in `dtype`."""

    @abstractmethod
    def size(
        self, name: str, network: torch.nn.Module, step: type[Step], dtype: torch.dtype
    ) -> tuple[int, int]:
        """What a network takes that `prepare` would be given, and that may be on the device "meta".

        name: of the network within the pipeline; dtype: of the run. Returns: (numbers that learn,
        in float32; bytes of what does not learn)."""

    @abstractmethod
    def prepare(self, modules: Mapping[str, torch.nn.Module], parts: Parts, step: Step) -> None:
        """Make what learns in the networks ready to learn.

        modules: {name in the pipeline: network}, those that learn; parts: all of the pipeline;
        step: of its family."""

    @abstractmethod
    def weights(self, modules: Mapping[str, torch.nn.Module]) -> dict[str, torch.nn.Parameter]:
        """{network and name within it: float32 parameter} of all that learns, in a fixed order."""

    @abstractmethod
    def base_of(
        self, module: torch.nn.Module
    ) -> Callable[[], AbstractContextManager[torch.nn.Module]]:
        """How to come at a network as it was before training: () -> a block in which it may be
        used, without gradient. Called after `prepare`, before the weights change."""

    @abstractmethod
    def save(self, pipeline: Any, folder: Path) -> None:
        """Write a checkpoint of a pipeline whose networks hold what was learnt."""

    def average_error(
        self,
        copies: Sequence[Mapping[str, torch.Tensor]],
        shares: Sequence[float],
        start: Mapping[str, torch.Tensor],
    ) -> float:
        """How far the model with averaged weights is from the average of the models, relative to
        what the round changed; 0 where that is one and the same.

        copies: weights of each copy at the end of a round, {name: tensor}; shares: their factors in
        the average; start: the weights from which all began."""
        return 0.0
