"""The errors a user can cause, and the checks that raise them.

Library code raises; `flags.exit_on_user_error` is the one place that turns them into a line and an
exit status."""

from pathlib import Path


class ToolkitError(Exception):
    """Something the user can mend. The message is one line: what was given and what is accepted."""


class UsageError(ToolkitError):
    """A flag has a value that it does not take; the message names the flag."""


class DataError(ToolkitError):
    """A file or folder does not hold what it should; the message names it."""


class UnreadError(DataError):
    """A disk or a network did not give a file's bytes: it says nothing of what the file holds, and
    may pass."""


class TrainingError(ToolkitError):
    """A run that had started cannot go on; the message names the step and what is kept. Exit status
    1, not 2."""


class Stopped(ToolkitError):
    """A signal ended a run, whose state is saved. status: 128 plus the signal's number."""

    def __init__(self, message, number):
        super().__init__(message)
        self.status = 128 + number


def first_line(error, limit=160):
    """What an error of a library says, for a line of ours: its first line, cut at `limit`
    characters, else its class."""
    said = str(error).strip()
    return said.splitlines()[0][:limit] if said else type(error).__name__


def choose(flag, name, table):
    """Return table[name]; on a miss raise UsageError with the flag, what it got and what it
    takes."""
    if name not in table:
        raise UsageError(f"{flag}={name!r} is unknown; choose one of: {', '.join(sorted(table))}")
    return table[name]


def require_dir(flag, path):
    """Return path as a Path if it is a folder, else raise UsageError."""
    path = Path(path)
    if not path.is_dir():
        found = "is a file" if path.exists() else "does not exist"
        raise UsageError(f"{flag}={str(path)!r} {found}; give an existing folder")
    return path


def require_file(flag, path):
    """Return path as a Path if it is a file, else raise UsageError."""
    path = Path(path)
    if not path.is_file():
        found = "is a folder" if path.is_dir() else "does not exist"
        raise UsageError(f"{flag}={str(path)!r} {found}; give an existing file")
    return path
