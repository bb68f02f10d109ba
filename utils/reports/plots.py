"""Arrays to figures, in one style."""

import math
import re
import textwrap
from pathlib import Path

import numpy as np

STYLE = Path(__file__).with_name("style.mplstyle")
HATCHES = ("", "////", "....")  # runs beyond the seven colours repeat them with a pattern
VALUE_ROOM = 0.4  # share of a panel's width that is kept free for the numbers beside bars
LABEL_WIDTH, TITLE_WIDTH = 32, 24  # characters in a line


def _pyplot():
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    pyplot.style.use(STYLE)
    return pyplot


def new_axes(*grid, **options):
    """A figure and its axes in the one style; what matplotlib's `subplots` takes."""
    return _pyplot().subplots(*grid, **options)


def save(figure, path):
    """Write a PNG, and let go of the figure."""
    from matplotlib import pyplot

    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    pyplot.close(figure)


# One set of images --------------------------------------------------------------------------------


def similarity_histogram(path, best, background, *, threshold, descriptor):
    """Shares of generations and, where it was measured, of training images by similarity of their
    best match.

    best: [Q]; background: [M] or None; threshold: or None. Writes a PNG.
    """
    figure, axes = new_axes()
    everything = np.concatenate(
        [best, background if background is not None else [], [threshold or 0]]
    )
    bins = np.linspace(min(0.0, everything.min()), max(1.0, everything.max()), 41)
    weights = np.full(len(best), 100 / len(best))
    axes.hist(best, bins, weights=weights, alpha=0.85, label=f"generated images ({len(best)})")
    if background is not None:
        weights = np.full(len(background), 100 / len(background))
        axes.hist(
            background,
            bins,
            weights=weights,
            histtype="step",
            linewidth=1.8,
            color="black",
            label=f"training images among themselves ({len(background)})",
        )
    if threshold is not None:
        axes.axvline(
            threshold,
            color="#D55E00",
            linestyle="--",
            label=f"counted as a copy above {threshold:g}",
        )
    axes.set_xlabel(f"similarity to the nearest training image ({descriptor})")
    axes.set_ylabel("share of images, %")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0))  # above the axes: never over a bar
    save(figure, path)


def correlation_text(r, p):
    """Pearson's r and p for a title, such as "r = -0.31, p = 2e-4". r, p: floats; None or NaN where
    undefined."""
    if r is None or not math.isfinite(r):
        return "r undefined"
    if p is None or not math.isfinite(p):
        return f"r = {r:.2f}"
    if p < 1e-300:  # near the end of what a double holds, a p is no longer a number to read
        return f"r = {r:.2f}, p < 1e-300"
    short = f"{p:.2g}" if p >= 1e-3 else re.sub(r"e-0+", "e-", f"{p:.0e}")
    return f"r = {r:.2f}, p = {short}"


def scatter(path, x, y, *, xlabel, ylabel, r, p):
    """Points with their correlation as the title. x, y: [N]; r, p: None or NaN where undefined.
    Writes a PNG."""
    figure, axes = new_axes()
    # 1 for few points, near 0 for many: smaller and fainter, but never gone
    crowd = min(1.0, 300 / max(len(x), 1))
    axes.scatter(
        x, y, s=3 + 23 * crowd, alpha=0.03 + 0.72 * crowd**0.5, linewidths=0, rasterized=True
    )
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.set_title(f"{correlation_text(r, p)} ({len(x)} images)")
    save(figure, path)


def bars(path, bars, *, ylabel, limit=None):
    """Bars from zero with their values above. bars: [(label, value, low, high)]; low and high: ends
    of an interval, or None.

    limit: where the axis ends, as 100 for per cent; else after the highest. Writes a PNG.
    """
    labels, values, lows, highs = zip(*bars, strict=True)
    figure, axes = new_axes(figsize=(max(3.6, 1.2 + 1.25 * len(bars)), 3.8))
    axes.bar(range(len(bars)), values, width=0.6)
    for i, (value, low, high) in enumerate(zip(values, lows, highs, strict=True)):
        _interval(axes.vlines, i, low, high)
        top = max(value, value if high is None else high, 0)
        axes.annotate(f"{value:.3g}", (i, top), (0, 4), textcoords="offset points", ha="center")
    axes.set_xticks(range(len(bars)), [wrapped(label, 14) for label in labels], parse_math=False)
    axes.grid(axis="x", visible=False)
    axes.set_ylabel(ylabel)
    bottom, top = axes.get_ylim()
    if limit is not None:
        axes.set_yticks(np.linspace(0, limit, 6))
        top = limit
    axes.set_ylim(bottom, top + 0.1 * (top - bottom))  # room for the highest number
    save(figure, path)


def _interval(lines, place, low, high):
    if low is not None and high is not None:
        lines(place, low, high, color="black", linewidth=1.6)


# Several runs -------------------------------------------------------------------------------------


def wrapped(label, width=LABEL_WIDTH):
    """A label in lines of at most `width` characters, broken after / _ - or a space where it can
    be. Returns: str."""
    lines = [""]
    for piece in re.findall(r"[^/_\-\s]*[/_\-\s]|[^/_\-\s]+", label):
        for part in textwrap.wrap(piece, width, drop_whitespace=False) or [""]:
            if lines[-1] and len(lines[-1]) + len(part.rstrip()) > width:
                lines.append("")
            lines[-1] += part
    return "\n".join(line.strip() for line in lines)


