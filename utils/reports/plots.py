"""Figures of an evaluation and of several, as PNG in one style."""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

# (label, value, low end of the interval, high end); the ends are None without an interval
Bar = tuple[str, float, float | None, float | None]
# as Bar, where value is None if the run lacks the metric
RunBar = tuple[str, float | None, float | None, float | None]
Panel = tuple[str, Sequence[RunBar]]  # (title, a bar for each run)

STYLE = Path(__file__).with_name("style.mplstyle")
HATCHES = ("", "////", "....")  # the eighth run repeats the first colour with a pattern, and so on
VALUE_MARGIN = 0.4  # share of a panel's width, added to its right for the numbers beside bars
LABEL_WIDTH, TITLE_WIDTH = 32, 24  # characters in a line
BIN_EDGES = 41  # of the histogram of similarity
# of pictures beside the generated ones in a histogram
OUTLINED: dict[str, Any] = {"histtype": "step", "linewidth": 1.8, "color": "black"}
BAND_ALPHA = 0.18  # of the interval of a threshold
VERMILION = "#D55E00"  # of the threshold
INTERVAL_LINE = 1.6  # width of an interval, in points
# up to so many points a scatter plot draws them in full size; their area and opacity then shrink,
# to these ends
FEW_POINTS = 300
POINT_AREA, POINT_ALPHA = (3, 26), (0.03, 0.75)
# sizes in inches
FIGURE_WIDTH, BARS_HEIGHT = 7.2, 3.8
BARS_LEAST_WIDTH, BARS_MARGIN, BAR_WIDTH = 3.6, 1.2, 1.25
ROW_LEAST_HEIGHT, ROW_MARGIN, ROW_LINE = 0.42, 0.1, 0.16  # of a run: at least, plus a line
DISTRIBUTIONS_MARGIN = 1.3  # height of axis and title around the rows of distributions
PANEL_WIDTH, PANEL_LABELS_WIDTH = 2.5, 2.4
PANEL_MARGIN, PANEL_TITLE_LINE = 0.75, 0.18  # height of axis and title, plus a line of the title


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    pyplot.style.use(STYLE)
    return pyplot


