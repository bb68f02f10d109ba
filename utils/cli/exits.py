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

from utils.runtime.errors import GateError, Stopped, ToolkitError, TrainingError

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def exit_on_user_error(script: str) -> Iterator[None]:
    """Turn a ToolkitError, a full disk or a signal inside the block into a line on stderr and an
    exit status.

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
        if not _is_disk_full(error):
            raise
        _exit(
            f"{script}: error: cannot write: {_one_line(error)}; files that were complete before"
            " are kept",
            1,
        )


def _exit(line: str, status: int) -> NoReturn:
    print(line, file=sys.stderr)
    raise SystemExit(status) from None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _show_any_file_name() -> None:
    """Print characters that the terminal cannot show as escapes: a file name must not end a run."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _is_disk_full(error: Exception) -> bool:
    # safetensors raises an error of its own, whose text holds the system's message
    return getattr(error, "errno", None) in DISK_FULL or any(
        os.strerror(number) in str(error) for number in DISK_FULL
    )
