"""Cache on disk of rows of tensors that are computed once: posteriors of images, embeddings of
captions.

A cache is a folder of parts of PART_ROWS rows, each an .npy file that is memory-mapped and, beside
it, the stamps of its rows. A row whose stamp has changed is computed again. A part is written whole
by one process, so several machines may share the folder. Rows are always computed in the same
groups, whichever are missing: on a CPU, the last bits of a row depend on which rows share its
batch."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from utils.files.owned_folders import existing_parent
from utils.files.whole_files import whole_file
from utils.runtime.errors import DataError

PART_ROWS = 1024
GROUP_ROWS = 16


@dataclass
class RowCache:
    """A cache of `rows` rows.

    Use: `missing(process, processes)` names the groups to compute, `write` stores the rows of a
    part, `open` maps all parts, `read` returns rows."""

    folder: Path
    rows: int  # number of rows
    shape: tuple[int, ...]  # of a row
    dtype: str  # numpy's name, of a row
    stamps: np.ndarray  # [rows] int64, which change when what a row is computed from changes
    parts: list[np.ndarray] = field(default_factory=list)  # the mapped parts, after `open`

    @property
    def bytes(self) -> int:
        """Size on disk when no row is missing."""
        return self.rows * int(np.prod(self.shape)) * np.dtype(self.dtype).itemsize

    @property
    def to_write(self) -> int:
        """Bytes of the cache that are not on disk yet."""
        on_disk = 0
        if self.folder.is_dir():
            on_disk = sum(p.stat().st_size for p in self.folder.glob("*.npy"))
        return self.bytes - on_disk

    def fits(self, before: int = 0) -> tuple[bool, int]:
        """Whether the disk has room for the cache, counting twice the part that is being rewritten.
        before: bytes that others will take first. Returns: (whether it fits, free bytes)."""
        part = self.bytes // max(1, self.rows) * min(PART_ROWS, self.rows)
        free = shutil.disk_usage(existing_parent(self.folder)).free
        return self.to_write + 2 * part + before < free, free

    def _paths(self, part):
        """Files of a part: its rows, and their stamps."""
        return self.folder / f"rows_{part:06d}.npy", self.folder / f"stamps_{part:06d}.npy"

    def _span(self, part):
        """First row of a part, and the row after its last."""
        return part * PART_ROWS, min((part + 1) * PART_ROWS, self.rows)

    @property
    def count(self) -> int:
        """Number of parts."""
        return -(-self.rows // PART_ROWS)

    def _valid(self, part):
        """Which rows of a part are on disk and up to date. Returns: [rows of the part] bool."""
        first, last = self._span(part)
        rows_path, stamps_path = self._paths(part)
        none = np.zeros(last - first, bool)
        if not (rows_path.is_file() and stamps_path.is_file()):
            return none
        try:
            stamps, rows = np.load(stamps_path), np.load(rows_path, mmap_mode="r")
        except (ValueError, OSError, EOFError):
            return none
        wanted = (last - first, *self.shape)
        if stamps.shape != none.shape or rows.shape != wanted or rows.dtype != np.dtype(self.dtype):
            return none
        return stamps == self.stamps[first:last]

    def missing(self, process: int = 0, processes: int = 1) -> Iterator[tuple[int, list[range]]]:
        """The parts that this process has to write. Yields: (part, groups of row numbers to
        compute)."""
        for part in range(process, self.count, processes):
            first, last = self._span(part)
            valid = self._valid(part)
            groups = [range(g, min(g + GROUP_ROWS, last)) for g in range(first, last, GROUP_ROWS)]
            groups = [g for g in groups if not valid[g.start - first : g.stop - first].all()]
            if groups:
                yield part, groups

    def count_missing(self, process: int = 0, processes: int = 1) -> int:
        """Number of rows that this process has to compute."""
        return sum(
            len(group) for _part, groups in self.missing(process, processes) for group in groups
        )

    def write(self, part: int, computed: Iterable[tuple[range, torch.Tensor]]) -> None:
        """Write a part: its rows on disk, overwritten by `computed`, (group of row numbers, tensor
        [len(group), *shape])."""
        first, last = self._span(part)
        rows_path, stamps_path = self._paths(part)
        if self._valid(part).any():
            rows = np.load(rows_path)
        else:
            rows = np.zeros((last - first, *self.shape), self.dtype)
        for group, values in computed:
            rows[group.start - first : group.stop - first] = values.cpu().to(torch.float32).numpy()
        # rows first: a stamp must never promise a row that is not on disk
        for path, array in ((rows_path, rows), (stamps_path, self.stamps[first:last])):
            with whole_file(path) as unfinished, open(unfinished, "wb") as handle:
                np.save(handle, array)

    def open(self) -> RowCache:
        """Map all parts; DataError if one is not whole, as when processes do not share the
        folder."""
        for part in range(self.count):
            if not self._valid(part).all():
                raise DataError(
                    f"{self.folder}: part {part} of the cache does not exist or is not whole; every"
                    " process must see the folder of --output_dir, or use --cache_latents off"
                )
        self.parts = [np.load(self._paths(part)[0], mmap_mode="r") for part in range(self.count)]
        return self

    def read(self, rows: Sequence[int], variants: Sequence[int] | None = None) -> torch.Tensor:
        """Rows by number; with `variants`, only entry variants[i] of row i. Returns: tensor
        [len(rows), ...], on the CPU."""
        values = [self.parts[r // PART_ROWS][r % PART_ROWS] for r in rows]
        if variants is not None:
            values = [row[v] for row, v in zip(values, variants, strict=True)]
        return torch.from_numpy(np.stack(values))


class RowCaches:
    """Caches of rows of several shapes, which are counted, computed and opened as one."""

    def __init__(self, caches: Sequence[RowCache]):
        self.caches = caches

    @property
    def folder(self) -> Path:
        """The folder of the first cache; those of the others lie beside it."""
        return self.caches[0].folder

    @property
    def rows(self) -> int:
        """Number of rows."""
        return sum(cache.rows for cache in self.caches)

    @property
    def bytes(self) -> int:
        """Size on disk when no row is missing."""
        return sum(cache.bytes for cache in self.caches)

    def fits(self, before: int = 0) -> tuple[bool, int]:
        """Whether the disk has room for all caches, as `RowCache.fits`."""
        every = before + sum(cache.to_write for cache in self.caches)
        found = [cache.fits(every - cache.to_write) for cache in self.caches]
        return all(fits for fits, _ in found), found[0][1]

    def missing(
        self, process: int = 0, processes: int = 1
    ) -> Iterator[tuple[int, int, list[range]]]:
        """The parts that this process has to write. Yields: (number of the cache, part, groups of
        row numbers to compute)."""
        for number, cache in enumerate(self.caches):
            # turned, so that the first process does not get every cache of one part
            for part, groups in cache.missing((process - number) % processes, processes):
                yield number, part, groups

    def count_missing(self, process: int = 0, processes: int = 1) -> int:
        """Number of rows that this process has to compute."""
        return sum(
            len(group)
            for _number, _part, groups in self.missing(process, processes)
            for group in groups
        )

    def open(self) -> RowCaches:
        """Map all parts, as `RowCache.open`."""
        for cache in self.caches:
            cache.open()
        return self