def new_axes(*grid: int, **options: Any) -> tuple[Figure, Any]:
    """A new figure and its axes in the toolkit's style. The arguments are those of matplotlib's
    `subplots`."""
    return _pyplot().subplots(*grid, **options)


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG and close it."""
    from matplotlib import pyplot

    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    pyplot.close(figure)


# One set of images --------------------------------------------------------------------------------


def similarity_histogram(
    path: Path,
    best: np.ndarray,
    background: np.ndarray | None,
    *,
    threshold: float | None,
    descriptor: str,
) -> None:
    """Histogram of the similarity of generations to their nearest training image, as PNG.

    best: [Q], of generations;
    background: [M], of training images to their nearest other one; None if it was not measured;
    threshold: similarity above which a generation counts as a copy;
    descriptor: name, for the label of the axis."""
    figure, axes = new_axes()
    others = np.empty(0) if background is None else background
    everything = np.concatenate([best, others, [threshold or 0]])
    bins = np.linspace(min(0.0, everything.min()), max(1.0, everything.max()), BIN_EDGES)
    label = f"generated images ({len(best)})"
    axes.hist(best, bins, weights=_percents(best), alpha=0.85, label=label)
    if background is not None:
        axes.hist(
            background,
            bins,
            weights=_percents(background),
            **OUTLINED,
            label=f"training images among themselves ({len(background)})",
        )
    if threshold is not None:
        label = f"counted as a copy above {threshold:g}"
        axes.axvline(threshold, color=VERMILION, linestyle="--", label=label)
    axes.set_xlabel(f"similarity to the nearest training image ({descriptor})")
    axes.set_ylabel("share of images, %")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0))  # above the axes, where no bar is
    save(figure, path)


def verdict_histogram(
    path: Path,
    scores: np.ndarray,
    innocents: np.ndarray | None,
    *,
    threshold: float | None,
    interval: tuple[float, float] | None,
    score: str,
) -> None:
    """Histogram of the score that decides, of generations and of innocents, as PNG.

    scores: [Q], of each generation's best match;
    innocents: [N], of pictures that nobody copied; None without any;
    threshold: calibrated, above which a generation counts as a copy; None without one;
    interval: low and high end of the threshold, drawn as a band;
    score: its name, for the label of the axis."""
    figure, axes = new_axes()
    others = np.empty(0) if innocents is None else innocents[~np.isnan(innocents)]
    everything = np.concatenate([scores, others, [threshold or 0]])
    bins = np.linspace(min(0.0, everything.min()), max(1.0, everything.max()), BIN_EDGES)
    label = f"generated images ({len(scores)})"
    axes.hist(scores, bins, weights=_percents(scores), alpha=0.85, label=label)
    if len(others):
        label = f"pictures that nobody copied ({len(others)})"
        axes.hist(others, bins, weights=_percents(others), label=label, **OUTLINED)
    if threshold is not None:
        label = f"counted as a copy above {threshold:.3f} (calibrated)"
        axes.axvline(threshold, color=VERMILION, linestyle="--", label=label)
    if interval is not None:
        label = f"95 % interval of that threshold, {interval[0]:.3f} to {interval[1]:.3f}"
        axes.axvspan(*interval, color=VERMILION, alpha=BAND_ALPHA, linewidth=0, label=label)
    axes.set_xlabel(f"{score}, of the best match")
    axes.set_ylabel("share of images, %")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0))
    save(figure, path)


def _percents(values: np.ndarray) -> np.ndarray:
    """The weight of each value in a histogram of per cents. [N] -> [N]."""
    return np.full(len(values), 100 / len(values))


def correlation_text(r: float | None, p: float | None) -> str:
    """Pearson's r and its p value as text, such as "r = -0.31, p = 2e-4". r, p: None or NaN where
    undefined."""
    if r is None or not math.isfinite(r):
        return "r undefined"
    if p is None or not math.isfinite(p):
        return f"r = {r:.2f}"
    if p < 1e-300:  # near the smallest number of a double
        return f"r = {r:.2f}, p < 1e-300"
    short = f"{p:.2g}" if p >= 1e-3 else re.sub(r"e-0+", "e-", f"{p:.0e}")
    return f"r = {r:.2f}, p = {short}"


def scatter(
    path: Path,
    x: np.ndarray,
    y: np.ndarray,
    *,
    xlabel: str,
    ylabel: str,
    r: float | None,
    p: float | None,
) -> None:
    """Scatter plot with the correlation as its title, as PNG. x, y: [N]; r, p: as in
    `correlation_text`."""
    figure, axes = new_axes()
    size = min(1.0, FEW_POINTS / max(len(x), 1))  # 1 for few points, near 0 for many
    (area, full_area), (alpha, full_alpha) = POINT_AREA, POINT_ALPHA
    axes.scatter(
        x,
        y,
        s=area + (full_area - area) * size,
        alpha=alpha + (full_alpha - alpha) * size**0.5,
        linewidths=0,
        rasterized=True,
    )
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.set_title(f"{correlation_text(r, p)} ({len(x)} images)")
    save(figure, path)


def bars(path: Path, shown: Sequence[Bar], *, ylabel: str, limit: float | None = None) -> None:
    """Bar chart with the values above the bars, as PNG.

    shown: the bars, from left to right;
    limit: end of the axis, such as 100 for per cent; None ends it at the highest bar."""
    labels, values, lows, highs = zip(*shown, strict=True)
    width = max(BARS_LEAST_WIDTH, BARS_MARGIN + BAR_WIDTH * len(shown))
    figure, axes = new_axes(figsize=(width, BARS_HEIGHT))
    axes.bar(range(len(shown)), values, width=0.6)
    for i, (value, low, high) in enumerate(zip(values, lows, highs, strict=True)):
        _interval(axes.vlines, i, low, high)
        top = max(value, value if high is None else high, 0)
        axes.annotate(f"{value:.3g}", (i, top), (0, 4), textcoords="offset points", ha="center")
    axes.set_xticks(range(len(shown)), [wrapped(label, 14) for label in labels], parse_math=False)
    axes.grid(axis="x", visible=False)
    axes.set_ylabel(ylabel)
    bottom, top = axes.get_ylim()
    if limit is not None:
        axes.set_yticks(np.linspace(0, limit, 6))
        top = limit
    axes.set_ylim(bottom, top + 0.1 * (top - bottom))  # for the highest number
    save(figure, path)


def _interval(lines: Callable[..., Any], place: int, low: float | None, high: float | None) -> None:
    if low is not None and high is not None:
        lines(place, low, high, color="black", linewidth=INTERVAL_LINE)


# Several runs -------------------------------------------------------------------------------------


def wrapped(label: str, width: int = LABEL_WIDTH) -> str:
    """A label in lines of at most `width` characters, broken after / _ - or a space if possible."""
    lines = [""]
    for word in re.findall(r"[^/_\-\s]*[/_\-\s]|[^/_\-\s]+", label):
        for part in textwrap.wrap(word, width, drop_whitespace=False) or [""]:
            if lines[-1] and len(lines[-1]) + len(part.rstrip()) > width:
                lines.append("")
            lines[-1] += part
    return "\n".join(line.strip() for line in lines)


def distributions(
    path: Path, named: Mapping[str, np.ndarray], *, threshold: float | None, descriptor: str
) -> None:
    """Distributions of similarity of several runs, one below the other, as PNG.

    named: {label of a run: [Q] similarities}; threshold: above which a generation counts as a
    copy."""
    height = DISTRIBUTIONS_MARGIN + _rows_height(named)
    figure, axes = new_axes(figsize=(FIGURE_WIDTH, height))
    _draw_distributions(axes, named, threshold, descriptor)
    save(figure, path)


def metric_bars(path: Path, panels: Sequence[Panel]) -> None:
    """Bar charts of several metrics, a panel for each metric and a bar for each run, as PNG.

    A run has the same colour in all panels."""
    columns, rows = _grid(panels)
    figure = _pyplot().figure(
        figsize=(_grid_width(columns), rows * _panel_height(panels)), layout="constrained"
    )
    _draw_panels(figure, panels)
    save(figure, path)


def comparison(
    path: Path,
    named: Mapping[str, np.ndarray],
    panels: Sequence[Panel],
    *,
    threshold: float | None,
    descriptor: str,
) -> None:
    """`distributions` above `metric_bars` in one figure, as PNG; without panels only the
    distributions."""
    if not panels:
        distributions(path, named, threshold=threshold, descriptor=descriptor)
        return
    columns, rows = _grid(panels)
    heights = [DISTRIBUTIONS_MARGIN + _rows_height(named), rows * _panel_height(panels)]
    figure = _pyplot().figure(
        figsize=(max(FIGURE_WIDTH, _grid_width(columns)), sum(heights)), layout="constrained"
    )
    above, below = figure.subfigures(2, 1, height_ratios=heights, hspace=0.03)
    _draw_distributions(above.subplots(), named, threshold, descriptor)
    _draw_panels(below, panels)
    save(figure, path)


def _rows_height(labels: Iterable[str]) -> float:
    """Height of rows with these labels, in inches."""
    lines = [wrapped(label).count("\n") + 1 for label in labels]
    return len(lines) * max(ROW_LEAST_HEIGHT, ROW_MARGIN + ROW_LINE * max(lines))


def _looks(labels: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Colour and pattern of each label, so that a label looks the same wherever it is drawn."""
    # black is for intervals and percentiles
    colours = _pyplot().rcParams["axes.prop_cycle"].by_key()["color"][:-1]
    return {
        label: {
            "facecolor": f"#{colours[i % len(colours)].lstrip('#')}",
            "hatch": HATCHES[i // len(colours) % len(HATCHES)],
            "edgecolor": "#404040",
            "linewidth": 0.8,
        }
        for i, label in enumerate(labels)
    }


def _name_rows(axes: Axes, labels: Sequence[str], *, shown: bool = True) -> None:
    axes.set_yticks(
        range(len(labels)),
        [wrapped(label) if shown else "" for label in labels],
        parse_math=False,
        fontsize="small",
    )
    axes.set_ylim(len(labels) - 0.45, -0.55)  # the first run on top
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)


