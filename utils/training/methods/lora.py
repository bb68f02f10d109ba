"""LoRA: low-rank adapters learn on a model that stays as it is."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from utils.files import adapter_folder
from utils.files.adapter_folder import Base
from utils.models import adapters, fingerprints, quantized
from utils.training import factor_averages
from utils.training.methods.base import Method

if TYPE_CHECKING:
    from utils.models.adapters import AdapterShape
    from utils.models.parts import Parts
    from utils.training.steps.base import Step

LAYERS, KOHYA = "--lora_layers", "--output_kohya_format"


def layers_of(text: str | None) -> tuple[str, ...] | None:
    """The names that --lora_layers lists; None without the flag."""
    if text is None:
        return None
    return tuple(name.strip() for name in text.split(",") if name.strip())


@dataclass(frozen=True)
class Adapting:
    """How a run adapts its model."""

    shape: AdapterShape
    seed: int  # of the adapters' start
    layers: tuple[str, ...] | None = None  # of the denoiser; None: those of the family
    kohya: bool = False  # whether checkpoints hold a file with kohya's names too
    base_format: str | None = None  # of the denoiser's own weights, in quantized.FORMATS


class Lora(Method):
    """Adapters learn, in float32; the model is in the precision in which the run computes, and is
    never copied. A checkpoint is the adapter with the name of the model that it changes."""

    measures_average = True

    def __init__(self, adapting: Adapting, source: str, files: Mapping[str, str]):
        """source: of the model, as it was given; files: {flag: value} of the flags that choose
        among its files."""
        self.adapting = adapting
        self.draws_globally = adapting.shape.dropout > 0
        self.base = Base(source, "", {}, files)  # the rest is known once it is loaded

    def base_dtype(self, dtype: torch.dtype) -> torch.dtype:
        """That in which the run computes."""
        return dtype

    def size(
        self, name: str, network: torch.nn.Module, step: type[Step], dtype: torch.dtype
    ) -> tuple[int, int]:
        """The adapters learn beside the network's own weights."""
        learns, rests = adapters.count(network, self.adapting.shape, self._layers(name, step))
        kept = None if name.startswith("text_encoder") else self.adapting.base_format
        own = quantized.weight_bytes(network, self.base_dtype(dtype), kept)
        return learns, own + rests * 4

    def prepare(self, modules: Mapping[str, torch.nn.Module], parts: Parts, step: Step) -> None:
        """Put adapters into the networks, whose fingerprints are taken before, and keep the
        denoiser's own weights in the format that was chosen. UsageError for layers that a network
        does not have."""
        class_name = type(parts.pipeline).__name__
        if self.adapting.kohya:
            adapters.require_kohya(KOHYA, class_name, list(modules))
        taken = {name: fingerprints.in_precisions(module) for name, module in modules.items()}
        self.base = dataclasses.replace(self.base, class_name=class_name, fingerprints=taken)
        if self.adapting.base_format is not None:
            quantized.quantize(parts.denoiser, self.adapting.base_format)
        for name, module in modules.items():
            layers = self._layers(name, step)
            if layers is self.adapting.layers:  # a family's may be missing in a small network
                adapters.require_layers(LAYERS, module, layers)
            adapters.inject(module, self.adapting.shape, layers, seed=self.adapting.seed, part=name)

    def _layers(self, network: str, step: Step | type[Step]) -> Sequence[str]:
        if network.startswith("text_encoder"):
            return step.encoder_lora_layers
        return self.adapting.layers or step.lora_layers

    def weights(self, modules: Mapping[str, torch.nn.Module]) -> dict[str, torch.nn.Parameter]:
        """The factors that learn, and DoRA's magnitudes."""
        return {
            f"{network}.{name}": parameter
            for network, module in modules.items()
            for name, parameter in adapters.weights_of(module).items()
        }

    def base_of(
        self, module: torch.nn.Module
    ) -> Callable[[], contextlib.AbstractContextManager[torch.nn.Module]]:
        """The network itself with its adapters off; no weight is copied."""
        return functools.partial(adapters.off, module)

    def save(self, pipeline: Any, folder: Path) -> None:
        """Write the adapter's files, and adapter.json with the model that it changes."""
        folder.mkdir(parents=True, exist_ok=True)
        networks = {name: getattr(pipeline, name) for name in self.base.fingerprints}
        adapters.save(folder / adapter_folder.WEIGHTS, networks)
        if self.adapting.kohya:
            names = [name for name in pipeline.components if name.startswith("text_encoder")]
            encoders = sum(pipeline.components[name] is not None for name in names)
            path = folder / adapter_folder.KOHYA_WEIGHTS
            adapters.save_kohya(path, networks, encoders=encoders)
        shape = self.adapting.shape
        adapter_folder.write_record(
            folder, self.base, rank=shape.rank, alpha=shape.alpha, dora=shape.dora
        )

    def average_error(
        self,
        copies: Sequence[Mapping[str, torch.Tensor]],
        shares: Sequence[float],
        start: Mapping[str, torch.Tensor],
    ) -> float:
        """What averaging the factors loses, as factor_averages.relative_error. With A frozen
        nothing: then the mean of the products is the product of the means."""
        if self.adapting.shape.freeze_down:
            return 0.0
        pairs = [adapters.factors_of(copy) for copy in (*copies, start)]
        return factor_averages.relative_error(pairs[:-1], shares, pairs[-1])
