"""Files of rows: JSON lines, CSV, tab-separated values and Parquet, each row a dictionary of
columns."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.files import text_files
from utils.runtime.errors import DataError, first_line
from utils.runtime.regular_files import irregular

if TYPE_CHECKING:
    import pyarrow

SUFFIXES = (".jsonl", ".ndjson", ".csv", ".tsv", ".parquet")
LINES = (".jsonl", ".ndjson")
BATCH = 4096  # rows of a Parquet file that are in memory at once


@dataclass(frozen=True)
class Row:
    """A row of a table."""

    place: str  # where it stands, for errors: "captions.csv: line 3"
    fields: dict[str, Any]  # {column: value}; None where a column is empty


def is_table(path: str | Path) -> bool:
    """Whether a file is a table, by its suffix."""
    return Path(path).suffix.lower() in SUFFIXES


def rows(path: str | Path) -> Iterator[Row]:
    """The rows of a table, one after the other. DataError names the line that cannot be read.

    Columns of a Parquet file that hold bytes, such as those of pictures, are left out."""
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return _parquet(path)
    if suffix in LINES:
        return _json_lines(path)
    return _separated(path, "\t" if suffix == ".tsv" else None)


def of_objects(path: str | Path, objects: Iterable[dict[str, Any]]) -> Iterator[Row]:
    """The rows that a list of objects in a JSON file is."""
    return (Row(f"{path}: entry {number}", fields) for number, fields in enumerate(objects))


def _json_lines(path: Path) -> Iterator[Row]:
    for number, line in enumerate(text_files.read_lines(path), 1):
        if not line.strip():
            continue
        fields = text_files.parse_json(line, f"{path}: line {number}", unique=True)
        if not isinstance(fields, dict):
            raise DataError(
                f"{path}: line {number} is {line[:60]!r}; use a JSON object on each line"
            )
        yield Row(f"{path}: line {number}", fields)


def _separator(header: str) -> str:
    """The separator of a CSV file: spreadsheets of some countries write a semicolon."""
    return max(",;\t", key=header.count)  # of equal counts the first, a comma


def _separated(path: Path, separator: str | None) -> Iterator[Row]:
    """Rows of values between separators; the first line names the columns. separator: None finds
    it in the first line."""
    text = text_files.read_text(path)
    if separator is None:
        separator = _separator(text.lstrip().split("\n", 1)[0])
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    names: list[str] | None = None
    try:
        for values in reader:
            if not any(value.strip() for value in values):
                continue
            place = f"{path}: line {reader.line_num}"
            if names is None:
                names = [name.strip() for name in values]
                continue
            if len(values) != len(names):
                raise DataError(
                    f"{place} has {len(values)} values and the first line names {len(names)}"
                    f" columns; put a value that holds {separator!r} in double quotes"
                )
            yield Row(place, dict(zip(names, values, strict=True)))
    except csv.Error as error:
        raise DataError(f"{path}: line {reader.line_num} is not CSV ({error})") from None


def _readable(field: pyarrow.Field, name: str) -> list[str]:
    """The columns of a Parquet file below `field` that are read: all but bytes, whose pictures
    would take gigabytes."""
    import pyarrow

    kind = field.type
    if pyarrow.types.is_struct(kind):
        return [leaf for part in kind for leaf in _readable(part, f"{name}.{part.name}")]
    binary = (
        pyarrow.types.is_binary(kind)
        or pyarrow.types.is_large_binary(kind)
        or pyarrow.types.is_fixed_size_binary(kind)
    )
    return [] if binary else [name]


def _parquet(path: Path) -> Iterator[Row]:
    import pyarrow
    from pyarrow import parquet

    number = 0
    if (reason := irregular(path)) is not None:
        raise DataError(f"{path}: {reason}")
    try:
        with parquet.ParquetFile(path) as file:
            names = [leaf for field in file.schema_arrow for leaf in _readable(field, field.name)]
            for batch in file.iter_batches(batch_size=BATCH, columns=names):
                for fields in batch.to_pylist():
                    number += 1
                    yield Row(f"{path}: row {number}", fields)
    except (OSError, pyarrow.ArrowException) as error:
        raise DataError(f"{path}: is not a whole Parquet file ({first_line(error)})") from None
