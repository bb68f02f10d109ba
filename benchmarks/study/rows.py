"""Rows of docs/study.csv: what one arm gave with one seed, image by image, keyed by all of its
options."""

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
    """metrics: {name: number} without those that were not measured; the rest image by image, in
    order of generation.

    source: [Q] number of the prompt's own scene; score: [Q] s_g; duplicated: [Q] whether the source
    was duplicated or would have been; agreement: [Q] share of what the caption asks for that is
    there, NaN where it asks for nothing; colours: of its colours; entropy, jpeg_kib,
    total_variation: [Q] of the matched training image, or [0] where no finding asks for them."""

    key: str
    arm: str
    seed: int
    images: int
    training_seconds: float
    seconds: float
    date: str
    machine: str
    metrics: dict
    source: np.ndarray
    score: np.ndarray
    duplicated: np.ndarray
    agreement: np.ndarray
    colours: np.ndarray
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


def _cell(value, digits=6):
    return f"{value:.{digits}g}" if isinstance(value, float) else value


def write_rows(path, rows):
    """Write rows whole, sorted by seed and arm: two studies that found the same write the same
    lines."""
    table = [
        {name: _cell(getattr(row, name)) for name in PLAIN}
        | {name: _cell(value) for name, value in row.metrics.items()}
        | {
            name: " ".join(
                str(_cell(v, 6 if name == "score" else 4)) for v in getattr(row, name).tolist()
            )
            for name in LISTS
        }
        for row in sorted(rows, key=lambda r: (r.seed, r.arm))
    ]
    write_csv(path, COLUMNS, table)


def add_row(path, row):
    """Write a row into a file that another study may be writing into, too: what it holds by now is
    kept."""
    write_rows(path, (read_rows(path) | {row.key: row}).values())


def read_rows(path):
    """{key: Row} of a file, none if there is no file. DataError if it has not the columns that are
    written today."""
    path = Path(path)
    if not path.exists():
        return {}
    with open(path, newline="", encoding="utf-8") as handle:
        lines = csv.DictReader(handle)
        if tuple(lines.fieldnames or ()) != COLUMNS:
            raise DataError(
                f"{path}: has other columns than this version of the study writes; move it"
                " elsewhere"
            )
        return {line["key"]: _row(line) for line in lines}


def _row(line):
    metrics = {name: float(line[name]) for name in (*METRICS, "fd") if line[name]}
    plain = {name: kind(line[name]) for name, kind in PLAIN.items()}
    return Row(
        **plain,
        metrics=metrics,
        **{name: _numbers(line[name], kind) for name, kind in LISTS.items()},
    )
