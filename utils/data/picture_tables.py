"""Tables with a picture in each row (Parquet, Arrow): which columns hold picture and captions, and
the image set that their rows are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.data import field_names
from utils.data.field_names import Columns
from utils.data.image_sets import ImageSet
from utils.data.image_storage import Storage
from utils.runtime.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

    from utils.data.caption_files import Captions

# Names of columns with the bytes of a picture, best first: those of the hub's data sets, then those
# that exports of lists of addresses write. Compared as in `field_names`.
PICTURES = (
    "image",
    "img",
    "picture",
    "photo",
    "image_bytes",
    "image_data",
    "jpg",
    "jpeg",
    "png",
    "webp",
    "bytes",
    "data",
    "content",
    "pixel_values",
)
BYTES, PATH = "bytes", "path"  # fields of a struct that holds a picture, as `datasets` writes it


@dataclass(frozen=True)
class PictureColumns:
    """Where a table holds pictures and captions."""

    picture: str  # of bytes, or of a struct of bytes and path
    is_struct: bool
    has_path: bool  # whether the struct has a path
    caption: str | None  # of texts or lists of texts; None if the table has none

    @property
    def bytes_leaf(self) -> str:
        """The column of bytes, as Parquet names it."""
        return f"{self.picture}.{BYTES}" if self.is_struct else self.picture

    @property
    def columns(self) -> list[str]:
        """All columns that listing reads, as Arrow names them."""
        return [self.picture, *([self.caption] if self.caption else [])]

    @property
    def picture_leaves(self) -> list[str]:
        """The columns of the picture that listing reads, as Parquet names them."""
        return [self.bytes_leaf, *([f"{self.picture}.{PATH}"] if self.has_path else [])]

    @property
    def leaves(self) -> list[str]:
        """All columns that listing reads, as Parquet names them."""
        return [*self.picture_leaves, *([self.caption] if self.caption else [])]


def _is_bytes(kind: pa.DataType) -> bool:
    import pyarrow as pa

    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _fields_of(kind: pa.DataType) -> dict[str, pa.DataType]:
    """The fields of a struct, by name; none of other types."""
    import pyarrow as pa

    if not pa.types.is_struct(kind):
        return {}
    return {kind.field(i).name: kind.field(i).type for i in range(kind.num_fields)}


def _holds_pictures(kind: pa.DataType) -> bool:
    fields = _fields_of(kind)
    return _is_bytes(kind) or (BYTES in fields and _is_bytes(fields[BYTES]))


def _holds_texts(kind: pa.DataType) -> bool:
    import pyarrow as pa

    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_dictionary(kind):
        kind = kind.value_type
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _usual(found: list[str]) -> str | None:
    """The column whose name stands first in PICTURES; None if no column has such a name."""
    names = {name.casefold(): name for name in found}
    return next((names[name] for name in PICTURES if name in names), None)


def _picture_column(path: Path, schema: pa.Schema, columns: Columns) -> str:
    """The column of pictures; DataError if there is none, or several and none has a usual name."""
    found = [field.name for field in schema if _holds_pictures(field.type)]
    if columns.image in found:
        return str(columns.image)
    if columns.image is None and found:
        usual = _usual(found) or (found[0] if len(found) == 1 else None)
        if usual is not None:
            return usual
        raise DataError(
            f"{path}: the columns {field_names.listed(found)} all hold bytes; name the one with the"
            " pictures by --image_column"
        )
    kinds = [f"{field.name} ({field.type})" for field in schema]
    asked = "" if columns.image is None else f" named --image_column={columns.image!r}"
    raise DataError(
        f"{path}: has no column{asked} with the bytes of pictures, only"
        f" {', '.join(kinds)[:200] or 'no column at all'}; give a table with a column of bytes, or"
        " of {bytes, path} as datasets.Dataset.to_parquet writes it"
    )


def _caption_column(path: Path, schema: pa.Schema, columns: Columns) -> str | None:
    texts = [field.name for field in schema if _holds_texts(field.type)]
    if columns.caption is not None:
        return columns.caption_of(texts, str(path))
    return field_names.usual_caption(texts)


def picture_columns(path: Path, schema: pa.Schema, columns: Columns) -> PictureColumns:
    """The columns of the table at `path` that are read.

    columns: those that the user names. DataError if none can hold pictures, or several could, or a
    column that was named does not fit."""
    picture = _picture_column(path, schema, columns)
    fields = _fields_of(schema.field(picture).type)
    return PictureColumns(
        picture=picture,
        is_struct=bool(fields),
        has_path=PATH in fields and _holds_texts(fields[PATH]),
        caption=_caption_column(path, schema, columns),
    )


# Rows ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PictureRow:
    """What is listed of a row."""

    size: int | None  # of the picture, in bytes; None if there is none
    path: str | None  # the name that the table gives it
    captions: list[str]


def _captions_of(value: Any) -> list[str]:
    texts = value if isinstance(value, list) else [value]
    return [text for text in texts if isinstance(text, str)]


def rows_of(batch: pa.RecordBatch, columns: PictureColumns) -> Iterator[PictureRow]:
    """Yield the rows of a part of a table. The bytes of pictures are counted, not copied."""
    import pyarrow.compute as pc

    pictures = batch.column(columns.picture)
    paths: list[Any] = [None] * len(pictures)
    captions: list[Any] = [None] * len(pictures)
    if columns.has_path:
        paths = pc.struct_field(pictures, PATH).to_pylist()
    if columns.caption:
        captions = batch.column(columns.caption).to_pylist()
    if columns.is_struct:
        pictures = pc.struct_field(pictures, BYTES)
    sizes = pc.binary_length(pictures).to_pylist()
    for size, path, caption in zip(sizes, paths, captions, strict=True):
        yield PictureRow(size, path, _captions_of(caption))


def _usable(name: str | None) -> bool:
    """Whether the name of a row's picture can be a part of its key: a relative path that does not
    leave its folder."""
    if not name or name.startswith("/") or "\\" in name or ":" in name:
        return False
    return all(part not in ("", ".", "..") for part in name.split("/"))


def _names(rows: list[PictureRow]) -> list[str]:
    """A name for each row of a file: its path where every picture has a path of its own, else the
    number of the row."""
    paths = [row.path for row in rows if row.size]
    named = len(set(paths)) == len(paths) and all(map(_usable, paths))
    return [
        row.path if named and row.size and row.path else str(number)
        for number, row in enumerate(rows)
    ]


def _reason(row: PictureRow) -> str | None:
    """Why a row has no picture; None if it has one."""
    if row.size:
        return None
    if row.size is None and row.path:
        return f"its row holds the path {row.path[:60]!r} and no bytes"
    return "its row is null" if row.size is None else "its row is empty"


@dataclass(frozen=True)
class ListedFile:
    """A file of a table, with its rows."""

    name: str  # below the folder, with /
    rows: list[PictureRow]


def image_set(
    root: Path, files: Iterable[ListedFile], columns: PictureColumns, storage: Storage
) -> tuple[ImageSet, Captions]:
    """The images in the rows of files: their key is <file>/<path or number of the row>.

    A row without a picture is in the set's `bad`. DataError if all are. Returns: the set; {key:
    captions} of the images that have captions."""
    keys, sizes, places, bad = [], [], [], []
    captions: Captions = {}
    for file in files:
        for number, (name, row) in enumerate(zip(_names(file.rows), file.rows, strict=True)):
            key, reason = f"{file.name}/{name}", _reason(row)
            if reason is not None:
                bad.append((key, reason))
                continue
            keys.append(key)
            sizes.append(row.size or 0)
            places.append((file.name, number))
            if row.captions:
                captions[key] = row.captions
    if not keys:
        first = f", first {bad[0][0]!r} ({bad[0][1]})" if bad else ""
        raise DataError(
            f"{root}: the column {columns.picture!r} of {len(bad)} rows holds no picture{first};"
            " give a table with the bytes of the pictures, as save_to_disk stores them"
        )
    return (
        ImageSet(root, tuple(keys), tuple(sizes), tuple(bad), tuple(places), storage),
        captions,
    )


def summary(kind: str, files: int, columns: PictureColumns, images: ImageSet, texts: int) -> str:
    """The line of what was recognised. kind: of the files; texts: images that have captions."""
    line = f"{len(images)} images of the column {columns.picture!r} in {files} {kind} files"
    if images.bad:
        line += f", {len(images.bad)} rows without a picture"
    if columns.caption is None:
        return f"{line}; no column of captions"
    return f"{line}; captions of {texts} of the column {columns.caption!r}"
