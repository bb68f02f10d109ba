"""Files of weights: locate or download them, read them without unpickling, load them into a model;
or raise an error that says what to do."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from utils.files import downloads, weight_files
from utils.files.whole_files import whole_file
from utils.runtime.errors import DataError, UsageError, first_line, require_file

if TYPE_CHECKING:
    import torch

FOLDER = Path("pretrainedmodels")


class WeightsMissingError(UsageError):
    """Weights that are not on this machine and could not be downloaded. A metric that needs them is
    skipped unless --metrics names it."""


def _fetch(address: str, path: Path) -> None:
    """Download a whole file from its authors' address, in one attempt with 5 s to connect. OSError
    or DataError if that fails."""
    if os.environ.get("HF_HUB_OFFLINE"):
        raise OSError("HF_HUB_OFFLINE is set")
    with whole_file(path) as part:
        downloads.fetch(address, part, waits=())
        require_no_page(part, name=address)


def find(
    flag: str, given: str | None, *, name: str, address: str, what: str, otherwise: str
) -> Path:
    """Path of a file of weights: the given one, else pretrainedmodels/<name>, which is downloaded
    from its authors if it is missing.

    flag: that names such a file
    given: its value
    address: of its authors' file
    what: needs the file, for the error
    otherwise: what else can be done, for the error

    WeightsMissingError names the file, the address and what to do."""
    if given:
        return require_no_page(require_file(flag, given))
    path = FOLDER / name
    if not path.is_file():
        try:
            _fetch(address, path)
        except (OSError, DataError) as error:
            why = first_line(str(error).removeprefix(f"{address}: "), 120)
            raise WeightsMissingError(
                f"{what} needs {path}, which is missing, and {address} could not be read ({why});"
                f" put the file there, or name one with {flag}, or {otherwise}"
            ) from None
    return require_no_page(path)


def require_no_page(path: Path, name: str | None = None) -> Path:
    """Return the path; DataError if the file is a web page, which a login form or a dead link
    delivers. name: of the file, for the error."""
    if downloads.is_web_page(path):
        raise DataError(
            f"{name or path}: is a web page saved as weights; download the file itself again"
        )
    return path


def read(path: str | Path) -> Mapping[str, torch.Tensor]:
    """Read the tensors of a .safetensors file, or of one in torch's format, by name, without the
    prefixes of compiled and of data-parallel models. Nothing is unpickled. DataError if the file
    holds anything else, or values that are not finite."""
    from pickle import UnpicklingError

    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    require_no_page(Path(path))
    try:
        if Path(path).suffix == ".safetensors":
            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except (
        OSError,
        RuntimeError,
        ValueError,
        EOFError,
        KeyError,
        UnpicklingError,
        SafetensorError,
    ) as error:
        raise DataError(
            f"{path}: is not a file of weights alone ({first_line(error, 120)})"
        ) from None
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if (
        not isinstance(state, dict)
        or not state
        or not all(isinstance(v, torch.Tensor) for v in state.values())
    ):
        raise DataError(
            f"{path}: is not a file of weights alone (it holds {type(state).__name__}, not tensors"
            " by name)"
        )
    return require_finite({weight_files.clean(name): state[name] for name in state}, path)


def require_finite(
    state: Mapping[str, torch.Tensor], path: str | Path
) -> Mapping[str, torch.Tensor]:
    """Return the tensors; DataError if any holds a value that is not finite: its vectors would
    match nothing. path: that they were read from, for the error."""
    found = weight_files.not_finite(state)
    if found:
        raise DataError(
            f"{path}: {len(found)} of {len(state)} tensors hold values that are not finite, the"
            f" first {found[0]!r}; use other weights"
        )
    return state


def load(model: torch.nn.Module, state: Mapping[str, torch.Tensor], path: str | Path) -> None:
    """Load tensors into a model. They have the model's names, or its order and shapes under other
    names; DataError otherwise.

    path: that they were read from, for the error"""
    own = model.state_dict()
    values = [state[name] for name in own] if set(own) == set(state) else list(state.values())
    if [tuple(v.shape) for v in values] != [tuple(v.shape) for v in own.values()]:
        raise DataError(
            f"{path}: has {len(state)} tensors that do not fit the {len(own)} of the model"
        )
    model.load_state_dict(dict(zip(own, values, strict=True)))


def state_sha256(model: torch.nn.Module) -> str:
    """SHA-256 over a model's tensors in order, in hexadecimal; for weights that a library loaded,
    without a file that we could hash."""
    digest = hashlib.sha256()
    for tensor in model.state_dict().values():
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
