"""Files that hold the weights of a network: which of a folder's are read, the names and shapes of
their tensors, and the tensors themselves. Of a pickle nothing but tensors is ever loaded."""

from __future__ import annotations

import hashlib
import json
import re
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from utils.runtime.errors import DataError, first_line

if TYPE_CHECKING:
    import torch

# as diffusers and transformers name them, whole or in parts, with the variant before or behind the
# part's number
NAME = re.compile(
    r"(?:diffusion_pytorch_model|pytorch_model|model)(?:\.(?P<variant>[A-Za-z]\w*))?"
    r"(?:-(?P<part>\d{5})-of-(?P<parts>\d{5})(?:\.(?P<behind>[A-Za-z]\w*))?)?"
    r"\.(?P<format>safetensors|bin)"
)
BLOCK = 2**16  # bytes of a fingerprint's block
LARGEST_HEADER = 100 * 2**20  # bytes; the format's own limit
# what torch.compile and data-parallel training put before names
COMPILED, WRAPPED = "_orig_mod.", "module."


@dataclass(frozen=True)
class WeightFiles:
    """The files of a network's weights."""

    paths: tuple[Path, ...]  # one, or all parts in order
    variant: str | None  # such as fp16; None: the files have none in their names
    # whether a library, given the folder and the variant, reads these files and no others
    plain: bool

    @property
    def pickled(self) -> bool:
        """Whether they are in torch's format, which pickles."""
        return self.paths[0].suffix == ".bin"


def _sets(folder: Path) -> dict[tuple[str | None, str, int], dict[int, Path]]:
    """{(variant, format, number of parts; 0 of a whole file): {part: path}} of a folder."""
    found: dict[tuple[str | None, str, int], dict[int, Path]] = {}
    for path in sorted(folder.iterdir()):
        match = NAME.fullmatch(path.name)
        if match and path.is_file():
            variant = match["variant"] or match["behind"]
            key = (variant, match["format"], int(match["parts"] or 0))
            found.setdefault(key, {})[int(match["part"] or 0)] = path
    return found


def variants_in(folder: str | Path) -> list[str | None]:
    """The variants of which a folder holds weights, such as [None, "fp16"]."""
    variants = {variant for variant, _, _ in _sets(Path(folder))}
    return sorted(variants, key=lambda variant: (variant is not None, variant or ""))


def of_variant(folder: str | Path, variant: str | None) -> WeightFiles | None:
    """A folder's files of one variant: safetensors before torch's format, a whole file before its
    parts. None if there are none; DataError if parts are missing."""
    sets = {key: parts for key, parts in _sets(Path(folder)).items() if key[0] == variant}
    if not sets:
        return None
    # "safetensors" is behind "bin" in the alphabet
    best = min(sets, key=lambda key: (key[1] != "safetensors", key[2]))
    parts, count = sets[best], best[2]
    absent = sorted(set(range(1, count + 1)) - set(parts))
    if absent:
        raise DataError(
            f"{folder}: {len(absent)} of {count} parts of the weights are missing, the first"
            f" {absent[0]} of {count}; copy the whole folder again"
        )
    rivals = [key for key in sets if key[1] == best[1]]
    # a library needs the index of parts, and would look for the parts that a stale one names
    fits = any(Path(folder).glob("*.index*.json")) == (count > 0)
    return WeightFiles(
        tuple(parts[number] for number in sorted(parts)),
        variant,
        plain=len(rivals) == 1 and best[1] == "safetensors" and fits,
    )


# What is in a file --------------------------------------------------------------------------------


def shapes(path: str | Path) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors of a .safetensors file, by name, from its header alone. DataError if
    the file has no such header."""
    try:
        with open(path, "rb") as file:
            length = struct.unpack("<Q", file.read(8))[0]
            header = json.loads(file.read(min(length, LARGEST_HEADER)))
        return {
            name: tuple(entry["shape"]) for name, entry in header.items() if name != "__metadata__"
        }
    except (OSError, ValueError, struct.error, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path}: is not a whole .safetensors file ({first_line(error, 120)}); copy it again"
        ) from None


def clean(name: str) -> str:
    """The name of a tensor without what torch.compile and data-parallel training put into it."""
    return name.replace(COMPILED, "").removeprefix(WRAPPED)


def has_prefixes(names: Iterable[str]) -> bool:
    """Whether any of the names is not a clean one."""
    return any(clean(name) != name for name in names)


def read(path: str | Path, *, shapes_only: bool = False) -> dict[str, torch.Tensor]:
    """The tensors of a file by name, on the CPU; of a checkpoint those under `state_dict`.

    shapes_only: read no values; the tensors are on the device "meta".
    DataError if the file is damaged, or is a pickle of more than tensors, which is not opened."""
    from pickle import UnpicklingError

    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = Path(path)
    if path.suffix == ".safetensors":
        if shapes_only:
            return {name: torch.empty(s, device="meta") for name, s in shapes(path).items()}
        try:
            return load_file(path)
        except (OSError, SafetensorError) as error:
            raise DataError(f"{path}: cannot be read ({first_line(error, 120)})") from None
    try:
        place = "meta" if shapes_only else "cpu"
        state = torch.load(path, map_location=place, weights_only=True)
    except UnpicklingError:
        raise DataError(
            f"{path}: is a pickle that holds more than tensors, and could run code; it is not"
            " opened; use weights in the format safetensors"
        ) from None
    except (OSError, RuntimeError, ValueError, EOFError, KeyError) as error:
        raise DataError(f"{path}: cannot be read ({first_line(error, 120)})") from None
    return _tensors(path, state)


def _tensors(path: Path, state: object) -> dict[str, torch.Tensor]:
    import torch

    inner = state.get("state_dict", state) if isinstance(state, dict) else state
    kept = (
        {name: value for name, value in inner.items() if isinstance(value, torch.Tensor)}
        if isinstance(inner, dict)
        else {}
    )
    if not kept:
        raise DataError(f"{path}: holds no tensors by name; use a file of weights")
    return kept


def write(path: str | Path, state: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors to a .safetensors file whose bytes follow from them and the metadata alone: the
    library writes metadata in a random order. state: contiguous tensors on the CPU by name."""
    from safetensors.torch import save_file

    save_file(dict(state), path, metadata=dict(metadata))
    with open(path, "r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        assert len(text) <= length  # the same text in another order
        file.seek(8)
        file.write(text.ljust(length))


def fingerprint(paths: Iterable[str | Path]) -> str:
    """A hash of files that does not read gigabytes: the size of each and up to 65 blocks of it,
    evenly spread, with the first and the last one. Returns: 16 hex digits."""
    digest = hashlib.sha256()
    for path in paths:
        size = Path(path).stat().st_size
        digest.update(size.to_bytes(8, "little"))
        with open(path, "rb") as file:
            for place in sorted({size * i // 64 for i in range(64)} | {max(0, size - BLOCK)}):
                file.seek(place)
                digest.update(file.read(BLOCK))
    return digest.hexdigest()[:16]


def not_finite(state: Mapping[str, torch.Tensor]) -> list[str]:
    """Names of the tensors that hold a value which is not finite, in order. One pass over all
    values."""
    import torch

    found = []
    for name, tensor in state.items():
        if tensor.is_floating_point() and tensor.numel():
            low, high = torch.aminmax(tensor.detach())  # NaN if any value is
            if not (torch.isfinite(low) and torch.isfinite(high)):
                found.append(name)
    return found
