"""Evaluations side by side: read, checked to have measured alike, with intervals, as a table."""

import csv
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from utils.files import whole_files
from utils.reports import tables
from utils.retrieval.formulas import bootstrap
from utils.runtime.errors import DataError, UsageError, first_line, require_dir

FLAG = "--compare_runs"
# what the table and the figure show, as far as some run has it; a name that ends in _ stands for
# all that begin so
SHOWN = (
    "copy_share",
    "copy_share_dup",
    "copy_share_nodup",
    "sim_mean",
    "sim_95pc",
    "bg_95pc",
    "clipscore",
    "fid",
    "fid_dcr",
    "fd_",
    "kid_mean",
    "precision",
    "recall",
    "density",
    "coverage",
    "mq_rate_05",
)
# metric -> the column of matches.csv and the statistic of it, where an interval can be had from
# single images
INTERVALS = {
    "sim_mean": ("score", bootstrap.mean),
    "sim_95pc": ("score", bootstrap.percentile(95)),
    "clipscore": ("clipscore", bootstrap.mean),
}
# a setting, or a metric's record in the settings -> beginnings of the metrics whose numbers it
# makes
_SIMILARITY = ("copy_share", "sim_", "bg_", "source_", "cc_", "pval_")
_ON_FEATURES = ("kid_", "precision", "recall", "density", "coverage")
MAKES = {
    **dict.fromkeys(
        (
            "pt_style",
            "arch",
            "preset",
            "similarity_metric",
            "weights_sha256",
            "state_sha256",
            "imsize",
            "multiscale",
            "layer",
            "patch_tokens",
            "num_loss_chunks",
        ),
        _SIMILARITY,
    ),
    "dtype": (*_SIMILARITY, *_ON_FEATURES, "fid", "fd_", "clipscore"),
    "copy_threshold": ("copy_share",),
}
RECORDS = {
    "fd": ("fd_",),
    "fid": ("fid",),
    "fid_dcr": ("fid_dcr",),
    "kid": _ON_FEATURES,
    "clip": ("clipscore",),
    "clip_dcr": ("clipscore",),
    "mq": ("mq_",),
}


@dataclass(frozen=True)
class MeasuredRun:
    """An evaluation on disk. metrics: flat numbers, intervals as _lo and _hi; scores: [Q] of the
    best matches."""

    label: str
    folder: Path
    metrics: dict
    settings: dict
    counts: dict
    scores: np.ndarray


def _is_metric(key):
    """Whether a key of metrics.json is a metric, not the end of an interval or a count."""
    return not key.endswith(("_lo", "_hi", "_n"))


@dataclass(frozen=True)
class Comparison:
    """runs: [MeasuredRun]; marked: metrics that were not measured alike; notes: lines for the
    user."""

    runs: list
    marked: frozenset
    notes: list
    seed: int

    @property
    def metrics(self):
        """Names of the metrics to show, in order."""
        there = dict.fromkeys(key for run in self.runs for key in run.metrics if _is_metric(key))
        return [
            key
            for name in SHOWN
            for key in there
            if key == name or name.endswith("_") and key.startswith(name)
        ]

    def title(self, metric):
        """The metric's name, with a * where the runs measured it differently."""
        return f"{metric}*" if metric in self.marked else metric

    def table(self):
        """A row a run, a column a metric, with 95 % intervals where there are any. Returns:
        Markdown."""
        rows = [
            [run.label, images_of(run), *(_cell(run.metrics, metric) for metric in self.metrics)]
            for run in self.runs
        ]
        return tables.markdown(["run", "images", *map(self.title, self.metrics)], rows)


# Reading ------------------------------------------------------------------------------------------


def evaluation_folder(path):
    """The evaluation that a folder is, or the only one below its `evaluations`; UsageError if there
    is none or a choice."""
    path = require_dir(FLAG, path)
    if (path / "metrics.json").is_file():
        return path
    found = sorted(
        p.parent
        for p in path.glob("evaluations/*/metrics.json")
        if not p.parent.name.startswith(".")
    )
    if not found:
        raise UsageError(
            f"{FLAG}={str(path)!r} holds no evaluation; takes a folder that diff_retrieval.py wrote"
        )
    if len(found) > 1:
        names = ", ".join(p.name for p in found)
        raise UsageError(
            f"{FLAG}={str(path)!r} holds {len(found)} evaluations; give one of them:"
            f" evaluations/{{{names}}}"
        )
    return found[0]


