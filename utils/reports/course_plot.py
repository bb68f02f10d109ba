"""The figure of what happened over training: a curve for each measure, as PNG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from utils.reports.plots import INTERVAL_LINE, VERMILION, new_axes, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# (step, value, low end of the interval, high end); the ends are None without an interval
Point = tuple[int, float, float | None, float | None]

CURVE_WIDTH, CURVE_HEIGHT = 3.3, 2.9  # of a curve, in inches


@dataclass(frozen=True)
class Curve:
    """A measure at several checkpoints."""

    title: str
    points: Sequence[Point]  # in the order of their steps; at least one
    limit: float | None = None  # in per cent; drawn as a line across, and named


def course(path: Path, curves: Sequence[Curve], *, stop_at: int | None) -> None:
    """Curves over the steps of a training, side by side, as PNG.

    curves: at least one; stop_at: step that is singled out in each, or None."""
    figure, grid = new_axes(
        1,
        len(curves),
        squeeze=False,
        figsize=(CURVE_WIDTH * len(curves), CURVE_HEIGHT),
        layout="constrained",
    )
    for axes, curve in zip(grid.flat, curves, strict=True):
        _draw(axes, curve, stop_at)
    save(figure, path)


def _draw(axes: Axes, curve: Curve, stop_at: int | None) -> None:
    steps, values, lows, highs = zip(*curve.points, strict=True)
    axes.plot(steps, values, marker="o", markersize=5, clip_on=False)
    for step, low, high in zip(steps, lows, highs, strict=True):
        if low is not None and high is not None:
            axes.vlines(step, low, high, color="black", linewidth=INTERVAL_LINE)
    if curve.limit is not None:
        axes.axhline(curve.limit, color=VERMILION, linestyle="--")
        axes.annotate(
            f"limit {curve.limit:g} %",
            (0, curve.limit),
            (2, 3),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            color=VERMILION,
            fontsize="small",
        )
    if stop_at is not None:
        axes.axvline(stop_at, color="black", linestyle=":", linewidth=1.2)
        axes.annotate(
            f"{stop_at:,}",
            (stop_at, 1),
            (3, -10),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            fontsize="small",
        )
    axes.set_title(curve.title)
    axes.set_xlabel("steps")
    axes.locator_params(axis="x", nbins=5, integer=True)
    axes.locator_params(axis="y", nbins=5)
    if min(v for v in (*values, *lows) if v is not None) >= 0:
        axes.set_ylim(bottom=0)
