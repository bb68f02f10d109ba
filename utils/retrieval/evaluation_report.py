"""Report an evaluation that was written: on the terminal, and to a tracker."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.reports import page_words, tracking
from utils.runtime.errors import first_line

if TYPE_CHECKING:
    from utils.runtime.parallel import Say


@dataclass(frozen=True)
class TrackerChoice:
    """Which tracker an evaluation is sent to."""

    name: str  # --report_to, or none
    project: str | None  # --wandb_project; None: that of tracking.project_name
    run_name: str | None


@dataclass(frozen=True)
class WrittenEvaluation:
    """An evaluation that was written."""

    folder: Path
    row: dict[str, float | int]  # numbers of metrics.json
    settings: dict[str, Any]
    # rows of the page's table, {name: picture as JPEG}
    table: tuple[list[dict[str, Any]], dict[str, bytes]]


def report(written: WrittenEvaluation, choice: TrackerChoice, say: Say) -> None:
    """Print the verdict and where the results are, and send them to the tracker."""
    if "copy_share_calibrated" in written.row or "show_nothing" in written.settings:
        for sentences in filter(None, page_words.headline_parts(written.row, written.settings)):
            say(sentences)
    keys = ("sim_mean", "sim_95pc", "copy_share", "bg_95pc", "clipscore", "fid")
    say("  ".join(f"{k} {written.row[k]:.4f}" for k in keys if k in written.row))
    say(f"report: {written.folder / 'report.html'}")
    try:
        hint = _track(written, choice)
    except Exception as error:  # noqa: BLE001 - a tracker's; the evaluation is written all the same
        why = first_line(error)
        hint = f"--report_to={choice.name!r} failed ({why}); the evaluation is complete"
    if hint:
        say(hint)


def _track(written: WrittenEvaluation, choice: TrackerChoice) -> str | None:
    """Send numbers, plots, the first gallery pages and the matches to the tracker. Returns: its
    hint, or None."""
    tracker = tracking.open_tracker(
        choice.name,
        folder=written.folder.parent,
        project=tracking.project_name(choice.project, "imsimv2_retrieval"),
        name=choice.run_name,
        config=written.settings,
    )
    tracker.log(written.row, 0)
    for path in sorted((written.folder / "plots").glob("*.png")):
        tracker.image(f"plots/{path.stem}", path, 0)  # a number may have the plot's name
    for page in sorted((written.folder / "gallery").glob("*.png"))[:3]:
        tracker.image(f"gallery/{page.stem}", page, 0)
    tracker.table("matches", *written.table, 0)
    tracker.finish()
    return tracker.hint