def labels(folders):
    """The parts of the paths that tell the evaluations apart: of the measured folders if they do,
    else of all of them."""
    paths = [p.parent.parent if p.parent.name == "evaluations" else p for p in folders]
    paths = [list(p.parts) for p in (paths if len(set(paths)) == len(paths) else folders)]
    for end in (-1, 0):
        while all(len(p) > 1 and p[end] == paths[0][end] for p in paths):
            paths = [p[:-1] if end else p[1:] for p in paths]
    # then parts stand opposite each other, and what all share can go
    if len({len(p) for p in paths}) == 1:
        differ = [i for i, parts in enumerate(zip(*paths, strict=True)) if len(set(parts)) > 1]
        paths = [[p[i] for i in differ] for p in paths]
    return [
        "/".join(p).encode("utf-8", "surrogateescape").decode("utf-8", "replace") for p in paths
    ]


def _numbers(data):
    """The metrics of metrics.json: its finite numbers."""
    numeric = (
        (k, v)
        for k, v in data.items()
        if isinstance(v, int | float) and not isinstance(v, bool) and k != "version"
    )
    return {k: v for k, v in numeric if math.isfinite(v)}


def best_matches(path):
    """Rows of matches.csv of rank 1, one an image, or of the Parquet that stands for a long one;
    DataError if there is neither, or not one."""
    if not path.exists() and path.with_suffix(".parquet").is_file():
        return _of_parquet(path.with_suffix(".parquet"))
    try:
        with open(path, encoding="utf-8", errors="surrogateescape", newline="") as handle:
            reader = csv.DictReader(handle)
            absent = [
                c
                for c in ("query", "rank", "score", "prompt")
                if c not in (reader.fieldnames or ())
            ]
            if absent:
                raise DataError(f"{path}: has no column {absent[0]!r}")
            rows = [row for row in reader if row["rank"] == "1"]
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    except csv.Error as error:
        raise DataError(f"{path}: is not CSV ({error})") from None
    if not rows:
        raise DataError(f"{path}: holds no match of rank 1")
    return rows


