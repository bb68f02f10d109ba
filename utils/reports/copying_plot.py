"""The figure of the checks of copies of a run: how much it copies, how alike, and both losses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.reports.plots import BAND_ALPHA, INTERVAL_LINE, VERMILION, new_axes, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH, HEIGHT = 10.0, 2.9  # of the three panels, in inches
LEAST_TOP = 10  # of the axis of copies, in per cent
# key of a row -> its name beside the curve
LOSSES = {"loss_training": "training pictures", "loss_holdout": "pictures held out"}


def copying(path: Path, checks: Sequence[Mapping[str, Any]], *, limit: float | None) -> None:
    """Copy share with its interval, similarity, and losses over the steps of a run, as PNG.

    checks: rows of metrics.jsonl that checks of copies wrote, at least one, in their order; limit:
    share of copies at which the run stops, drawn as a line across, or None."""
    figure, axes = new_axes(1, 3, figsize=(WIDTH, HEIGHT), layout="constrained")
    steps = [row["step"] for row in checks]
    _draw_share(axes[0], steps, checks, limit)
    axes[1].plot(steps, [row["sim_95pc"] for row in checks], marker="o", clip_on=False)
    # whole scales: a run in which nothing happens is drawn as a flat line
    axes[1].set_ylim(min(0, *(row["sim_95pc"] for row in checks)), 1)
    axes[1].set_title("similarity, 95th percentile")
    for key, name in LOSSES.items():
        if all(key in row for row in checks):
            axes[2].plot(steps, [row[key] for row in checks], marker="o", label=name)
    axes[2].set_ylim(bottom=0)
    axes[2].set_title("loss at fixed noise")
    axes[2].legend(fontsize="small")
    for each in axes:
        each.set_xlabel("steps")
        each.locator_params(axis="x", nbins=5, integer=True)
    save(figure, path)


def _draw_share(
    axes: Axes, steps: list[int], checks: Sequence[Mapping[str, Any]], limit: float | None
) -> None:
    share, low, high = (
        [100 * row[f"copy_share{end}"] for row in checks] for end in ("", "_lo", "_hi")
    )
    axes.plot(steps, share, marker="o", clip_on=False)
    axes.fill_between(steps, low, high, alpha=BAND_ALPHA, linewidth=0)
    axes.vlines(steps, low, high, color="black", linewidth=INTERVAL_LINE)
    if limit is not None:
        axes.axhline(100 * limit, color=VERMILION, linestyle="--")
        axes.annotate(
            f"stops above {100 * limit:g} %",
            (0, 100 * limit),
            (2, 3),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            color=VERMILION,
            fontsize="small",
        )
    axes.set_ylim(0, max(LEAST_TOP, axes.get_ylim()[1]))
    axes.set_title("copies, %")
