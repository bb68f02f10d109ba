"""Folder of a LoRA checkpoint: the adapter's weights, and beside them a record of the base model
that they were trained on."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from utils.files import whole_files

WEIGHTS = "pytorch_lora_weights.safetensors"  # the name that diffusers looks for
KOHYA_WEIGHTS = "pytorch_lora_weights_kohya.safetensors"  # as its training scripts call it
RECORD = "adapter.json"


@dataclass(frozen=True)
class Base:
    """The base model of an adapter."""

    source: str  # pipeline folder, file or hub name, as it was given to training
    class_name: str  # of its pipeline
    # {part: {dtype: fingerprint of its weights in that dtype}}, of the networks that were adapted
    fingerprints: Mapping[str, Mapping[str, str]]
    # {flag: value} of the flags that choose among its files, as far as they were given
    files: Mapping[str, str] = field(default_factory=dict)
    is_path: bool = False  # whether it was a folder or a file, not a name on the hub


@dataclass(frozen=True)
class Adapter:
    """A LoRA checkpoint on disk."""

    path: Path  # its folder
    record: Mapping[str, Any]  # the contents of adapter.json

    @property
    def weights(self) -> Path:
        """The file of its weights."""
        return self.path / WEIGHTS

    @property
    def base(self) -> Base:
        """The base model. A folder or file is looked for where it lay relative to the adapter, so
        that both can be moved together, then under the name that training was given."""
        given = self.record["base"]
        source, place = given["source"], given.get("place")
        moved = None if place is None else os.path.normpath(self.path.resolve() / place)
        if moved is not None and os.path.exists(moved):
            source = source if Path(source).resolve() == Path(moved) else moved
        return Base(
            source,
            given["class"],
            given["fingerprints"],
            given["files"],
            is_path=place is not None,
        )


def write_record(folder: Path, base: Base, **facts: Any) -> None:
    """Write adapter.json into a folder. facts: further ones, of JSON types, such as the rank."""
    local = Path(base.source).exists()
    entry = {
        "source": base.source,
        # a checkpoint is written beside its final place, at the same depth
        "place": os.path.relpath(Path(base.source).resolve(), folder.resolve()) if local else None,
        "class": base.class_name,
        "fingerprints": base.fingerprints,
        "files": base.files,
    }
    whole_files.write_manifest(folder / RECORD, "adapter", base=entry, **facts)


def open_adapter(path: str | Path) -> Adapter | None:
    """The LoRA checkpoint that a folder, or the file of weights in it, belongs to; None if it is
    none. DataError if its record is broken, or newer than this toolkit."""
    path = Path(path)
    folder = path.parent if path.is_file() and path.name in (WEIGHTS, KOHYA_WEIGHTS) else path
    record = folder / RECORD
    if not record.is_file():
        return None
    return Adapter(folder, whole_files.read_manifest(record, "adapter"))
