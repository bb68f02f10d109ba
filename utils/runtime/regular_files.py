"""What a path is, if it is no file that can be read from its beginning to its end. Anything else is
never opened: a pipe would be waited for without end, and reading a device can change it."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

ABSENT = "does not exist"
IN_A_CIRCLE = "is a link that leads back to itself"
KINDS = (
    (stat.S_ISDIR, "is a folder"),
    (stat.S_ISFIFO, "is a pipe, which is not opened"),
    (stat.S_ISSOCK, "is a socket, which is not opened"),
    (stat.S_ISCHR, "is a device, which is not opened"),
    (stat.S_ISBLK, "is a device, which is not opened"),
)
# why a path leads to nothing, by the number of the system's error
NOTHING = {
    errno.ENOENT: ABSENT,
    errno.ENOTDIR: ABSENT,
    errno.ELOOP: IN_A_CIRCLE,
}

# reasons why a path that exists is not opened
NEVER_OPENED = frozenset(words for _, words in KINDS[1:])


def irregular(path: str | Path) -> str | None:
    """Why a path is no regular file, in words that follow its name; None if it is one, at the end
    of links too."""
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        return NOTHING.get(error.errno or 0, f"cannot be read ({error.strerror})")
    except ValueError:  # a zero byte in the name
        return ABSENT
    if stat.S_ISREG(mode):
        return None
    return next((words for is_kind, words in KINDS if is_kind(mode)), "is no regular file")
