"""Folders that `datasets.Dataset.save_to_disk` wrote: Arrow files with pictures and captions in
their rows, read in place as an image set.

The files are mapped into memory: listing reads no picture, and opening an image reads that one."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.data import picture_tables
from utils.data.field_names import USUAL, Columns
from utils.data.image_sets import ImageSet
from utils.data.image_storage import CHANGED_IN_USE, ChangedError
from utils.data.picture_tables import ListedFile, PictureColumns, PictureRow
from utils.files.downloads import Address
from utils.files.text_files import read_json
from utils.runtime.errors import DataError, UsageError, first_line

if TYPE_CHECKING:
    import pyarrow as pa

    from utils.data.caption_files import Captions

STATE, INFO, SPLITS = "state.json", "dataset_info.json", "dataset_dict.json"
OPENED = 256  # mapped files that a process keeps


def is_arrow_folder(source: str | Path) -> bool:
    """Whether a data source is a folder of `save_to_disk`, of a data set or of all its splits."""
    folder = Path(source)
    return (folder / SPLITS).is_file() or all((folder / name).is_file() for name in (STATE, INFO))


def _record(path: Path) -> dict[str, Any]:
    data = read_json(path)
    if not isinstance(data, dict):
        raise DataError(f"{path}: is no record of a data set; save it again")
    return data


def _data_folder(flag: str, source: str | Path) -> Path:
    """The folder of the data set; UsageError if there are several splits."""
    folder = Path(source)
    if not (folder / SPLITS).is_file():
        return folder
    splits = [str(name) for name in _record(folder / SPLITS).get("splits", [])]
    if len(splits) != 1:
        raise UsageError(
            f"{flag}={str(source)!r} holds several splits: {', '.join(splits) or 'none'}; name one,"
            f" such as '{folder / (splits or ['train'])[0]}'"
        )
    return folder / splits[0]


def arrow_paths(folder: Path) -> list[Path]:
    """The Arrow files of a data set, in the order of its rows. DataError if the record of the
    folder names none, or a file outside it, or rows that are chosen by another file."""
    state = _record(folder / STATE)
    if state.get("_indices_data_files"):
        raise DataError(
            f"{folder}: its rows are chosen by a file of indices; save the data set again, after"
            " flatten_indices()"
        )
    entries = state.get("_data_files")
    names = [f.get("filename") if isinstance(f, dict) else None for f in entries or []]
    wrong = next((n for n in names if not isinstance(n, str) or Path(n).name != n), None)
    if not names or None in names or wrong is not None:
        raise DataError(f"{folder / STATE}: names {wrong!r} as its data; save the data set again")
    return [folder / str(name) for name in names]


@functools.lru_cache(maxsize=OPENED)
def _mapped(path: str, _bytes: int, _mtime_ns: int) -> pa.Table:
    """The rows of an Arrow file, which stay on the disk until they are used."""
    import pyarrow as pa

    try:
        with pa.ipc.open_stream(pa.memory_map(path)) as stream:
            return stream.read_all()
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"{path}: is not a whole Arrow file ({first_line(error)}); save the data set again"
        ) from None


def _table(path: str | Path) -> pa.Table:
    try:
        facts = Path(path).stat()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    return _mapped(str(path), facts.st_size, facts.st_mtime_ns)


def list_arrow_folder(
    flag: str,
    source: str | Path,
    *,
    columns: Columns = USUAL,
    say: Callable[[str], None] = lambda line: None,
) -> tuple[ImageSet, Captions]:
    """The images and captions in a folder of `save_to_disk`, in the order of rows.

    The key of an image is <file>/<row>, or <file>/<path> where every picture of the file has a path
    of its own; rows without a picture are in the set's `bad`.
    source: of one split; columns: those that the user names; say: prints a line. UsageError for
    several splits, DataError for files that are damaged or hold no pictures. Returns: the set;
    {key: captions} of the images that have captions."""
    folder = _data_folder(flag, source)
    paths = arrow_paths(folder)
    chosen = picture_tables.picture_columns(paths[0], _table(paths[0]).schema, columns)
    listed = []
    for path in paths:
        table = _table(path)
        if not set(chosen.columns) <= set(table.schema.names):
            raise DataError(f"{path}: has other columns than {paths[0]}; save the data set again")
        listed.append(ListedFile(path.name, _rows(path, table.select(chosen.columns), chosen)))
    images, captions = picture_tables.image_set(folder, listed, chosen, ArrowRows(chosen.picture))
    say(picture_tables.summary("Arrow", len(listed), chosen, images, len(captions)))
    return images, captions


def _rows(path: Path, table: pa.Table, columns: PictureColumns) -> list[PictureRow]:
    """The rows of a file, once its offsets are known to lie in it."""
    import pyarrow as pa

    try:
        table.validate(full=True)
    except pa.ArrowException as error:
        raise DataError(
            f"{path}: is damaged ({first_line(error)}); save the data set again"
        ) from None
    return [row for part in table.to_batches() for row in picture_tables.rows_of(part, columns)]


@dataclass(frozen=True)
class ArrowRows:
    """Arrow files with a picture in each row; `at` is the number of the row in its file."""

    column: str  # of bytes, or of a struct that holds them

    def read(self, path: Path | Address, at: int, size: int) -> bytes:
        """See Storage. Only the bytes of this picture are read."""
        table = _table(path)
        picture = table.column(self.column)[at] if at < len(table) else None
        content = None if picture is None else picture.as_py()
        content = content.get(picture_tables.BYTES) if isinstance(content, dict) else content
        if content is None or len(content) != size:
            raise ChangedError(CHANGED_IN_USE)
        return content
