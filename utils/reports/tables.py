"""Rows to CSV, Parquet and Markdown."""

import csv
import io
import itertools

from utils.files.whole_files import whole_file, write_text


def write_csv(path, columns, rows):
    """rows: dicts; a missing or None value is an empty field. Writes UTF-8 with \\n line ends,
    whole."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows({k: "" if v is None else v for k, v in row.items()} for row in rows)
    write_text(path, buffer.getvalue())


def write_parquet(path, columns, rows, *, numbers):
    """rows: dicts, of text or numbers; a missing or None value is null. numbers: {column: int or
    float}, others are text. Writes whole, some thousand rows at a time, so that a long table is
    never held."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds = {int: pa.int64(), float: pa.float64(), str: pa.string()}
    schema = pa.schema([(name, kinds[numbers.get(name, str)]) for name in columns])
    rows = iter(rows)
    with whole_file(path) as part, pq.ParquetWriter(part, schema) as writer:
        while chunk := list(itertools.islice(rows, 10_000)):
            made = [{c: _typed(row.get(c), numbers.get(c, str)) for c in columns} for row in chunk]
            writer.write_table(pa.Table.from_pylist(made, schema))


def _typed(value, kind):
    if value is None or value == "":
        return None
    # a file name's bytes that are not UTF-8 have no place in Parquet
    return kind(value) if kind is not str else str(value).encode("utf-8", "replace").decode()


def markdown(columns, rows):
    """A Markdown table with aligned columns. columns: names; rows: lists of text, in which a | or a
    line's end does not end the cell. Returns: str without final newline."""
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
