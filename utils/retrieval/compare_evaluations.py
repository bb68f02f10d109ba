"""Compare evaluations: read them, check that they measured in the same way, add intervals, write a
table."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from utils.files import whole_files
from utils.reports import tables
from utils.retrieval import metrics
from utils.retrieval.compare_differences import (
    ComparedEvaluation,
    concerned,
    differences,
    images_of,
    is_metric,
    remarks,
    warnings,
)
from utils.retrieval.formulas import bootstrap
from utils.retrieval.metric_record import fits
from utils.runtime.errors import DataError, UsageError, first_line, require_dir

FLAG = "--compare_runs"
# keys that lead the table and the figure; those that further metrics show follow
FIRST_SHOWN = (
    "copy_share",
    "copy_share_dup",
    "copy_share_nodup",
    "sim_mean",
    "sim_95pc",
    "bg_95pc",
    "clipscore",
)
# key -> (column of matches.csv, statistic of it), where single images give an interval
INTERVALS = {
    "sim_mean": ("score", bootstrap.mean),
    "sim_95pc": ("score", bootstrap.percentile(95)),
    "clipscore": ("clipscore", bootstrap.mean),
}
COLUMNS = ("query", "rank", "score", "prompt")  # that matches.csv must have


def shown() -> list[str]:
    """Keys that the table shows, in order; one that ends in * stands for all keys with that
    beginning."""
    of_metrics = [key for metric in metrics.METRICS.values() for key in metric.shown]
    return list(dict.fromkeys((*FIRST_SHOWN, *of_metrics)))


@dataclass(frozen=True)
class Comparison:
    """Evaluations side by side."""

    evaluations: list[ComparedEvaluation]
    marked: frozenset[str]  # metrics that were measured differently
    notes: list[str]  # lines for the user
    seed: int  # of the resampling

    @property
    def metrics(self) -> list[str]:
        """Names of the metrics to show, in order."""
        keys = dict.fromkeys(
            key for evaluation in self.evaluations for key in evaluation.metrics if is_metric(key)
        )
        return [key for pattern in shown() for key in keys if fits(pattern, key)]

    def title(self, metric: str) -> str:
        """The metric's name, with a * where the runs measured it differently."""
        return f"{metric}*" if metric in self.marked else metric

    def table(self) -> str:
        """The table as Markdown: a row for each run, a column for each metric, with 95 % intervals
        where they are known."""
        rows = [
            [
                evaluation.label,
                images_of(evaluation),
                *(_cell(evaluation.metrics, metric) for metric in self.metrics),
            ]
            for evaluation in self.evaluations
        ]
        return tables.markdown(["run", "images", *map(self.title, self.metrics)], rows)


# Reading ------------------------------------------------------------------------------------------


def find_evaluation(path: str | Path) -> Path:
    """The evaluation in a folder: the folder itself, or the only one below its `evaluations`.
    UsageError if it holds none, or several."""
    folder: Path = require_dir(FLAG, path)
    if (folder / "metrics.json").is_file():
        return folder
    folders = sorted(
        p.parent
        for p in folder.glob("evaluations/*/metrics.json")
        if not p.parent.name.startswith(".")
    )
    if not folders:
        raise UsageError(
            f"{FLAG}={str(path)!r} holds no evaluation; give a folder that diff_retrieval.py wrote"
        )
    if len(folders) > 1:
        names = ", ".join(p.name for p in folders)
        raise UsageError(
            f"{FLAG}={str(path)!r} holds {len(folders)} evaluations; give one of them:"
            f" evaluations/{{{names}}}"
        )
    return folders[0]


def labels(folders: Sequence[Path]) -> list[str]:
    """A label for each evaluation: the parts in which the paths of the measured folders differ, or
    those of the evaluations where several measured one folder."""
    measured = [p.parent.parent if p.parent.name == "evaluations" else p for p in folders]
    if len(set(measured)) < len(measured):
        measured = list(folders)
    paths = [list(p.parts) for p in measured]
    for end in (-1, 0):
        while all(len(p) > 1 and p[end] == paths[0][end] for p in paths):
            paths = [p[:-1] if end else p[1:] for p in paths]
    # paths of one length: parts that all share are dropped
    if len({len(p) for p in paths}) == 1:
        differ = [i for i, parts in enumerate(zip(*paths, strict=True)) if len(set(parts)) > 1]
        paths = [[p[i] for i in differ] for p in paths]
    return [
        "/".join(p).encode("utf-8", "surrogateescape").decode("utf-8", "replace") for p in paths
    ]


def _numbers(data: Mapping[str, Any]) -> dict[str, float]:
    """The metrics of metrics.json: its finite numbers."""
    numeric = (
        (k, v)
        for k, v in data.items()
        if isinstance(v, int | float) and not isinstance(v, bool) and k != "version"
    )
    return {k: v for k, v in numeric if math.isfinite(v)}


def best_matches(path: Path) -> list[dict[str, Any]]:
    """Rows of rank 1 of matches.csv, or of the Parquet file in its place: one for each image.
    DataError if neither can be read."""
    if not path.exists() and path.with_suffix(".parquet").is_file():
        path = path.with_suffix(".parquet")
    rows = _parquet_rows(path) if path.suffix == ".parquet" else _csv_rows(path)
    if not rows:
        raise DataError(f"{path}: holds no match of rank 1")
    return rows