def _draw_distributions(
    axes: Axes, named: Mapping[str, np.ndarray], threshold: float | None, descriptor: str
) -> None:
    scores = [np.asarray(s, np.float64) for s in named.values()]
    # a narrow kernel, so that copies show as a second peak
    violins: Any = axes.violinplot(
        scores,
        range(len(named)),
        orientation="horizontal",
        widths=0.85,
        showextrema=False,
        bw_method=0.15,
        points=400,
    )
    for body, look in zip(violins["bodies"], _looks(named).values(), strict=True):
        body.set(alpha=0.8, **look)
    for row, values in enumerate(scores):
        low, middle, high, top = np.percentile(values, (25, 50, 75, 95))
        axes.plot([low, high], [row, row], color="black", linewidth=5, solid_capstyle="butt")
        axes.plot(middle, row, "o", color="white", markeredgecolor="black", markersize=6)
        axes.plot(top, row, "|", color="black", markersize=15, markeredgewidth=2)
    marks = "dot: median; bar: quartiles; line: 95th percentile"
    if threshold is not None:
        # black, because vermilion is the colour of a run here
        axes.axvline(threshold, color="black", linestyle="--", linewidth=1.2)
        marks += f"; dashed: counted as a copy above {threshold:g}"
    axes.set_title(marks, fontsize="small")
    everything = np.concatenate([*scores, [threshold or 0]])
    axes.set_xlim(min(0.0, everything.min()) - 0.02, max(1.0, everything.max()) + 0.02)
    axes.set_xlabel(f"similarity to the nearest training image ({descriptor})")
    _name_rows(axes, list(named))