def distributions(path, named, *, threshold, descriptor):
    """Similarity distributions of runs, one below the other. named: {label: [Q]}; threshold: or
    None. Writes a PNG."""
    figure, axes = new_axes(figsize=(7.2, 1.3 + _rows_height(named)))
    _draw_distributions(axes, named, threshold, descriptor)
    save(figure, path)


def metric_bars(path, panels):
    """A panel a metric, a bar a run, each run in its colour throughout. panels: [(title, [(label,
    value, low, high)])].

    value: None where the run lacks the metric; low and high: ends of an interval, or None. Writes a
    PNG."""
    columns, rows = _grid(panels)
    figure = _pyplot().figure(
        figsize=(_grid_width(columns), rows * _panel_height(panels)), layout="constrained"
    )
    _draw_panels(figure, panels)
    save(figure, path)


def comparison(path, named, panels, *, threshold, descriptor):
    """`distributions` above `metric_bars` in one figure, without the latter if there are no panels.
    Writes a PNG."""
    if not panels:
        distributions(path, named, threshold=threshold, descriptor=descriptor)
        return
    columns, rows = _grid(panels)
    heights = [1.3 + _rows_height(named), rows * _panel_height(panels)]
    figure = _pyplot().figure(
        figsize=(max(7.2, _grid_width(columns)), sum(heights)), layout="constrained"
    )
    above, below = figure.subfigures(2, 1, height_ratios=heights, hspace=0.03)
    _draw_distributions(above.subplots(), named, threshold, descriptor)
    _draw_panels(below, panels)
    save(figure, path)


def _rows_height(labels):
    """Inches that rows with these labels take."""
    return len(labels) * max(
        0.42, 0.1 + 0.16 * max(wrapped(label).count("\n") + 1 for label in labels)
    )


def _looks(labels):
    """{label: colour and pattern}: the same label looks the same wherever it is drawn."""
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


def _name_rows(axes, labels, *, shown=True):
    axes.set_yticks(
        range(len(labels)),
        [wrapped(label) if shown else "" for label in labels],
        parse_math=False,
        fontsize="small",
    )
    axes.set_ylim(len(labels) - 0.45, -0.55)  # the first run on top
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)


def _draw_distributions(axes, named, threshold, descriptor):
    scores = [np.asarray(s, np.float64) for s in named.values()]
    # a narrow kernel: the second peak, of copies, is what one looks for
    found = axes.violinplot(
        scores,
        range(len(named)),
        orientation="horizontal",
        widths=0.85,
        showextrema=False,
        bw_method=0.15,
        points=400,
    )
    for body, look in zip(found["bodies"], _looks(named).values(), strict=True):
        body.set(alpha=0.8, **look)
    for row, values in enumerate(scores):
        low, middle, high, top = np.percentile(values, (25, 50, 75, 95))
        axes.plot([low, high], [row, row], color="black", linewidth=5, solid_capstyle="butt")
        axes.plot(middle, row, "o", color="white", markeredgecolor="black", markersize=6)
        axes.plot(top, row, "|", color="black", markersize=15, markeredgewidth=2)
    marks = "dot: median; bar: quartiles; line: 95th percentile"
    if threshold is not None:
        # vermilion is a run's colour here
        axes.axvline(threshold, color="black", linestyle="--", linewidth=1.2)
        marks += f"; dashed: counted as a copy above {threshold:g}"
    axes.set_title(marks, fontsize="small")
    everything = np.concatenate([*scores, [threshold or 0]])
    axes.set_xlim(min(0.0, everything.min()) - 0.02, max(1.0, everything.max()) + 0.02)
    axes.set_xlabel(f"similarity to the nearest training image ({descriptor})")
    _name_rows(axes, list(named))


def _grid(panels):
    """Columns and rows of a grid of panels, at most four beside each other."""
    columns = min(len(panels), 4 if len(panels) > 6 else 3)
    return columns, -(-len(panels) // columns)


def _grid_width(columns):
    return 2.4 + 2.5 * columns


def _panel_height(panels):
    return (
        0.75
        + 0.18 * max(wrapped(t, TITLE_WIDTH).count("\n") for t, _ in panels)
        + _rows_height(_labels(panels))
    )


def _labels(panels):
    return list(dict.fromkeys(bar[0] for _, bars in panels for bar in bars))


def _draw_panels(figure, panels):
    columns, rows = _grid(panels)
    labels = _labels(panels)
    grid = figure.subplots(rows, columns, squeeze=False)
    for number, axes in enumerate(grid.flat):
        if number < len(panels):
            _draw_panel(axes, *panels[number], _looks(labels), named=number % columns == 0)
        else:
            axes.set_axis_off()


def _draw_panel(axes, title, bars, looks, *, named):
    rows = list(looks)
    for label, value, low, high in bars:
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
    axes.set_xlim(left, right + VALUE_ROOM * (right - left))
    _name_rows(axes, rows, shown=named)
