"""JSON on disk: written beside and renamed, so that a file is whole or absent; kinds and versions
checked on reading."""

import hashlib
import json
import os
import re
from contextlib import contextmanager
from pathlib import Path

from utils.runtime.errors import DataError

VERSION = 1
# a surrogate that stands for no byte of a file name: what is left of an emoji that was cut in two
HALF_CHARACTER = re.compile("[\ud800-\udc7f\udd00-\udfff]")


@contextmanager
def whole_file(path):
    """Yield a path beside `path` to write to; on success it is flushed and renamed over `path`,
    else removed."""
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


def write_text(path, text):
    """Write UTF-8 text whole; bytes of a file name that are not UTF-8 stay as they are, half a
    character becomes U+FFFD."""
    with whole_file(path) as part:
        part.write_text(
            HALF_CHARACTER.sub("\ufffd", text), encoding="utf-8", errors="surrogateescape"
        )


def write_json(path, data):
    """Write JSON whole. Strings may hold anything; a NaN is an error, as JSON has none."""
    # in ASCII: a file name may not be UTF-8
    write_text(path, json.dumps(data, indent=1, allow_nan=False) + "\n")


def read_json(path):
    """Read a JSON file; DataError with path and position if it cannot be."""
    path = Path(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:  # UnicodeDecodeError and JSONDecodeError both are
        raise DataError(f"{path}: is not JSON ({error})") from None


def file_sha256(path):
    """SHA-256 of a file's bytes, in hexadecimal, read piece by piece."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def write_manifest(path, kind, **fields):
    """Write {"kind": kind, "version": 1, **fields}."""
    write_json(path, {"kind": kind, "version": VERSION, **fields})


def read_manifest(path, kind):
    """Read a manifest of the given kind; DataError on another kind or a version newer than this
    toolkit's."""
    data = read_json(path)
    if not isinstance(data, dict) or data.get("kind") != kind:
        found = data.get("kind") if isinstance(data, dict) else type(data).__name__
        raise DataError(f"{path}: holds {found!r}; a manifest of kind {kind!r} is needed")
    if not isinstance(data.get("version"), int) or not 1 <= data["version"] <= VERSION:
        raise DataError(
            f"{path}: version {data.get('version')!r}; this toolkit reads versions 1 to {VERSION},"
            " update it"
        )
    return data