def _grid(panels: Sequence[Panel]) -> tuple[int, int]:
    """Columns and rows of a grid of panels, at most four beside each other."""
    columns = min(len(panels), 4 if len(panels) > 6 else 3)
    return columns, -(-len(panels) // columns)


def _grid_width(columns: int) -> float:
    return PANEL_LABELS_WIDTH + PANEL_WIDTH * columns


def _panel_height(panels: Sequence[Panel]) -> float:
    further_lines = max(wrapped(title, TITLE_WIDTH).count("\n") for title, _ in panels)
    return PANEL_MARGIN + PANEL_TITLE_LINE * further_lines + _rows_height(_labels(panels))


def _labels(panels: Sequence[Panel]) -> list[str]:
    """The labels of all bars, each once."""
    return list(dict.fromkeys(bar[0] for _, shown in panels for bar in shown))


def _draw_panels(figure: Figure | SubFigure, panels: Sequence[Panel]) -> None:
    columns, rows = _grid(panels)
    labels = _labels(panels)
    grid = figure.subplots(rows, columns, squeeze=False)
    for number, axes in enumerate(grid.flat):
        if number < len(panels):
            _draw_panel(axes, *panels[number], _looks(labels), named=number % columns == 0)
        else:
            axes.set_axis_off()


def _draw_panel(
    axes: Axes,
    title: str,
    shown: Sequence[RunBar],
    looks: Mapping[str, dict[str, Any]],
    *,
    named: bool,
) -> None:
    """Draw a panel. looks: of `_looks`, for all rows; named: whether to write the labels."""
    rows = list(looks)
    for label, value, low, high in shown:
        row = rows.index(label)
        if value is None:
            axes.annotate(
                "not measured",
                (0, row),
                (4, 0),
                textcoords="offset points",
                va="center",
                color="#707070",
            )
            continue
        axes.barh(row, value, height=0.62, **looks[label])
        _interval(axes.hlines, row, low, high)
        end = max(value, value if high is None else high, 0)
        axes.annotate(f"{value:.3g}", (end, row), (5, 0), textcoords="offset points", va="center")
    axes.set_title(wrapped(title, TITLE_WIDTH), parse_math=False)
    axes.locator_params(axis="x", nbins=4)
    left, right = axes.get_xlim()
    axes.set_xlim(left, right + VALUE_MARGIN * (right - left))
    _name_rows(axes, rows, shown=named)
