"""Tables of rows as CSV, Parquet and Markdown."""

from __future__ import annotations

import csv
import io
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from utils.files.whole_files import whole_file, write_text

PARQUET_ROWS = 10_000  # that are written at a time

TableRow = Mapping[str, Any]  # {column: value}


# the beginnings of a text that a spreadsheet takes for a formula
RUNS = re.compile(r"'*[=+\-@\t\r]")
NUMBER = re.compile(r"-\d+(\.\d+)?(e[+-]?\d+)?")
SHIELD = "'"  # before a text, a spreadsheet shows it as it is


def shielded(value: Any) -> Any:
    """A cell of a CSV file that a spreadsheet does not run: a text that it would take for a formula
    gets an apostrophe in front. Negative numbers, and all else, stay."""
    if isinstance(value, str) and RUNS.match(value) and not NUMBER.fullmatch(value):
        return SHIELD + value
    return value


def unshielded(cell: str) -> str:
    """The text of which `shielded` made a cell."""
    return cell[1:] if cell.startswith(SHIELD) and RUNS.match(cell) else cell


def read_csv(path: str | Path) -> list[dict[str, str]]:
    """The rows of a file that `write_csv` wrote; an empty cell is "". csv.Error if it is no CSV."""
    with open(path, newline="", encoding="utf-8", errors="surrogateescape") as handle:
        return [unshielded_row(row) for row in csv.DictReader(handle)]


def unshielded_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of `csv.DictReader` with the texts that were written."""
    return {k: unshielded(v) if isinstance(v, str) else v for k, v in row.items()}


def write_csv(path: str | Path, columns: Sequence[str], rows: Iterable[TableRow]) -> None:
    """Write a whole CSV file: UTF-8, lines end in \\n, None and missing values are empty fields,
    texts are `shielded`."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, lineterminator="\n", restval="")
    writer.writeheader()
    # a carriage return ends a line for readers, and the usual writer does not quote it
    quoting = csv.DictWriter(
        buffer, columns, lineterminator="\n", restval="", quoting=csv.QUOTE_ALL
    )
    for row in rows:
        cells = {k: "" if v is None else shielded(v) for k, v in row.items()}
        returns = any("\r" in str(cell) for cell in cells.values())
        (quoting if returns else writer).writerow(cells)
    write_text(path, buffer.getvalue())


def write_parquet(
    path: str | Path,
    columns: Sequence[str],
    rows: Iterable[TableRow],
    *,
    numbers: Mapping[str, type[int] | type[float]],
) -> None:
    """Write a whole Parquet file, PARQUET_ROWS rows at a time, so that memory does not limit it.

    rows: a missing, empty or None value is null;
    numbers: {column: int or float}; the other columns are text."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds = {int: pa.int64(), float: pa.float64(), str: pa.string()}
    schema = pa.schema([(name, kinds[numbers.get(name, str)]) for name in columns])
    rows = iter(rows)
    with whole_file(path) as part, pq.ParquetWriter(part, schema) as writer:
        while chunk := list(itertools.islice(rows, PARQUET_ROWS)):
            typed = [{c: _typed(row.get(c), numbers.get(c, str)) for c in columns} for row in chunk]
            writer.write_table(pa.Table.from_pylist(typed, schema))


def _typed(value: Any, kind: type) -> Any:
    if value is None or value == "":
        return None
    # Parquet cannot hold the bytes of a file name that are not UTF-8
    return kind(value) if kind is not str else str(value).encode("utf-8", "replace").decode()


def markdown(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A Markdown table with aligned columns, without a final newline.

    columns: names; rows: cells, in which | is escaped and a line break becomes a space."""
    cells = [
        [" ".join(str(c).split("\n")).replace("|", "\\|") for c in row] for row in (columns, *rows)
    ]
    widths = [max(len(row[i]) for row in cells) for i in range(len(columns))]
    lines = [
        "| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |"
        for row in cells
    ]
    lines.insert(1, "|" + "|".join("-" * (w + 2) for w in widths) + "|")
    return "\n".join(lines)
