"""The files of a comparison of evaluations: its table, its numbers and a figure."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from utils.files import owned_folders, whole_files
from utils.reports import plots, tables
from utils.retrieval.compare_differences import ComparedEvaluation, images_of
from utils.retrieval.compare_evaluations import Comparison

FILES = ("comparison.csv", "comparison.md", "comparison.json", "comparison.png")
OUR_FILES = re.compile(r"comparison\.(?:csv|md|json|png)")


def default_folder(dirs: Sequence[str | Path]) -> Path:
    """The folder of a comparison without --output_dir: below the working folder, named by 8 digits
    that depend on the compared folders."""
    text = "\n".join(os.path.abspath(path) for path in dirs)
    digest = hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()
    return Path("comparisons") / digest[:8]


def require_ours(folder: str | Path) -> Path:
    """Path of the folder to write, absolute; UsageError unless it is new, empty, or a comparison
    and nothing else."""
    folder = Path(folder).resolve()
    owned_folders.require_ours(
        "--output_dir",
        folder,
        files=OUR_FILES,
        record="comparison.json",
        kind="comparison",
        writer="comparison",
    )
    return folder


def _relative(evaluation: ComparedEvaluation, path: Path) -> str:
    """The evaluation's folder relative to that of the file `path`, so that both can move
    together."""
    return os.path.relpath(evaluation.folder, path.parent)


def _write_csv(path: Path, comparison: Comparison) -> None:
    """Write every number of every run under its key, ends of intervals included."""
    leading = dict.fromkeys(
        key for metric in comparison.metrics for key in (metric, f"{metric}_lo", f"{metric}_hi")
    )
    keys = dict.fromkeys(key for evaluation in comparison.evaluations for key in evaluation.metrics)
    columns = [*(k for k in leading if k in keys), *(k for k in keys if k not in leading)]
    rows = (
        {
            "run": evaluation.label,
            "folder": _relative(evaluation, path),
            "images": images_of(evaluation),
            **evaluation.metrics,
        }
        for evaluation in comparison.evaluations
    )
    tables.write_csv(path, ["run", "folder", "images", *columns], rows)


def _write_markdown(path: Path, comparison: Comparison) -> None:
    """Write the table, its notes and the compared folders."""
    lines = [comparison.table(), "", "In brackets: 95 % interval, resampling prompts."]
    if comparison.notes:
        lines += ["", *(f"- {note}" for note in comparison.notes)]
    folders = ((e.label, _relative(e, path)) for e in comparison.evaluations)
    lines += ["", *(f"- {label}: `{folder}`" for label, folder in folders)]
    whole_files.write_text(path, "\n".join(lines) + "\n")


def _write_json(path: Path, comparison: Comparison) -> None:
    """Write all that was read and what differs."""
    evaluations = [
        {
            "label": evaluation.label,
            "folder": _relative(evaluation, path),
            "metrics": evaluation.metrics,
            "counts": evaluation.counts,
            "settings": evaluation.settings,
        }
        for evaluation in comparison.evaluations
    ]
    whole_files.write_manifest(
        path,
        "comparison",
        runs=evaluations,
        not_measured_alike=sorted(comparison.marked),
        notes=comparison.notes,
        seed=comparison.seed,
    )


def _panels(comparison: Comparison) -> Iterator[tuple[str, list[plots.RunBar]]]:
    """Bars of every metric for plots.metric_bars; shares of copies in per cent. Yields: title,
    bars."""
    for metric in comparison.metrics:
        percent = metric.startswith("copy_share")
        scale = 100 if percent else 1
        bars = []
        for evaluation in comparison.evaluations:
            ends = (evaluation.metrics.get(f"{metric}{end}") for end in ("", "_lo", "_hi"))
            value, low, high = (None if end is None else scale * end for end in ends)
            bars.append((evaluation.label, value, low, high))
        yield comparison.title(metric) + (", %" if percent else ""), bars


def _common(comparison: Comparison, setting: str) -> Any:
    """The value of a setting that all runs share, or None if they differ."""
    values = [evaluation.settings.get(setting) for evaluation in comparison.evaluations]
    return values[0] if all(v == values[0] for v in values) else None


def _draw(path: Path, comparison: Comparison) -> None:
    """Draw the distributions of similarity and the bars of every metric."""
    plots.comparison(
        path,
        {evaluation.label: evaluation.scores for evaluation in comparison.evaluations},
        list(_panels(comparison)),
        threshold=_common(comparison, "copy_threshold"),
        descriptor=_common(comparison, "pt_style") or "descriptors differ*",
    )


def write(comparison: Comparison, folder: str | Path) -> Path:
    """Write comparison.csv, .md, .json and .png as a whole; an earlier comparison is replaced.

    UsageError if the folder holds anything else. Returns: the folder.
    """
    folder = require_ours(folder)

    def write_all(part: Path) -> None:
        part.mkdir(parents=True)
        writers = (_write_csv, _write_markdown, _write_json, _draw)
        for name, write_one in zip(FILES, writers, strict=True):
            write_one(part / name, comparison)

    owned_folders.save_folder(write_all, folder)
    return folder