def _of_parquet(path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = ["query", "rank", "score", "prompt", "clipscore"]
    try:
        rows = pq.read_table(path, columns=columns, filters=[("rank", "==", 1)]).to_pylist()
    except (OSError, ValueError, pa.ArrowException) as error:
        raise DataError(f"{path}: cannot be read ({first_line(error)})") from None
    if not rows:
        raise DataError(f"{path}: holds no match of rank 1")
    return rows


def _column(path, rows, name):
    """Numbers of a column and the prompts they belong to, rows without one left out. Returns: ([N]
    float64, [N] text)."""
    kept = [row for row in rows if row.get(name) not in (None, "")]
    try:
        values = np.array([float(row[name]) for row in kept])
    except ValueError as error:
        raise DataError(f"{path}: column {name!r}: {error}") from None
    if not np.isfinite(values).all():
        raise DataError(f"{path}: column {name!r} holds a number that is not finite")
    # an image without a prompt stands for itself
    return values, [row["prompt"] or row["query"] for row in kept]


def _intervals(path, rows, metrics, seed):
    """95 % intervals of metrics that have none yet, resampling prompts. Returns: {metric_lo: ...,
    metric_hi: ...}."""
    found = {}
    for metric, (column, statistic) in INTERVALS.items():
        if metric in metrics and f"{metric}_lo" not in metrics:
            values, prompts = _column(path, rows, column)
            if len(set(prompts)) > 1:  # one prompt says nothing of how prompts differ
                low, high = bootstrap.bootstrap_statistic(values, prompts, statistic, seed=seed)
                found |= {f"{metric}_lo": low, f"{metric}_hi": high}
    return found


def _read_run(folder, label, seed):
    data = whole_files.read_manifest(folder / "metrics.json", "evaluation")
    for key in ("settings", "counts"):
        if not isinstance(data.get(key), dict):
            raise DataError(f"{folder / 'metrics.json'}: has no {key!r}")
    path = folder / "matches.csv"
    rows, metrics = best_matches(path), _numbers(data)
    metrics |= _intervals(path, rows, metrics, seed)
    scores, _ = _column(path, rows, "score")
    if not len(scores):
        raise DataError(f"{path}: column 'score' is empty")
    return MeasuredRun(label, folder, metrics, data["settings"], data["counts"], scores)


def read(dirs, *, force, seed):
    """Evaluations to compare, in the order given. dirs: paths; force: go on where they did not
    measure alike.

    seed: of the resampling. UsageError for folders that cannot be compared, DataError for files
    that cannot be read."""
    if len(dirs) < 2:
        raise UsageError(f"{FLAG} compares evaluations; takes 2 folders or more, got {len(dirs)}")
    folders = {}
    for given in dirs:
        folder = evaluation_folder(given).resolve()
        if folder in folders:
            raise UsageError(
                f"{FLAG}: {str(given)!r} and {folders[folder]!r} are the same evaluation; takes"
                " each once"
            )
        folders[folder] = str(given)
    measured = [
        _read_run(f, label, seed) for f, label in zip(folders, labels(list(folders)), strict=True)
    ]
    found = differences(measured)
    if found and not force:
        setting, values = found[0]
        (first, of_first), (other, of_other) = list(values.items())[:2]
        raise UsageError(
            f"{FLAG}: {setting} is {first} in {of_first[0]!r} and {other} in {of_other[0]!r}; takes"
            " evaluations that measured alike, or --force to compare them all the same"
        )
    return Comparison(
        measured, _concerned(measured, found), [*_warnings(found), *_remarks(measured)], seed
    )


# Whether they measured alike ----------------------------------------------------------------------


def _grouped(pairs):
    """{value as text: labels of the runs that have it}, values in the order in which they come."""
    groups = {}
    for label, value in pairs:
        groups.setdefault(value, []).append(label)
    return groups


def _shown(setting, value):
    """A setting's value for a line: 12 digits of a hash are enough to tell it."""
    return (
        value[:12]
        if setting.endswith(("sha256", "fingerprint")) and isinstance(value, str)
        else repr(value)
    )


def _record(run, name):
    """What made a metric, or None if the run lacks it. Kernel distance and coverage are of the
    features of `fid`, or of `fd` where Inception's weights were missing: the same key, on scales
    that do not agree."""
    settings = run.settings
    if name == "kid":
        has = any(key.startswith(_ON_FEATURES) for key in run.metrics)
        return (settings.get("fid") or settings.get("fd")) if has else None
    if name == "mq" and settings.get("mq"):
        return settings["mq"] | {"mq_flip": settings.get("mq_flip")}
    return settings.get(name)


def differences(measured):
    """Settings that make the numbers and are not the same everywhere; a part of a metric's record
    is named record.part.

    Returns: [(setting, {value as text: labels})], in the order of MAKES and RECORDS.
    """
    found = {s: _grouped((r.label, _shown(s, r.settings.get(s))) for r in measured) for s in MAKES}
    for name in RECORDS:
        records = [(r.label, _record(r, name)) for r in measured]
        having = [(label, record) for label, record in records if isinstance(record, dict)]
        for part in dict.fromkeys(key for _, record in having for key in record):
            found[f"{name}.{part}"] = _grouped(
                (label, _shown(part, record.get(part))) for label, record in having
            )
    return [(setting, values) for setting, values in found.items() if len(values) > 1]


def _concerned(measured, found):
    """Metrics that a difference touches: those that differ in what made them."""
    made = MAKES | RECORDS
    starts = tuple(start for setting, _ in found for start in made[setting.partition(".")[0]])
    return frozenset(
        key for run in measured for key in run.metrics if _is_metric(key) and key.startswith(starts)
    )


def _listed(values):
    return ", ".join(f"{value} ({', '.join(labels)})" for value, labels in values.items())


def _warnings(found):
    return [
        f"not measured alike: {setting}: {_listed(values)}; its metrics are marked with *"
        for setting, values in found
    ]


def _remarks(measured):
    """What differs and may: the training images, and how many images were measured where that moves
    a number."""
    trained = _grouped(
        (r.label, _shown("val_fingerprint", r.settings.get("val_fingerprint"))) for r in measured
    )
    lines = [f"training images differ: {_listed(trained)}"] if len(trained) > 1 else []
    images = _grouped((r.label, images_of(r)) for r in measured)
    if len(images) > 1 and any(
        key.startswith(("fid", "fd_")) for run in measured for key in run.metrics
    ):
        lines.append(
            f"numbers of images differ: {_listed(images)}; a Frechet distance of fewer images comes"
            " out larger"
        )
    return lines


# The table ----------------------------------------------------------------------------------------


def images_of(run):
    """How many images were measured, as text."""
    return str(run.counts.get("generated", len(run.scores)))


def _cell(metrics, metric):
    if metric not in metrics:
        return "–"
    interval = [metrics.get(f"{metric}{end}") for end in ("_lo", "_hi")]
    shown = f"{metrics[metric]:.4g}"
    return shown if None in interval else f"{shown} [{interval[0]:.3g}, {interval[1]:.3g}]"
