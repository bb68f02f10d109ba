"""Files of prompts (--prompts): texts, JSON and tables, and captions files, of which each image's
first caption is a prompt."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from utils.data import caption_files, tables
from utils.data.field_names import USUAL, Columns
from utils.files import text_files
from utils.generation.sampling import Prompt
from utils.runtime.errors import DataError, UsageError, require_file

COLUMN = "prompt"  # comes before other usual names; such rows are prompts, whatever else they hold


def read_prompts(file: str | Path, columns: Columns = USUAL) -> list[Prompt]:
    """Read a file of prompts: .txt with one on each line; a table (JSON lines, CSV, Parquet) with a
    column of prompts; .json with a list of texts or of objects; or a captions file.

    columns: of a table, or of objects. A captions file, which names images, gives caption 0 of each
    image, with the image's key as source_image.
    UsageError for another suffix, DataError for a file without prompts.
    """
    path = require_file("--prompts", file)
    if path.suffix.lower() == ".txt":
        _require_no_columns(path, columns)
        prompts = [Prompt(line) for line in text_files.read_lines(path) if line.strip()]
    elif path.suffix.lower() == ".json":
        prompts = _of_json(path, columns)
    elif tables.is_table(path):
        prompts = _of_rows(path, tables.rows(path), columns)
    else:
        raise UsageError(
            f"--prompts={str(path)!r} has an unknown suffix; use .txt, .json,"
            f" {', '.join(tables.SUFFIXES)}"
        )
    if not prompts or not all(isinstance(prompt.text, str) for prompt in prompts):
        raise DataError(f"--prompts={str(path)!r} holds no prompts, or entries that are not text")
    return prompts


def _require_no_columns(path: Path, columns: Columns) -> None:
    for flag, name in columns.named():
        raise UsageError(
            f"{flag}={name!r} names a column, and --prompts={str(path)!r} has none; leave it out"
        )


def _of_json(path: Path, columns: Columns) -> list[Prompt]:
    data = text_files.read_json(path, unique=True)
    if not isinstance(data, list):
        return _of_captions(path, columns)
    if data and all(isinstance(entry, dict) for entry in data):
        return _of_rows(path, tables.of_objects(path, data), columns)
    _require_no_columns(path, columns)
    return [Prompt(text) for text in data]


def _of_captions(path: Path, columns: Columns) -> list[Prompt]:
    entries = caption_files.read_file(path, columns)
    return [
        Prompt(caption_files.first_caption(path, key, value), key) for key, value in entries.items()
    ]


def _is_captions_file(fields: Iterable[str], columns: Columns) -> bool:
    """Whether rows belong to a captions file, by the columns of the first: they name an image, and
    no column is called `prompt`."""
    fields = list(fields)
    if columns.image is not None:
        return True
    return columns.has_image(fields) and COLUMN not in fields


def _of_rows(path: Path, rows: Iterable[tables.Row], columns: Columns) -> list[Prompt]:
    rows = iter(rows)
    first = next(rows, None)
    if first is None:
        return []
    if _is_captions_file(first.fields, columns):
        return _of_captions(path, columns)
    return [
        Prompt(_text(row, columns.caption_of(row.fields, row.place, first=COLUMN)))
        for row in itertools.chain([first], rows)
    ]


def _text(row: tables.Row, column: str) -> str:
    """The prompt of a row: its text, or the first of a list of texts."""
    value: Any = row.fields[column]
    text = value[0] if isinstance(value, list) and value else value
    if not isinstance(text, str) or not text.strip():
        raise DataError(f"{row.place}: {column!r} is {repr(value)[:60]}; use a text")
    return text
