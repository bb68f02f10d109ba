"""Folders that the toolkit writes: whether one can be written, whether it is ours, and putting it
in place whole."""

import os
import shutil
from pathlib import Path

from utils.runtime.errors import UsageError


def require_writable(flag, path):
    """UsageError unless `path` is a folder or could be made: what exists of it is a folder that can
    be written to."""
    path = Path(path)
    above = path
    while not above.exists() and above != above.parent:
        above = above.parent
    if not above.is_dir():
        raise UsageError(f"{flag}={str(path)!r}: {str(above)!r} is a file; takes a new folder")
    if not os.access(above, os.W_OK):
        raise UsageError(
            f"{flag}={str(path)!r}: {str(above)!r} cannot be written to; takes a folder that can"
        )


def relative_to(folder, **places):
    """Paths relative to a folder, so that both can move together; None stays None."""
    folder = Path(folder).resolve()
    return {
        k: None if v is None else os.path.relpath(Path(v).resolve(), folder)
        for k, v in places.items()
    }


def save_folder(write, path):
    """write(part) beside `path`, then rename over it; nothing is left behind on failure."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        write(part)
        put_in_place(part, path)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def put_in_place(part, path):
    """Rename the folder `part` over `path`; what stood there is put back when that fails, else
    removed."""
    old = part.with_suffix(".old")
    if path.exists():
        os.replace(path, old)
    try:
        os.replace(part, path)
    except OSError:
        if old.exists():
            os.replace(old, path)
        raise
    shutil.rmtree(old, ignore_errors=True)
