"""Rows of tensors computed once and kept on disk, memory-mapped: posteriors of images, embeddings
of captions.

A cache is a folder of parts of PART_ROWS rows, each an .npy file and beside it the rows' stamps. A
row whose stamp has changed is computed again. A part is written whole by one process, so that
several machines may share the folder. Rows are computed in the same groups whatever is missing: on
a CPU a row's last bits may hang on what it was computed with."""

import shutil
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
    """rows: how many; shape and dtype (numpy): of a row; stamps: [rows] int64, what a row was
    computed from.

    Use: `missing(process, processes)` names the groups to compute, `write` takes a part's rows,
    `open` maps all parts."""

    folder: Path
    rows: int
    shape: tuple
    dtype: str
    stamps: np.ndarray
    parts: list = field(default_factory=list)

    @property
    def bytes(self):
        """Size on disk when it is whole."""
        return self.rows * int(np.prod(self.shape)) * np.dtype(self.dtype).itemsize

    def fits(self, before=0):
        """Whether the disk has room for it, twice the part being rewritten included, and `before`
        bytes of others.

        Returns: (bool, free bytes).
        """
        have = (
            sum(p.stat().st_size for p in self.folder.glob("*.npy")) if self.folder.is_dir() else 0
        )
        part = self.bytes // max(1, self.rows) * min(PART_ROWS, self.rows)
        free = shutil.disk_usage(existing_parent(self.folder)).free
        return self.bytes - have + 2 * part + before < free, free

    def _paths(self, part):
        return self.folder / f"rows_{part:06d}.npy", self.folder / f"stamps_{part:06d}.npy"

    def _span(self, part):
        return part * PART_ROWS, min((part + 1) * PART_ROWS, self.rows)

    @property
    def count(self):
        """Number of parts."""
        return -(-self.rows // PART_ROWS)

    def _valid(self, part):
        """Which rows of a part are there and up to date. Returns: [rows of the part] bool."""
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

    def missing(self, process=0, processes=1):
        """Yield (part, groups) of this process: the parts it has to write and the row numbers of
        each group to compute."""
        for part in range(process, self.count, processes):
            first, last = self._span(part)
            valid = self._valid(part)
            groups = [range(g, min(g + GROUP_ROWS, last)) for g in range(first, last, GROUP_ROWS)]
            groups = [g for g in groups if not valid[g.start - first : g.stop - first].all()]
            if groups:
                yield part, groups

    def count_missing(self, process=0, processes=1):
        """Rows that this process has to compute."""
        return sum(
            len(group) for _part, groups in self.missing(process, processes) for group in groups
        )

    def write(self, part, computed):
        """Write a part: what stands there, with `computed` [(group, tensor [len(group), *shape])]
        laid over it."""
        first, last = self._span(part)
        rows_path, stamps_path = self._paths(part)
        rows = (
            np.load(rows_path)
            if self._valid(part).any()
            else np.zeros((last - first, *self.shape), self.dtype)
        )
        for group, values in computed:
            rows[group.start - first : group.stop - first] = values.cpu().to(torch.float32).numpy()
        # rows first: a stamp must never promise a row that is not there
        for path, array in ((rows_path, rows), (stamps_path, self.stamps[first:last])):
            with whole_file(path) as unfinished, open(unfinished, "wb") as handle:
                np.save(handle, array)

    def open(self):
        """Map all parts; DataError if one is not whole, as when processes do not share the
        folder."""
        for part in range(self.count):
            if not self._valid(part).all():
                raise DataError(
                    f"{self.folder}: part {part} of the cache is not there or not whole; every"
                    " process must see the folder of --output_dir, or use --cache_latents off"
                )
        self.parts = [np.load(self._paths(part)[0], mmap_mode="r") for part in range(self.count)]
        return self

    def read(self, rows, variants=None):
        """Rows by number; with `variants`, only entry variants[i] of row i. Returns: tensor
        [len(rows), ...], on the CPU."""
        found = [self.parts[r // PART_ROWS][r % PART_ROWS] for r in rows]
        if variants is not None:
            found = [row[v] for row, v in zip(found, variants, strict=True)]
        return torch.from_numpy(np.stack(found))
