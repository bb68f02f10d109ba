"""How a script ends: every error that a user can cause becomes one line and an exit status.

Status 2: a flag or an input is wrong, and nothing was started. Status 1: a run that had started
failed, or the disk is full. Status 3: a model does not pass --gate. 128 plus a signal's number: a
signal stopped the run (Ctrl-C: 130)."""

import errno
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from utils.cli import given_paths
from utils.runtime.errors import (
    GateError,
    Stopped,
    ToolkitError,
    TrainingError,
    is_disk_full,
)

# what a system refuses to do with any path, whoever chose it
REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG, errno.ELOOP)


@contextmanager
def exit_on_user_error(script: str) -> Iterator[None]:
    """Turn a ToolkitError, a full disk, an error of the system about a path that the user gave, or
    a signal inside the block into a line on stderr and an exit status.

    script: the name that the line begins with. Raises: SystemExit; any other error passes."""
    _show_any_file_name()
    try:
        yield
    except Stopped as stopped:
        _exit(f"{script}: {stopped}", stopped.status)
    except GateError as error:
        _exit(f"{script}: {_one_line(error)}", 3)
    except KeyboardInterrupt:
        _exit(f"{script}: stopped", 128 + signal.SIGINT)
    except ToolkitError as error:
        _exit(f"{script}: error: {_one_line(error)}", 1 if isinstance(error, TrainingError) else 2)
    except Exception as error:
        # libraries wrap a full disk in errors of their own
        if is_disk_full(error):
            _exit(
                f"{script}: error: cannot write: {_one_line(error)}; files that were complete"
                " before are kept",
                1,
            )
        line = _about_a_path(error) if isinstance(error, OSError) else None
        if line is None:
            raise
        _exit(f"{script}: error: {line}", 2)


def _exit(line: str, status: int) -> NoReturn:
    print(line, file=sys.stderr)
    raise SystemExit(status) from None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _about_a_path(error: OSError) -> str | None:
    """A line with the path and the system's reason; None for an error that is none of the user's
    paths, which is a fault of this program."""
    given, reason = given_paths.flag_of(error), os.strerror(error.errno or errno.EIO)
    if given is not None:
        flag, path = given
        also = "" if str(error.filename) == path else f", at {str(error.filename)!r}"
        return f"--{flag}={path!r} cannot be used: {reason}{also}"
    if error.errno in REFUSED and isinstance(error.filename, (str, os.PathLike)):
        return f"{os.fspath(error.filename)!r} cannot be used: {reason}"
    return None


def _show_any_file_name() -> None:
    """Print characters that the terminal cannot show as escapes: a file name must not end a run."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
