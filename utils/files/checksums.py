"""Checksums of files that this toolkit wrote itself, so that a flipped bit is found and named. A
file that an earlier version wrote has none, and is read all the same.

Measured by hand on two loaded cores, with 256 MiB of weights: a state is written and flushed at
0.09 GiB a second, and its checksum is computed at 0.25, so that saving a state takes a third
longer. A state is saved every --state_steps steps."""

from __future__ import annotations

from pathlib import Path

from utils.files import whole_files

ENDING = ".sha256"


def path_of(file: str | Path) -> Path:
    """Where the checksum of a file stands: beside it, <its name>.sha256."""
    file = Path(file)
    return file.with_name(file.name + ENDING)


def write(file: str | Path) -> None:
    """Write the checksum of a file: 64 hexadecimal digits. OSError if the disk is full."""
    whole_files.write_text(path_of(file), whole_files.file_sha256(file) + "\n")


def is_damaged(file: str | Path) -> bool:
    """Whether a file differs from its checksum; False where it has none. OSError if the file cannot
    be read."""
    recorded = path_of(file)
    if not recorded.is_file():
        return False
    text = recorded.read_text(encoding="ascii", errors="replace").strip()
    return whole_files.file_sha256(file) != text
