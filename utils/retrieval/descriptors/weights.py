"""Files of weights: found, downloaded, read without unpickling, fitted to a model; or an error that
helps."""

import hashlib
import os
from pathlib import Path

from utils.files import downloads
from utils.files.whole_files import whole_file
from utils.runtime.errors import DataError, UsageError, first_line, require_file

FOLDER = Path("pretrainedmodels")


class WeightsMissingError(UsageError):
    """Weights that are not here and could not be fetched: a metric that needs them is left out
    unless it was named."""


def _fetch(address, path):
    """Download a file from its authors' address, whole; one attempt, 5 s to connect. OSError or
    DataError if it fails."""
    if os.environ.get("HF_HUB_OFFLINE"):
        raise OSError("HF_HUB_OFFLINE is set")
    with whole_file(path) as part:
        downloads.fetch(address, part, waits=())
        require_no_page(part, name=address)


def find(flag, given, *, name, address, what, otherwise):
    """Path of a file of weights: the one given, else pretrainedmodels/<name>, else downloaded from
    its authors there.

    flag: that names such a file; what: that needs it, otherwise: what else can be done, both for
    the error. WeightsMissingError names file, address and what to do."""
    if given:
        return require_no_page(require_file(flag, given))
    path = FOLDER / name
    if not path.is_file():
        try:
            _fetch(address, path)
        except (OSError, DataError) as error:
            why = first_line(str(error).removeprefix(f"{address}: "), 120)
            raise WeightsMissingError(
                f"{what} needs {path}; it is not there and {address} could not be read ({why}); put"
                f" the file there, or name one with {flag}, or {otherwise}"
            ) from None
    return require_no_page(path)


def require_no_page(path, name=None):
    """The path; DataError if the file is a web page, as a download behind a login or a dead link
    leaves."""
    if downloads.is_web_page(path):
        raise DataError(
            f"{name or path}: is a web page saved as weights; download the file itself again"
        )
    return path


def read(path):
    """Tensors of a .safetensors file or of torch's format, by name; nothing is unpickled. DataError
    if it is neither."""
    from pickle import UnpicklingError

    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    require_no_page(path)
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
    return state


def load(model, state, path):
    """Load what was read from path, of the model's names, or its order and shapes under other
    names; DataError otherwise."""
    own = model.state_dict()
    values = [state[name] for name in own] if set(own) == set(state) else list(state.values())
    if [tuple(v.shape) for v in values] != [tuple(v.shape) for v in own.values()]:
        raise DataError(
            f"{path}: has {len(state)} tensors that do not fit the {len(own)} of the model"
        )
    model.load_state_dict(dict(zip(own, values, strict=True)))


def state_sha256(model):
    """SHA-256 over a model's tensors in order, hex; for weights that came without a file of ours to
    hash."""
    digest = hashlib.sha256()
    for tensor in model.state_dict().values():
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
