"""Arrays to figures, in one style."""

from pathlib import Path

import numpy as np

STYLE = Path(__file__).with_name("style.mplstyle")


def _axes():
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    pyplot.style.use(STYLE)
    return pyplot.subplots()


def _save(figure, path):
    from matplotlib import pyplot

    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    pyplot.close(figure)


def similarity_histogram(path, best, background, *, threshold, descriptor):
    """Shares of generations and, where it was measured, of training images by similarity of their best match.

    best: [Q]; background: [M] or None; threshold: or None. Writes a PNG.
    """
    figure, axes = _axes()
    everything = np.concatenate([best, background if background is not None else [], [threshold or 0]])
    bins = np.linspace(min(0.0, everything.min()), max(1.0, everything.max()), 41)
    weights = np.full(len(best), 100 / len(best))
    axes.hist(best, bins, weights=weights, alpha=0.85, label=f"generated images ({len(best)})")
    if background is not None:
        weights = np.full(len(background), 100 / len(background))
        axes.hist(background, bins, weights=weights, histtype="step", linewidth=1.8, color="black",
                  label=f"training images among themselves ({len(background)})")  # fmt: skip
    if threshold is not None:
        axes.axvline(threshold, color="#D55E00", linestyle="--", label=f"counted as a copy above {threshold:g}")
    axes.set_xlabel(f"similarity to the nearest training image ({descriptor})")
    axes.set_ylabel("share of images, %")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0))  # above the axes: never over a bar
    _save(figure, path)
