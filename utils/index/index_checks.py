"""Whether an index is what was written: its checksums, on --verify and once a day.

Reading a whole index costs about as much as one exact search of it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from utils.index import shard_files
from utils.index.vector_index import VectorIndex
from utils.runtime.errors import DataError

MARK = ".verified"  # file whose time is that of the last check
DAY = 24 * 3600  # seconds
NAMED = 3  # damaged shards that an error names


def look(index: VectorIndex, *, asked: bool, say: Callable[[str], None]) -> None:
    """Check an index that is opened to work on it: at once when --verify asks for it, else if a day
    has passed. DataError names what is damaged; say: prints a line."""
    if asked:
        verify(index, say)
    else:
        verify_daily(index, say)


def verify(index: VectorIndex, say: Callable[[str], None]) -> None:
    """Check all shards against their checksums, and say so. DataError names those that differ.

    Those of an earlier version have no checksums, which the line counts."""
    damaged, without = [], 0
    for shard in index.shards:
        try:
            shard_files.require_content(index.root, shard.name)
        except DataError as error:
            damaged.append(str(error))
        without += shard_files.CONTENT not in shard.facts
    _mark(index.root, whole=not damaged)
    if damaged:
        more = f"; and {len(damaged) - NAMED} more" if len(damaged) > NAMED else ""
        raise DataError("; ".join(damaged[:NAMED]) + more)
    old = f" ({without} of an earlier version have none)" if without else ""
    say(f"the index {index.root} agrees with its checksums: {len(index.shards)} shards{old}")


def verify_daily(index: VectorIndex, say: Callable[[str], None]) -> None:
    """`verify`, unless that was done within a day. An index that may not be written keeps no time
    of a check, and is checked with --verify alone."""
    if os.access(index.root, os.W_OK) and not _is_recent(index.root / MARK):
        verify(index, say)


def _is_recent(mark: Path) -> bool:
    try:
        return 0 <= time.time() - os.stat(mark).st_mtime < DAY
    except OSError:
        return False


def _mark(root: Path, *, whole: bool) -> None:
    """Keep the time of this check; forget it where a shard is damaged, so that it is checked
    again."""
    try:
        if whole:
            (root / MARK).touch()
        else:
            (root / MARK).unlink(missing_ok=True)
    except OSError:
        return  # the index may not be written: it is checked again next time
