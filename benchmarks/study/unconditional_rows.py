"""Rows of docs/study_unconditional.csv: the numbers of one arm with one seed."""

import csv
import datetime
from dataclasses import dataclass

from benchmarks.study.rows import FD, cell, read_table
from utils.files.whole_files import read_json
from utils.reports.tables import write_csv
from utils.retrieval.formulas.memorized import threshold_names

MQ = tuple(f"mq_rate_{name}" for name in threshold_names())
METRICS = (*MQ, "nl2_share", "copy_share", "sim_mean", "fd")
PLAIN = {
    "key": str,
    "arm": str,
    "seed": int,
    "training_seconds": float,
    "seconds": float,
    "date": str,
    "machine": str,
}
COLUMNS = (*PLAIN, *METRICS, "skipped")


@dataclass(frozen=True)
class Row:
    """The numbers of one arm with one seed."""

    key: str  # hash of all commands that produced it
    arm: str
    seed: int
    training_seconds: float
    seconds: float  # of generation and evaluation
    date: str
    machine: str
    metrics: dict  # {name of METRICS: number}
    skipped: float | None  # share of draws that control skipped; None without


def read_arm(plan, name, seed, *, machine, seconds):
    """Return the Row of an arm whose commands have run."""
    near, far = (read_json(folder / "metrics.json") for folder in plan.reports(name, seed))
    run = plan.run(plan.needs(name), seed)
    return Row(
        key=plan.key(name, seed),
        arm=name,
        seed=seed,
        training_seconds=float(read_json(run / "run.json")["seconds"]),
        seconds=float(seconds),
        date=datetime.date.today().isoformat(),
        machine=machine,
        metrics={name: float(near[name]) for name in METRICS[:-1]} | {"fd": float(far[FD])},
        skipped=_skipped(run / "skips.csv"),
    )


def _skipped(path):
    if not path.exists():
        return None
    with open(path, newline="", encoding="utf-8") as handle:
        counts = [(int(line["drawn"]), int(line["skipped"])) for line in csv.DictReader(handle)]
    drawn, skipped = map(sum, zip(*counts, strict=True))
    return skipped / drawn


def write_rows(path, rows):
    """Write the whole file, sorted by seed and arm."""
    table = [
        {name: cell(getattr(row, name)) for name in PLAIN}
        | {name: cell(row.metrics[name]) for name in METRICS}
        | {"skipped": "" if row.skipped is None else cell(row.skipped)}
        for row in sorted(rows, key=lambda row: (row.seed, row.arm))
    ]
    write_csv(path, COLUMNS, table)


def add_row(path, row):
    """Add a row to a file."""
    write_rows(path, (read_rows(path) | {row.key: row}).values())


def read_rows(path):
    """Read {key: Row}; {} if there is no file. DataError if its columns are not those of this
    version."""
    return {line["key"]: _row(line) for line in read_table(path, COLUMNS)}


def _row(line):
    plain = {name: kind(line[name]) for name, kind in PLAIN.items()}
    metrics = {name: float(line[name]) for name in METRICS}
    skipped = float(line["skipped"]) if line["skipped"] else None
    return Row(**plain, metrics=metrics, skipped=skipped)
