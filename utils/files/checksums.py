"""Checksums of files that this toolkit wrote itself, so that a flipped bit is found and named. A
file that an earlier version wrote has none, and is read all the same.

SHA-256 by hashlib reads 1 to 2 GB a second on a processor with instructions for it, and 0.4 on one
without; a state is written and flushed to disk more slowly, and only every --save_steps steps."""

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
