"""What a comparison of evaluations leaves on disk: its table, its numbers and a figure."""

import hashlib
import os
import re
from pathlib import Path

from utils.files import owned_folders, whole_files
from utils.reports import plots, tables
from utils.retrieval.compare_evaluations import images_of

FILES = ("comparison.csv", "comparison.md", "comparison.json", "comparison.png")
OUR_FILES = re.compile(r"comparison\.(?:csv|md|json|png)")


def default_folder(dirs):
    """Where a comparison goes that was given no place: below the working folder, under 8 digits of
    what is compared."""
    text = "\n".join(os.path.abspath(path) for path in dirs)
    return (
        Path("comparisons")
        / hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:8]
    )


def require_ours(folder):
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


def _place(run, path):
    """The evaluation's folder as seen from the folder of the file `path`, so that both can move
    together."""
    return os.path.relpath(run.folder, path.parent)


def _write_csv(path, comparison):
    """Every number of every run under its key, ends of intervals among them."""
    keys = dict.fromkeys(
        key for metric in comparison.metrics for key in (metric, f"{metric}_lo", f"{metric}_hi")
    )
    there = dict.fromkeys(key for run in comparison.runs for key in run.metrics)
    columns = [*(key for key in keys if key in there), *(key for key in there if key not in keys)]
    rows = (
        {"run": run.label, "folder": _place(run, path), "images": images_of(run), **run.metrics}
        for run in comparison.runs
    )
    tables.write_csv(path, ["run", "folder", "images", *columns], rows)


def _write_markdown(path, comparison):
    lines = [comparison.table(), "", "In brackets: 95 % interval, resampling prompts."]
    lines += ["", *(f"- {note}" for note in comparison.notes)] if comparison.notes else []
    lines += ["", *(f"- {run.label}: `{_place(run, path)}`" for run in comparison.runs)]
    whole_files.write_text(path, "\n".join(lines) + "\n")


def _write_json(path, comparison):
    measured = [
        {
            "label": r.label,
            "folder": _place(r, path),
            "metrics": r.metrics,
            "counts": r.counts,
            "settings": r.settings,
        }
        for r in comparison.runs
    ]
    whole_files.write_manifest(
        path,
        "comparison",
        runs=measured,
        not_measured_alike=sorted(comparison.marked),
        notes=comparison.notes,
        seed=comparison.seed,
    )


def _panels(comparison):
    """Bars of every metric for plots.metric_bars; shares of copies in per cent."""
    for metric in comparison.metrics:
        percent = metric.startswith("copy_share")
        ends = [
            [run.metrics.get(f"{metric}{end}") for end in ("", "_lo", "_hi")]
            for run in comparison.runs
        ]
        values = [[v if v is None or not percent else 100 * v for v in row] for row in ends]
        title = comparison.title(metric) + (", %" if percent else "")
        yield title, [(run.label, *row) for run, row in zip(comparison.runs, values, strict=True)]


def _common(comparison, setting):
    """What all runs have for a setting, or None if they differ."""
    values = [run.settings.get(setting) for run in comparison.runs]
    return values[0] if all(v == values[0] for v in values) else None


def _draw(path, comparison):
    named = {run.label: run.scores for run in comparison.runs}
    descriptor = _common(comparison, "pt_style") or "descriptors differ*"
    threshold = _common(comparison, "copy_threshold")
    plots.comparison(
        path, named, list(_panels(comparison)), threshold=threshold, descriptor=descriptor
    )


def write(comparison, folder):
    """comparison.csv, .md, .json and .png in `folder`, put in place whole; a comparison of ours
    there is replaced.

    UsageError if the folder holds anything else. Returns: its path.
    """
    folder = require_ours(folder)

    def write_all(part):
        part.mkdir(parents=True)
        for name, write_one in zip(
            FILES, (_write_csv, _write_markdown, _write_json, _draw), strict=True
        ):
            write_one(part / name, comparison)

    owned_folders.save_folder(write_all, folder)
    return folder
