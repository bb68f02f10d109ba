"""Rows to CSV and Markdown."""

import csv
import io

from utils.manifest import write_text


def write_csv(path, columns, rows):
    """rows: dicts; a missing or None value is an empty field. Writes UTF-8 with \\n line ends, whole."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows({k: "" if v is None else v for k, v in row.items()} for row in rows)
    write_text(path, buffer.getvalue())


def markdown(columns, rows):
    """A Markdown table with aligned columns. columns: names; rows: lists of text, in which a | or a line's end does not end
    the cell. Returns: str without final newline."""
    cells = [[" ".join(str(c).split("\n")).replace("|", "\\|") for c in row] for row in (columns, *rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(columns))]
    lines = ["| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |" for row in cells]
    lines.insert(1, "|" + "|".join("-" * (w + 2) for w in widths) + "|")
    return "\n".join(lines)
