"""What an evaluation measured, as the metrics read it.

Q is the number of generated images, M of training images, k of matches that are kept for each
generated image, D the length of a feature vector."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from utils.retrieval.evaluation_request import MetricFlags
from utils.retrieval.formulas.complexity import Complexity
from utils.retrieval.second_look import SecondLook

if TYPE_CHECKING:
    import torch

NO_RUN = "which training images are duplicated is not known; name the training run with --run"
NO_PROMPTS = (
    "no image has a prompt: the folder has neither manifest.json nor a prompts.txt that fits, and"
    " no picture brings its own"
)
NO_IMAGES = "an index holds one descriptor an image; give a folder or tar shards as --val_dir"


class CannotMeasureError(Exception):
    """A metric lacks what it needs; the message says what. The metric is skipped with one line, or
    the evaluation stops if --metrics names it."""


@dataclass(frozen=True)
class Matches:
    """The best training images of every generated image, the best first."""

    indices: np.ndarray  # [Q, k] int64, of training images
    scores: np.ndarray  # [Q, k] float32, similarity to them
    threshold: float | None = None  # score above which a generation is a copy; None: not known
    chunks: int = 1  # parts that each descriptor was cut into for the comparison

    @property
    def best(self) -> np.ndarray:
        """The similarity of every generated image to its best match. [Q]."""
        return self.scores[:, 0]


@dataclass(frozen=True)
class Origins:
    """What is known of the prompt of every generated image, and of the training images."""

    prompts: list[str]  # [Q], the clusters of the bootstrap; an image without a prompt has its own
    sources: np.ndarray  # [Q] int64, the prompt's own training image; -1 where it has none
    source_scores: np.ndarray  # [Q] float64, similarity to it; nan where the prompt has none
    duplicated: np.ndarray | None  # [M] bool, drawn more often in training; None: not known

    def is_duplicated(self, image: int) -> bool | None:
        """Whether a training image was drawn more often; None if that is not known."""
        return None if self.duplicated is None else bool(self.duplicated[image])


@dataclass(frozen=True)
class NetworkFeatures:
    """What the networks of the metrics computed."""

    # name of a network -> features [Q, D] and [M, D]; None for the training images of an index
    pairs: dict[str, tuple[torch.Tensor, torch.Tensor | None]] = field(default_factory=dict)
    # name of a network -> features [N, D] of innocents that are pictures of their own, where a
    # metric compares with them
    innocents: dict[str, torch.Tensor] = field(default_factory=dict)
    # key of metrics.json -> cosine of image and prompt, [Q] or [M]; nan where there is no prompt
    cosines: dict[str, np.ndarray] = field(default_factory=dict)
    # metric -> why it cannot be computed
    missing: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class OnDemand:
    """Values that are computed when a metric or a file first needs them."""

    background: Callable[[], np.ndarray]  # [M], every training image's best match but itself
    complexity: Callable[[], Complexity]  # of every generated image's best match
    write_matrix: Callable[[str | Path], None] | None = None  # all scores, into that file


@dataclass(frozen=True)
class Measured:
    """What the metrics read."""

    matches: Matches
    origins: Origins
    networks: NetworkFeatures
    on_demand: OnDemand
    flags: MetricFlags
    second_look: SecondLook | None = None  # None: alignment did not run
    device: torch.device | str = "cpu"  # that compares images
    _computed: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def background(self) -> np.ndarray:
        """The similarity of every training image to its best match other than itself. [M]."""
        return self._once("background", self.on_demand.background)

    @property
    def complexity(self) -> Complexity:
        """The complexity of every generated image's best match; three arrays [Q]."""
        return self._once("complexity", self.on_demand.complexity)

    @property
    def has_complexity(self) -> bool:
        """Whether the complexity was computed."""
        return "complexity" in self._computed

    def _once(self, name: str, compute: Callable[[], Any]) -> Any:
        if name not in self._computed:
            self._computed[name] = compute()
        return self._computed[name]

    def pair(self, network: str | None, metric: str) -> tuple[torch.Tensor, torch.Tensor]:
        """The features of both sets by a network. Returns: [Q, D], [M, D].

        network: its name, or None if the metric's networks were not built
        metric: for the reason why it is missing

        CannotMeasureError if there are no features, or an index, which holds no features of its
        images."""
        missing = self.networks.missing
        if network is None or network not in self.networks.pairs:
            raise CannotMeasureError(missing.get(metric, "its features were not computed"))
        generated, reference = self.networks.pairs[network]
        if reference is None:
            raise CannotMeasureError(NO_IMAGES)
        return generated, reference
