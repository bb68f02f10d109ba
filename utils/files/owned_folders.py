"""Output folders: check that a folder can be written and holds nothing foreign, and replace it as a
whole."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

from utils.files import whole_files
from utils.runtime.errors import UsageError


def existing_parent(path: str | Path) -> Path:
    """The path itself if it exists, else its nearest parent that does."""
    path = Path(path)
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def require_writable(flag: str, path: str | Path) -> None:
    """Check that `path` is a folder that can be written to, or that such a folder can be created.

    UsageError, which names `flag`, if it is a file, lies below one, or may not be written."""
    parent = existing_parent(path)
    if not parent.is_dir():
        raise UsageError(f"{flag}={str(path)!r}: {str(parent)!r} is a file; use a new folder")
    if not os.access(parent, os.W_OK):
        raise UsageError(
            f"{flag}={str(path)!r}: {str(parent)!r} is not writable; use a folder that is"
        )


def foreign_error(
    flag: str, path: str | Path, name: str, *, writer: str, accepted: str = "use a new folder"
) -> UsageError:
    """The error for an output folder that holds `name`, a file or folder that this toolkit did not
    write.

    writer: the kind of output that belongs there, for example "evaluation";
    accepted: what to do instead."""
    return UsageError(f"{flag}={str(path)!r} holds {name!r}, which no {writer} wrote; {accepted}")


def require_ours(
    flag: str, path: str | Path, *, files: re.Pattern, record: str, kind: str, writer: str
) -> None:
    """Check that an output folder may be written: it is new, empty, or holds an output of this
    toolkit.

    A folder is ours if every path in it matches `files` and its manifest is of our kind; it may
    then be replaced. UsageError names the first foreign path; DataError if the manifest is not
    JSON.

    files: matches paths relative to the folder, with /; an empty folder's path ends in /;
    record: name of the manifest;
    kind: the "kind" that the manifest must state;
    writer: name of the output for the message, for example "evaluation"."""
    path = Path(path)
    require_writable(flag, path)
    names = _contents(path)
    foreign = [name for name in names if not files.fullmatch(name)]
    if not foreign and names and not _is_of_kind(path / record, kind):
        foreign = names
    if foreign:
        raise foreign_error(flag, path, foreign[0].removesuffix("/"), writer=writer)


def _contents(folder: Path) -> list[str]:
    """Relative paths of all files in a folder, sorted, then of empty folders, which end in /."""
    files, empty = [], []
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if not path.is_dir():
            files.append(name)
        elif not any(path.iterdir()):
            empty.append(f"{name}/")
    return sorted(files) + sorted(empty)


def _is_of_kind(record: Path, kind: str) -> bool:
    """Whether a manifest exists and is of this kind, in any version."""
    if not record.is_file():
        return False
    data = whole_files.read_json(record)
    return isinstance(data, dict) and data.get("kind") == kind


def relative_to(folder: str | Path, **places: str | Path | None) -> dict[str, str | None]:
    """The given paths relative to a folder, so that both can be moved together; None stays None."""
    folder = Path(folder).resolve()
    return {
        name: None if place is None else os.path.relpath(Path(place).resolve(), folder)
        for name, place in places.items()
    }


def save_folder(write: Callable[[Path], object], path: Path) -> None:
    """Write a folder to a temporary sibling with write(part), then rename it over `path`.

    A failure leaves no temporary folder behind, and `path` as it was."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        write(part)
        put_in_place(part, path)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def put_in_place(part: Path, path: Path) -> None:
    """Rename the folder `part` to `path` and remove the previous folder at `path`.

    If the rename fails, the old folder is put back."""
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
