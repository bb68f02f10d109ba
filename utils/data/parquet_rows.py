"""Pictures in the rows of Parquet files: the bytes of one are read with those of its row group,
which are kept for the next ones."""

from __future__ import annotations

import contextlib
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from utils.data import picture_tables
from utils.data.image_storage import CHANGED_IN_USE, ChangedError
from utils.files.downloads import Address
from utils.runtime.errors import DataError, UnreadError, first_line

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

AT_ONCE = 64  # rows that are decoded at once
BUFFER = 1 << 20  # bytes of a file that are read at once
# pictures that a process keeps; the last row group is kept whatever its size
KEPT_BYTES = 128 << 20


@contextlib.contextmanager
def opened(path: Path) -> Iterator[pq.ParquetFile]:
    """A Parquet file while it is read; DataError if it is damaged or is none, UnreadError if the
    disk fails."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        # buffered: otherwise the whole column of a row group is in memory while it is listed
        with pq.ParquetFile(path, buffer_size=BUFFER, page_checksum_verification=True) as file:
            yield file
    except (pa.ArrowException, OSError) as error:
        number = getattr(error, "errno", None)
        if number:  # Arrow reports damage as an OSError without a number
            raise UnreadError(f"{path}: cannot be read ({os.strerror(number)})") from None
        raise DataError(
            f"{path}: is not a whole Parquet file ({first_line(error)}); get it again, or remove it"
        ) from None


def batches(file: pq.ParquetFile, group: int, leaves: list[str]) -> Iterator[pa.RecordBatch]:
    """The rows of a row group, AT_ONCE at a time. leaves: the columns, as Parquet names them."""
    return file.iter_batches(
        batch_size=AT_ONCE, row_groups=[group], columns=leaves, use_threads=False
    )


@dataclass(frozen=True)
class ParquetRows:
    """Parquet files with a picture in each row; `at` is the number of the row in its file."""

    column: str  # of the bytes

    def read(self, path: Path | Address, at: int, size: int) -> bytes:
        """See Storage. The pictures of the row group are read, unless they are kept from before."""
        content = _KEPT.picture(str(path), self.column, at)
        if content is None or len(content) != size:
            raise ChangedError(CHANGED_IN_USE)
        return content


class _KeptGroups:
    """The pictures of the row groups that this process read last, up to KEPT_BYTES."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Keep nothing. A new process begins so: a lock that another thread held when it was forked
        would never be released."""
        self._lock = threading.Lock()
        self._starts: dict[tuple[str, int, int], np.ndarray] = {}  # first rows of a file's groups
        self._groups: OrderedDict[tuple, pa.ChunkedArray] = OrderedDict()

    def picture(self, path: str, column: str, row: int) -> bytes | None:
        """The bytes of a row's picture; None if the file has no such row. DataError if it cannot be
        read."""
        with self._lock:
            facts = os.stat(path)
            stamp = (path, facts.st_size, facts.st_mtime_ns)
            starts = self._starts_of(stamp)
            if row >= starts[-1]:
                return None
            group = int(np.searchsorted(starts, row, side="right")) - 1
            pictures = self._pictures(stamp, column, group)
            return pictures[row - int(starts[group])].as_py()

    def _starts_of(self, stamp: tuple[str, int, int]) -> np.ndarray:
        """The first row of each row group, and behind them the number of rows."""
        if stamp not in self._starts:
            with opened(Path(stamp[0])) as file:
                meta = file.metadata
                counts = [meta.row_group(i).num_rows for i in range(meta.num_row_groups)]
            self._starts[stamp] = np.cumsum([0, *counts])
        return self._starts[stamp]

    def _pictures(self, stamp: tuple[str, int, int], column: str, group: int) -> pa.ChunkedArray:
        """The pictures of a row group, read if they are not kept."""
        import pyarrow as pa

        name = (*stamp, column, group)
        if name in self._groups:
            self._groups.move_to_end(name)
            return self._groups[name]
        with opened(Path(stamp[0])) as file:
            parts = [_bytes_of(batch) for batch in batches(file, group, [column])]
        pictures = pa.chunked_array(parts)
        held = pictures.nbytes + sum(kept.nbytes for kept in self._groups.values())
        while self._groups and held > KEPT_BYTES:
            held -= self._groups.popitem(last=False)[1].nbytes
        self._groups[name] = pictures
        return pictures


def _bytes_of(batch: pa.RecordBatch) -> pa.Array:
    """The one column of a part of a file: of bytes, or of a struct of bytes."""
    import pyarrow as pa
    import pyarrow.compute as pc

    column = batch.column(0)
    if pa.types.is_struct(column.type):
        return pc.struct_field(column, picture_tables.BYTES)
    return column


_KEPT = _KeptGroups()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_KEPT.forget)
