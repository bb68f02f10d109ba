"""The errors that a user can cause, and the checks that raise them.

Library code raises them; `exits.exit_on_user_error` alone turns them into a line on the terminal
and an exit status."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from utils.runtime.regular_files import irregular

Value = TypeVar("Value")


class ToolkitError(Exception):
    """An error that the user can correct. The message is one line: what was given and what is
    accepted."""


class UsageError(ToolkitError):
    """A flag has a value that is not accepted; the message names the flag."""


class DataError(ToolkitError):
    """A file or folder does not hold what it should; the message names it."""


class UnreadError(DataError):
    """A disk or a network failed to deliver a file. The file itself may be good, and a later
    attempt may succeed."""


class TrainingError(ToolkitError):
    """A run that had started cannot continue; the message names the step and what is kept. The exit
    status is 1, not 2."""


class GateError(ToolkitError):
    """A model does not pass --gate: it copies more than is acceptable. The exit status is 3."""


class Stopped(ToolkitError):
    """A signal ended a run after its state was saved. status: exit status, 128 plus the signal's
    number."""

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.status = 128 + number


def first_line(error: object, limit: int = 160) -> str:
    """The first line of a library's error message, cut at `limit` characters; the error's class
    name if the message is empty."""
    text = str(error).strip()
    return text.splitlines()[0][:limit] if text else type(error).__name__


# a full disk, a full quota, and a file longer than is allowed
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


# what numpy says of a file that the disk did not take as a whole
SHORT_WRITE = re.compile(r"\d+ requested and \d+ written")


def is_disk_full(error: object) -> bool:
    """Whether an error, or the text of one, says that the disk is full. Libraries raise errors of
    their own, whose text holds the system's message."""
    return (
        getattr(error, "errno", None) in DISK_FULL
        or any(os.strerror(number) in str(error) for number in DISK_FULL)
        or SHORT_WRITE.search(str(error)) is not None
    )


def choose(flag: str, name: str | None, table: Mapping[str, Value]) -> Value:
    """Return table[name]; UsageError with the flag, the name and the accepted names if there is
    none."""
    if name is None or name not in table:
        raise UsageError(f"{flag}={name!r} is unknown; choose one of: {', '.join(sorted(table))}")
    return table[name]


def require_dir(flag: str, path: str | Path) -> Path:
    """Return path as a Path if it is a folder, else raise UsageError."""
    path = Path(path)
    if not path.is_dir():
        problem = "is a file" if path.exists() else "does not exist"
        raise UsageError(f"{flag}={str(path)!r} {problem}; give an existing folder")
    return path


def require_file(flag: str, path: str | Path) -> Path:
    """Return path as a Path if it is a regular file, else raise UsageError: a pipe or a device is
    never opened."""
    path = Path(path)
    problem = irregular(path)
    if problem is not None:
        raise UsageError(f"{flag}={str(path)!r} {problem}; give an existing file")
    return path
