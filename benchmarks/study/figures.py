"""Draw the figures of the study: copying against a number, and copying against its costs."""

import itertools

import numpy as np

from utils.reports import plots

BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#808080"
COLOURS = (BLUE, "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


def against(path, places, *, seeds, means, xlabel, ylabel, log=False, marks=None):
    """Draw a mean with its interval against a number, and a thin line for each seed. Writes a PNG.

    places: [N] numbers;
    seeds: for each seed [N] values;
    means: [N] (value, low, high), in the unit of ylabel as seeds are;
    marks: labels of the places, or None for the numbers themselves."""
    figure, axes = plots.new_axes(figsize=(5.2, 3.4))
    for i, values in enumerate(seeds):
        axes.plot(places, values, color=GREY, linewidth=0.8, label="one seed" if i == 0 else None)
    value, low, high = np.array(means).T
    axes.errorbar(
        places,
        value,
        (value - low, high - value),
        color=BLUE,
        marker="o",
        capsize=3,
        linewidth=2,
        label="mean, 95 % interval",
    )
    if log:
        axes.set_xscale("log")
    axes.set_xticks(places, marks or [f"{p:g}" for p in places])
    axes.minorticks_off()
    axes.set_ylim(bottom=min(0, *low))
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.legend()
    plots.save(figure, path)


def trade_off(path, points, *, ylabel, panels):
    """Draw copying against its costs, one panel per cost. Writes a PNG.

    The first point is the baseline; dashed lines go through it. The points of a group are joined by
    a line that starts at the baseline.
    points: [(label, group, (value, low, high) of copying, {cost: (value, low, high)})];
    panels: [(cost, xlabel)]."""
    figure, rows = plots.new_axes(
        1, len(panels), figsize=(5.0 * len(panels), 4.4), sharey=True, layout="constrained"
    )
    baseline, groups = points[0], dict.fromkeys(group for _, group, _, _ in points[1:])
    colours = dict(zip(groups, itertools.cycle(COLOURS), strict=False))
    for axes, (cost, xlabel) in zip(np.atleast_1d(rows), panels, strict=True):
        axes.axhline(baseline[2][0], color=ORANGE, linewidth=0.8, linestyle="--")
        axes.axvline(baseline[3][cost][0], color=ORANGE, linewidth=0.8, linestyle="--")
        for group in groups:
            line = [
                (costs[cost][0], y[0]) for _, g, y, costs in points if g in (group, baseline[1])
            ]
            axes.plot(*zip(*line, strict=True), color=colours[group], linewidth=0.8, alpha=0.6)
        for _, group, y, costs in points:
            _point(axes, costs[cost], y, colours.get(group, ORANGE))
        _name(
            axes,
            [
                (costs[cost][0], y[0], name, colours.get(group, ORANGE))
                for name, group, y, costs in points
            ],
        )
        axes.set_xlabel(xlabel)
    np.atleast_1d(rows)[0].set_ylabel(ylabel)
    plots.save(figure, path)


def _point(axes, across, up, colour):
    """Draw a point with its interval in both directions. across, up: (value, low, high)."""
    (x, left, right), (y, low, high) = across, up
    axes.errorbar(
        [x],
        [y],
        [[y - low], [high - y]],
        [[x - left], [right - x]],
        color=colour,
        marker="o",
        elinewidth=0.6,
        alpha=0.35,
    )
    axes.plot([x], [y], "o", color=colour)


def cloud(path, seeds, *, xlabel, ylabel, r):
    """Draw one dot per prompt and one colour per seed. Writes a PNG.

    seeds: for each seed [N, 2] (x, y); r: the correlation in the title."""
    figure, axes = plots.new_axes(figsize=(6.4, 3.6))
    for pairs, colour in zip(seeds, itertools.cycle(COLOURS), strict=False):
        axes.scatter(*pairs.T, s=22, alpha=0.7, linewidths=0, color=colour)
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.set_title(
        f"{plots.correlation_text(r, None)}, mean of {len(seeds)} seeds (a dot a prompt, a colour a"
        " seed)"
    )
    plots.save(figure, path)


def _name(axes, placed):
    """Write names beside points. A name covers no point and no other name if any of the tried
    places allows it."""
    axes.figure.canvas.draw()
    scale = axes.figure.dpi / 72  # pixels per point (1/72 inch)
    taken = [
        _box(*axes.transData.transform((x, y)), -4 * scale, 8 * scale, 8 * scale, -4 * scale)
        for x, y, _, _ in placed
    ]
    for x, y, label, colour in sorted(placed, key=lambda p: -p[1]):
        at, width, height = axes.transData.transform((x, y)), 5.2 * scale * len(label), 10 * scale
        places = [(side * 6, rise) for rise in (3, -11, 14, -22, 25, -33) for side in (1, -1)]
        boxes = [
            _box(*at, right * scale - (width if right < 0 else 0), width, height, rise * scale)
            for right, rise in places
        ]
        free = next(
            (i for i, box in enumerate(boxes) if not any(_overlap(box, other) for other in taken)),
            0,
        )
        taken.append(boxes[free])
        axes.annotate(
            label,
            (x, y),
            places[free],
            textcoords="offset points",
            fontsize="small",
            color=colour,
            ha="left" if places[free][0] > 0 else "right",
        )


def _box(x, y, right, width, height, up):
    return x + right, y + up, x + right + width, y + up + height


def _overlap(one, other):
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
