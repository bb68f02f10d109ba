"""Loads the networks of a pipeline's folder, and looks at what the libraries report of it: a name
that is missing would leave weights drawn at random."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.files import weight_files
from utils.files.weight_files import WeightFiles
from utils.runtime.errors import DataError

if TYPE_CHECKING:
    import torch
    from torch.nn import Module

Say = Callable[[str], None]
LIBRARIES = ("diffusers", "transformers")


@dataclass(frozen=True)
class Report:
    """What did not fit when weights were loaded into a network."""

    total: int  # tensors of the network
    missing: list[str]  # names of the network that the file lacks
    unexpected: list[str]  # names of the file that the network lacks
    mismatched: list[str]  # names whose shapes differ, with both shapes


def silent() -> contextlib.AbstractContextManager[None]:
    """Silence what the libraries print of a load, which `require_fit` says in a line."""
    return _silent()


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    import diffusers.utils.logging
    import transformers.utils.logging

    libraries = (diffusers.utils.logging, transformers.utils.logging)
    levels = [each.get_verbosity() for each in libraries]
    for each in libraries:
        each.set_verbosity(50)  # CRITICAL
    try:
        yield
    finally:
        for each, level in zip(libraries, levels, strict=True):
            each.set_verbosity(level)


def require_fit(file: str | Path, report: Report) -> None:
    """Raise DataError, in one line, if a report names anything that did not fit. file: that was
    loaded."""
    said = []
    if report.missing:
        said.append(
            f"{len(report.missing)} of {report.total} names are missing, the first"
            f" {sorted(report.missing)[0]!r}"
        )
    if report.unexpected:
        said.append(
            f"{len(report.unexpected)} names belong to no weights of the network, the first"
            f" {sorted(report.unexpected)[0]!r}"
        )
    if report.mismatched:
        said.append(
            f"{len(report.mismatched)} shapes differ, the first {sorted(report.mismatched)[0]}"
        )
    if said:
        raise DataError(
            f"{file}: does not fit the network that its configuration describes:"
            f" {'; '.join(said)}; use the weights and the config.json of one model"
        )


def require_finite(file: str | Path, network: Module) -> None:
    """Raise DataError if a network holds weights that are not finite. file: that was loaded."""
    import torch

    state = network.state_dict()
    found = weight_files.not_finite(state)
    if found:
        half = {state[name].dtype for name in found} - {torch.float32}
        kind = f" as {str(half.pop()).removeprefix('torch.')}" if half else ""
        raise DataError(
            f"{file}: {len(found)} of {len(state)} tensors hold values that are not finite{kind},"
            f" the first {found[0]!r}; use other weights"
        )


def require_whole(file: str | Path, part: str, network: Module) -> None:
    """Raise DataError if a library left weights of a network empty, or they are not finite.

    file: that was loaded; part: of the pipeline."""
    state = network.state_dict()
    missing = [f"{part}.{name}" for name, tensor in state.items() if tensor.is_meta]
    require_fit(file, Report(len(state), missing, [], []))
    require_finite(file, network)


def _different(state: Mapping[str, torch.Tensor], own: Mapping[str, torch.Tensor]) -> list[str]:
    return [
        _differs(name, state[name].shape, own[name].shape)
        for name in own
        if name in state and state[name].shape != own[name].shape
    ]


def _differs(name: str, of_file: Any, of_network: Any) -> str:
    return f"{name!r} (file {list(of_file)}, network {list(of_network)})"


def _from_folder(cls: Any, folder: Path, files: WeightFiles, dtype: torch.dtype) -> Module:
    """The network as its library loads the folder. DataError unless all weights fit."""
    network, said = cls.from_pretrained(
        folder,
        variant=files.variant,
        use_safetensors=True,
        dtype=dtype,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # so that they are reported, as missing names are
    )
    report = Report(
        total=len(network.state_dict()),
        missing=list(said["missing_keys"]),
        unexpected=list(said["unexpected_keys"]),
        mismatched=[_differs(*each) for each in said["mismatched_keys"]],
    )
    require_fit(files.paths[0], report)
    return network


def from_state(
    cls: Any,
    folder: str | Path,
    state: dict[str, torch.Tensor],
    *,
    dtype: torch.dtype,
    file: str | Path,
    part: str = "",
) -> Module:
    """The network of a configuration with given weights, on the CPU, in evaluation mode.

    cls: its class; folder: of config.json, or with `part` the folder or the hub name of the
    pipeline; state: {name: tensor}; file: that they were read from. DataError unless all weights
    fit."""
    import transformers

    if issubclass(cls, transformers.PreTrainedModel):
        network, said = cls.from_pretrained(
            None,
            config=cls.config_class.from_pretrained(folder, subfolder=part),
            state_dict=state,
            dtype=dtype,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
        report = Report(
            len(network.state_dict()),
            list(said["missing_keys"]),
            list(said["unexpected_keys"]),
            [_differs(*each) for each in said["mismatched_keys"]],
        )
        require_fit(file, report)
        return network
    return _diffusers_from_state(
        cls, cls.load_config(folder, subfolder=part or None), state, dtype=dtype, file=file
    )


def _diffusers_from_state(
    cls: Any,
    config: dict[str, Any],
    state: dict[str, torch.Tensor],
    *,
    dtype: torch.dtype,
    file: str | Path,
) -> Module:
    from accelerate import init_empty_weights

    with init_empty_weights():
        network = cls.from_config(config)
    network._fix_state_dict_keys_on_load(state)  # names of old autoencoders
    own = network.state_dict()
    report = Report(
        len(own),
        [name for name in own if name not in state],
        [name for name in state if name not in own],
        _different(state, own),
    )
    require_fit(file, report)
    for name in list(state):
        value = state.pop(name)
        state[name] = value.to(dtype if value.is_floating_point() else value.dtype).contiguous()
    network.load_state_dict(state, assign=True)
    network.register_to_config(_name_or_path=str(file))
    return network.eval()


def load_network(
    cls: Any, folder: str | Path, files: WeightFiles, *, dtype: torch.dtype, say: Say
) -> Module:
    """Load a network of diffusers or transformers onto the CPU, in evaluation mode.

    cls: its class; folder: of its config.json; files: of its weights; say: prints a line.
    DataError, in one line, if a name is missing or unknown, a shape differs, a value is not finite,
    or a file cannot be read. Names with the prefixes of torch.compile and of data-parallel training
    are taken without them, and a line says so."""
    folder, first = Path(folder), files.paths[0]
    prefixed = not files.pickled and any(
        weight_files.has_prefixes(weight_files.shapes(path)) for path in files.paths
    )
    with silent():
        if files.plain and not prefixed:
            network = _from_folder(cls, folder, files, dtype)
        else:
            state: dict[str, torch.Tensor] = {}
            for path in files.paths:
                state |= weight_files.read(path)
            prefixed = prefixed or weight_files.has_prefixes(state)
            state = {weight_files.clean(name): state[name] for name in list(state)}
            network = from_state(cls, folder, state, dtype=dtype, file=first)
    if prefixed:
        say(f"{first}: its names have a prefix of torch.compile or of data-parallel training")
    if files.pickled:
        say(f"{first}: is in torch's pickled format; only its tensors were read")
    require_finite(first, network)
    return network


# The networks of a pipeline -----------------------------------------------------------------------


def network_classes(index: Mapping[str, Any]) -> dict[str, Any]:
    """{part: class} of the networks that a pipeline consists of, without its safety checker.

    index: its model_index.json."""
    import torch

    found = {}
    for part, entry in index.items():
        known = isinstance(entry, list) and len(entry) == 2 and entry[0] in LIBRARIES
        if known and part != "safety_checker":
            cls = getattr(importlib.import_module(entry[0]), entry[1], None)
            if isinstance(cls, type) and issubclass(cls, torch.nn.Module):
                found[part] = cls
    return found


def of_pipeline(pipeline: Any) -> dict[str, Module]:
    """{part: network} of a loaded pipeline."""
    import torch

    return {
        part: each
        for part, each in pipeline.components.items()
        if isinstance(each, torch.nn.Module)
    }
