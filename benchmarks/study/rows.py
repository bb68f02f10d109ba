"""Rows of docs/study.csv: the results of one arm with one seed, image by image. The key of a row
depends on all of its options."""

import csv
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from utils.reports.tables import write_csv
from utils.runtime.errors import DataError

FD = "fd_tf_efficientnet_lite0"
METRICS = (
    "sim_mean",
    "sim_95pc",
    "copy_share",
    "copy_share_dup",
    "copy_share_nodup",
    "sim_dup",
    "sim_nodup",
    "cc_ent",
    "cc_comp",
    "cc_tvl",
    "cc_mixed",
)


def _numbers(text, kind=float):
    return np.array([kind(v) for v in text.split()])


@dataclass(frozen=True)
class Row:
    """The results of one arm with one seed. Arrays hold a value per image, as generated."""

    key: str  # hash of all commands that produced it
    arm: str
    seed: int
    images: int  # size of the training set
    training_seconds: float
    seconds: float  # of generation and evaluation
    date: str
    machine: str
    metrics: dict  # {name: number}, without those that were not measured
    source: np.ndarray  # [Q] int, number of the scene whose caption is the prompt
    score: np.ndarray  # [Q] similarity s_g to the nearest training image
    duplicated: np.ndarray  # [Q] 1 if the source is duplicated, or would be in such a run
    agreement: np.ndarray  # [Q] share of the caption's attributes in the picture; NaN: no caption
    colours: np.ndarray  # [Q] the same for the colours alone
    # of the matched training image, [Q], or [0] if no finding needs it
    entropy: np.ndarray
    jpeg_kib: np.ndarray
    total_variation: np.ndarray


COMPLEXITY = ("entropy", "jpeg_kib", "total_variation")
LISTS = {
    "source": int,
    "score": float,
    "duplicated": int,
    "agreement": float,
    "colours": float,
    **dict.fromkeys(COMPLEXITY, float),
}
PLAIN = {f.name: f.type for f in fields(Row) if f.name not in LISTS and f.name != "metrics"}
COLUMNS = (*PLAIN, *METRICS, "fd", *LISTS)


def cell(value, digits=6):
    """A value as it stands in a table: a float with so many digits, others as they are."""
    return f"{value:.{digits}g}" if isinstance(value, float) else value


def write_rows(path, rows):
    """Write the whole file, sorted by seed and arm. Studies with the same results write the same
    lines."""
    table = [
        {name: cell(getattr(row, name)) for name in PLAIN}
        | {name: cell(value) for name, value in row.metrics.items()}
        | {
            name: " ".join(
                str(cell(v, 6 if name == "score" else 4)) for v in getattr(row, name).tolist()
            )
            for name in LISTS
        }
        for row in sorted(rows, key=lambda r: (r.seed, r.arm))
    ]
    write_csv(path, COLUMNS, table)


def add_row(path, row):
    """Add a row to a file. Rows that another study has added in the meantime stay."""
    write_rows(path, (read_rows(path) | {row.key: row}).values())


def read_rows(path):
    """Read {key: Row}; {} if there is no file. DataError if its columns are not those of this
    version."""
    return {line["key"]: _row(line) for line in read_table(path, COLUMNS)}


def read_table(path, columns):
    """Read the lines of a study's table, [{column: text}]; [] if there is no file. DataError if its
    columns are not these."""
    path = Path(path)
    if not path.exists():
        return []
    with open(path, newline="", encoding="utf-8") as handle:
        lines = csv.DictReader(handle)
        if tuple(lines.fieldnames or ()) != columns:
            raise DataError(
                f"{path}: has other columns than this version of the study writes; move the file"
                " away"
            )
        return list(lines)


def _row(line):
    metrics = {name: float(line[name]) for name in (*METRICS, "fd") if line[name]}
    plain = {name: kind(line[name]) for name, kind in PLAIN.items()}
    return Row(
        **plain,
        metrics=metrics,
        **{name: _numbers(line[name], kind) for name, kind in LISTS.items()},
    )