def _csv_rows(path: Path) -> list[dict[str, Any]]:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape", newline="") as handle:
            reader = csv.DictReader(handle)
            absent = [c for c in COLUMNS if c not in (reader.fieldnames or ())]
            if absent:
                raise DataError(f"{path}: has no column {absent[0]!r}")
            return [tables.unshielded_row(row) for row in reader if row["rank"] == "1"]
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    except csv.Error as error:
        raise DataError(f"{path}: is not CSV ({error})") from None


def _parquet_rows(path: Path) -> list[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = [*COLUMNS, "clipscore"]
    try:
        return pq.read_table(path, columns=columns, filters=[("rank", "==", 1)]).to_pylist()
    except (OSError, ValueError, pa.ArrowException) as error:
        raise DataError(f"{path}: cannot be read ({first_line(error)})") from None


def _column(
    path: Path, rows: Iterable[Mapping[str, Any]], name: str
) -> tuple[np.ndarray, list[str]]:
    """Numbers of a column and the prompts that they belong to; rows without a number are skipped.
    Returns: [N] float64, [N]."""
    kept = [row for row in rows if row.get(name) not in (None, "")]
    try:
        values = np.array([float(row[name]) for row in kept])
    except ValueError as error:
        raise DataError(f"{path}: column {name!r}: {error}") from None
    if not np.isfinite(values).all():
        raise DataError(f"{path}: column {name!r} holds a number that is not finite")
    # an image without a prompt stands for itself
    return values, [row["prompt"] or row["query"] for row in kept]


def _intervals(
    path: Path, rows: list[dict[str, Any]], numbers: Mapping[str, float], seed: int
) -> dict[str, float]:
    """95 % intervals of metrics that have none yet, by resampling prompts. Returns: {metric_lo:
    ..., metric_hi: ...}."""
    ends: dict[str, float] = {}
    for metric, (column, statistic) in INTERVALS.items():
        if metric in numbers and f"{metric}_lo" not in numbers:
            values, prompts = _column(path, rows, column)
            if len(set(prompts)) > 1:  # one prompt does not show how prompts differ
                low, high = bootstrap.bootstrap_statistic(values, prompts, statistic, seed=seed)
                ends |= {f"{metric}_lo": low, f"{metric}_hi": high}
    return ends


def _read_evaluation(folder: Path, label: str, seed: int) -> ComparedEvaluation:
    data = whole_files.read_manifest(folder / "metrics.json", "evaluation")
    for key in ("settings", "counts"):
        if not isinstance(data.get(key), dict):
            raise DataError(f"{folder / 'metrics.json'}: has no {key!r}")
    path = folder / "matches.csv"
    rows, numbers = best_matches(path), _numbers(data)
    numbers |= _intervals(path, rows, numbers, seed)
    scores, _ = _column(path, rows, "score")
    if not len(scores):
        raise DataError(f"{path}: column 'score' is empty")
    return ComparedEvaluation(label, folder, numbers, data["settings"], data["counts"], scores)


def read(dirs: Sequence[str | Path], *, force: bool, seed: int) -> Comparison:
    """Read the evaluations to compare, in the given order.

    dirs: folders of evaluations, or of generated images with one evaluation
    force: continue if the evaluations measured differently
    seed: of the resampling

    UsageError for folders that cannot be compared, DataError for files that cannot be read."""
    evaluations = _read_evaluations(dirs, seed)
    differing = differences(evaluations)
    if differing and not force:
        setting, labels_by_value = differing[0]
        (value, with_value), (other, with_other) = list(labels_by_value.items())[:2]
        raise UsageError(
            f"{FLAG}: {setting} is {value} in {with_value[0]!r} and {other} in {with_other[0]!r};"
            " give evaluations with equal settings, or --force to compare them anyway"
        )
    notes = [*warnings(differing), *remarks(evaluations)]
    return Comparison(evaluations, concerned(evaluations, differing), notes, seed)


def _read_evaluations(dirs: Sequence[str | Path], seed: int) -> list[ComparedEvaluation]:
    if len(dirs) < 2:
        raise UsageError(f"{FLAG} compares evaluations; give 2 folders or more, not {len(dirs)}")
    folders: dict[Path, str] = {}
    for given in dirs:
        folder = find_evaluation(given).resolve()
        if folder in folders:
            raise UsageError(
                f"{FLAG}: {str(given)!r} and {folders[folder]!r} are the same evaluation; give each"
                " once"
            )
        folders[folder] = str(given)
    return [
        _read_evaluation(folder, label, seed)
        for folder, label in zip(folders, labels(list(folders)), strict=True)
    ]


# The table ----------------------------------------------------------------------------------------


def _cell(numbers: Mapping[str, float], metric: str) -> str:
    if metric not in numbers:
        return "–"
    value = f"{numbers[metric]:.4g}"
    low, high = (numbers.get(f"{metric}{end}") for end in ("_lo", "_hi"))
    return value if low is None or high is None else f"{value} [{low:.3g}, {high:.3g}]"
