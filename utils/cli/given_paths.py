"""The paths that a command line gave, to tell which flag an error of the system is about."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from pathlib import Path

# a path that does not exist yet, or lies below a file: what needs it says so itself
ABSENT = (errno.ENOENT, errno.ENOTDIR)

# (name of a flag, its path) of the command lines that this process parsed, the newest first
_given: list[tuple[str, str]] = []
MOST_KEPT = 100


def problem(path: str) -> str | None:
    """Why the system cannot even look a path up, such as a name that is too long or links that lead
    in a circle; None if it can, whether something is there or not. Addresses are not looked up."""
    if "://" in path:
        return None
    try:
        os.stat(path)
    except OSError as error:
        return None if error.errno in ABSENT else os.strerror(error.errno or errno.EIO)
    return None


def remember(paths: Iterable[tuple[str, str]]) -> None:
    """Keep the paths of a command line. paths: (name of a flag, its path)."""
    _given[:0] = paths
    del _given[MOST_KEPT:]


def flag_of(error: OSError) -> tuple[str, str] | None:
    """The flag whose path an error of the system is about, and the path: the error names that path,
    one below it, a folder above it, or a file beside it that stands for it while it is written.
    None if it names another path, or none."""
    if not isinstance(error.filename, (str, os.PathLike)):
        return None
    named = Path(os.path.abspath(error.filename))
    return next(((flag, path) for flag, path in _given if _belongs(named, path)), None)


def _belongs(named: Path, path: str) -> bool:
    given = Path(os.path.abspath(path))
    if named == given or given in named.parents:
        return True
    above = named in given.parents and named != Path(named.anchor)
    return above or (named.parent == given.parent and named.name.startswith(f".{given.name}"))
