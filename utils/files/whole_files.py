"""Write files that are complete or absent, never half-written, and JSON manifests with a kind and a
version.

A file is written under a temporary name beside its own and renamed, so that no reader ever sees
half of it."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from utils.files import text_files
from utils.runtime.errors import DataError

VERSION = 1  # of the manifests that this toolkit writes, and the newest that it reads
# Lone UTF-16 surrogates, as an emoji that was cut in two leaves one. Not among them: 0xDC80 to
# 0xDCFF, by which "surrogateescape" stands for bytes of a file name that are not UTF-8.
LONE_SURROGATE = re.compile("[\ud800-\udc7f\udd00-\udfff]")


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path to write to; rename it over `path` when the block succeeds.

    The file is flushed to disk before it is renamed, and removed when the block fails. Missing
    parent folders are created."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        with open(part, "rb") as handle:
            os.fsync(handle.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write a whole UTF-8 file.

    Bytes of file names that are not UTF-8 are written as they are; a lone UTF-16 surrogate becomes
    U+FFFD."""
    with whole_file(path) as part:
        part.write_text(
            LONE_SURROGATE.sub("\ufffd", text), encoding="utf-8", errors="surrogateescape"
        )


def write_json(path: str | Path, data: Any) -> None:
    """Write a whole JSON file. ValueError for NaN and infinities, which JSON does not have."""
    # ASCII, because strings may hold file names that are not UTF-8
    write_text(path, json.dumps(data, indent=1, allow_nan=False) + "\n")


def read_json(path: str | Path) -> Any:
    """Read a JSON file; DataError with the path and the position of the fault if it is not
    valid."""
    return text_files.read_json(path)


def file_sha256(path: str | Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal. The file is read in blocks."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def write_manifest(path: str | Path, kind: str, **fields: Any) -> None:
    """Write a manifest: {"kind": kind, "version": 1, **fields}."""
    write_json(path, {"kind": kind, "version": VERSION, **fields})


def read_manifest(path: str | Path, kind: str) -> dict[str, Any]:
    """Read a manifest; DataError if it is of another kind or newer than this toolkit."""
    data = read_json(path)
    if not isinstance(data, dict) or data.get("kind") != kind:
        actual = data.get("kind") if isinstance(data, dict) else type(data).__name__
        raise DataError(f"{path}: holds {actual!r}; a manifest of kind {kind!r} is needed")
    if not isinstance(data.get("version"), int) or not 1 <= data["version"] <= VERSION:
        raise DataError(
            f"{path}: version {data.get('version')!r}; this toolkit reads versions 1 to {VERSION},"
            " update it"
        )
    return data
