"""Parquet files with pictures and captions in their rows, listed as an image set.

Nothing is unpacked: listing reads the files once, a few rows at a time, and keeps no pixels."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from utils.data import picture_tables
from utils.data.field_names import USUAL, Columns
from utils.data.folder_walk import holds_images, is_made_of_images
from utils.data.image_sets import ImageSet, natural_key
from utils.data.parquet_rows import ParquetRows, batches, opened
from utils.data.picture_tables import ListedFile, PictureColumns, PictureRow
from utils.data.tar_shards import expand
from utils.runtime.errors import DataError, UsageError
from utils.runtime.regular_files import irregular

if TYPE_CHECKING:
    import pyarrow.parquet as pq

    from utils.data.caption_files import Captions

SUFFIX = ".parquet"
LARGE_GROUP = 1 << 30  # bytes of pictures in a row group, above which a line is said
# names of files and folders that stand for a part of a data set, with what they begin
SPLIT = re.compile(r"(train|training|test|testing|val|valid|validation|dev|eval)(?![a-z])", re.I)


# Which files --------------------------------------------------------------------------------------


def _inside(folder: str | Path) -> list[Path]:
    """The Parquet files at any depth below a folder, in natural order."""
    found: list[Path] = []
    for place, folders, names in os.walk(folder):
        if is_made_of_images(place):
            folders.clear()
            continue
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(place, n) for n in names if n.lower().endswith(SUFFIX) and n[0] != "."]
    return sorted(found, key=natural_key)


def is_parquet(source: str | Path) -> bool:
    """Whether a data source is Parquet files: a file, a pattern, or a folder that holds them and no
    images (beside images they hold captions)."""
    if not Path(source).is_dir():
        return str(source).lower().endswith(SUFFIX)
    try:
        return not holds_images(source) and bool(_inside(source))
    except OSError:  # listing the folder says so
        return False


def _split_of(name: str) -> str | None:
    """The split that a file belongs to, by its name or its folder's; None if they say none."""
    for part in reversed(name.split("/")):
        if found := SPLIT.match(part):
            return found[1].lower()
    return None


def parquet_paths(flag: str, source: str | Path) -> list[Path]:
    """The Parquet files that a data source stands for, in natural order.

    source: a file, a folder, a glob, or 'DIR/{0..9}.parquet'. UsageError if there are none, one
    does not exist, or a folder holds several splits of a data set."""
    shown, path = f"{flag}={str(source)!r}", Path(source)
    if not path.is_dir():
        paths = [Path(p) for p in expand(str(source))]
        if not paths:
            raise UsageError(f"{shown} matches no file; use Parquet files")
        _require_regular(shown, paths)
        return paths
    paths = _inside(path)
    _require_regular(shown, paths)
    splits = Counter(_split_of(p.relative_to(path).as_posix()) for p in paths)
    splits.pop(None, 0)
    if len(splits) > 1:
        counts = ", ".join(f"{name} ({count} files)" for name, count in sorted(splits.items()))
        example = next(p for p in paths if _split_of(p.relative_to(path).as_posix()))
        raise UsageError(
            f"{shown} holds several splits: {counts}; name the files of one, such as"
            f" '{_pattern(example)}'"
        )
    return paths


def _require_regular(shown: str, paths: Sequence[Path]) -> None:
    """Raise UsageError for the first path that is no regular file: it is never opened. shown: the
    flag with its value."""
    for path in paths:
        if (reason := irregular(path)) is not None:
            raise UsageError(f"{shown}: {str(path)!r} {reason}; use Parquet files")


def _pattern(path: Path) -> str:
    """A pattern for the files of the split that a file belongs to."""
    by_file = SPLIT.match(path.name)
    return str(path.parent / (f"{by_file[0]}*{SUFFIX}" if by_file else f"*{SUFFIX}"))


# Listing ------------------------------------------------------------------------------------------


def _listed(path: Path, root: Path, columns: PictureColumns) -> tuple[ListedFile, int]:
    """A file with its rows, and the bytes of the largest column chunk of its pictures."""
    rows: list[PictureRow] = []
    largest = 0
    with opened(path) as file:
        _require_columns(path, file, columns)
        for group in range(file.num_row_groups):
            for batch in batches(file, group, columns.leaves):
                rows += picture_tables.rows_of(batch, columns)
            largest = max(largest, _chunk_bytes(file, group, columns.bytes_leaf))
    return ListedFile(path.relative_to(root).as_posix(), rows), largest


def _require_columns(path: Path, file: pq.ParquetFile, columns: PictureColumns) -> None:
    """Raise DataError unless a file has the columns of the first one."""
    leaves = {file.schema.column(i).path for i in range(len(file.schema))}
    absent = [leaf for leaf in columns.picture_leaves if leaf not in leaves]
    if columns.caption and columns.caption not in file.schema_arrow.names:
        absent.append(columns.caption)
    if absent:
        raise DataError(
            f"{path}: has no column {absent[0]!r}, which the first file has; give files with the"
            " same columns"
        )


def _chunk_bytes(file: pq.ParquetFile, group: int, leaf: str) -> int:
    """Bytes of a column in a row group, uncompressed."""
    meta = file.metadata.row_group(group)
    chunks = (meta.column(i) for i in range(meta.num_columns))
    return sum(c.total_uncompressed_size for c in chunks if c.path_in_schema == leaf)


def list_parquet(
    flag: str,
    source: str | Path,
    *,
    columns: Columns = USUAL,
    say: Callable[[str], None] = lambda line: None,
) -> tuple[ImageSet, Captions]:
    """The images and captions in Parquet files, in the order of files and rows.

    The key of an image is <file>/<row>, or <file>/<path> where every picture of the file has a path
    of its own; rows without a picture are in the set's `bad`.
    source: as in `parquet_paths`; columns: those that the user names; say: prints a line.
    DataError for a file that is damaged, or has no pictures. Returns: the set; {key: captions} of
    the images that have captions."""
    paths = parquet_paths(flag, source)
    root = Path(source) if Path(source).is_dir() else Path(os.path.commonpath(paths))
    root = root.parent if root.is_file() else root
    with opened(paths[0]) as file:
        chosen = picture_tables.picture_columns(paths[0], file.schema_arrow, columns)
    listed = [_listed(path, root, chosen) for path in paths]
    images, captions = picture_tables.image_set(
        root, (file for file, _ in listed), chosen, ParquetRows(chosen.bytes_leaf)
    )
    say(picture_tables.summary("Parquet", len(listed), chosen, images, len(captions)))
    largest = max(size for _, size in listed)
    if largest > LARGE_GROUP:
        say(
            f"a row group holds {largest / (1 << 30):.1f} GiB of pictures, which are all read for"
            " one of them; write the files with row groups of about 100 rows"
        )
    return images, captions
