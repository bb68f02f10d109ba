import numpy as np
import pytest
from PIL import Image

from utils.reports import course_plot, plots

pytestmark = pytest.mark.usefixtures("drawn_plots")
VERMILION = (213, 94, 0)
COPIES = [(400, 0.0, 0.0, 1.5), (800, 0.8, 0.0, 1.9), (1200, 5.1, 2.0, 8.0)]


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def drawn_axes(monkeypatch, path, *curves, stop_at):
    """The axes as they are saved."""
    seen = []
    monkeypatch.setattr(
        course_plot, "save", lambda figure, at: (seen.extend(figure.axes), plots.save(figure, at))
    )
    course_plot.course(path, curves, stop_at=stop_at)
    return seen


def test_each_measure_has_its_curve_and_the_limit_is_named(tmp_path, monkeypatch):
    path = tmp_path / "course.png"
    curves = (
        course_plot.Curve("copies, %", COPIES, limit=2),
        course_plot.Curve("distance", [(400, 80.0, None, None), (1200, 40.0, None, None)]),
    )
    axes = drawn_axes(monkeypatch, path, *curves, stop_at=800)
    assert [a.get_title(loc="left") for a in axes] == ["copies, %", "distance"]
    assert [[t.get_text() for t in a.texts] for a in axes] == [["limit 2 %", "800"], ["800"]]
    assert list(axes[0].lines[0].get_xdata()) == [400, 800, 1200]
    assert list(axes[0].lines[0].get_ydata()) == [0.0, 0.8, 5.1]
    assert len(axes[0].collections) == 3  # intervals
    assert axes[0].get_ylim()[0] == 0
    assert (np.abs(pixels(path) - VERMILION).sum(2) < 12).sum() > 50


def test_values_below_zero_are_seen_and_nothing_is_singled_out(tmp_path, monkeypatch):
    curve = course_plot.Curve("similarity", [(1, -0.2, None, None), (2, 0.5, None, None)])
    axes = drawn_axes(monkeypatch, tmp_path / "c.png", curve, stop_at=None)
    assert axes[0].get_ylim()[0] < -0.2
    assert not axes[0].texts
