import pytest
from PIL import Image

from benchmarks.study import figures
from utils.reports import plots

pytestmark = pytest.mark.usefixtures("drawn_plots")


@pytest.fixture
def drawn(monkeypatch):
    """Figures as they are saved, still open."""
    seen, save = [], plots.save
    monkeypatch.setattr(
        plots, "save", lambda figure, path: (seen.append(figure), save(figure, path))
    )
    return seen


def test_a_mean_with_its_interval_and_a_line_a_seed(tmp_path, drawn):
    figures.against(
        tmp_path / "a.png",
        [16, 64],
        seeds=[[50, 10], [30, 10]],
        means=[(40, 30, 50), (10, 5, 20)],
        xlabel="images",
        ylabel="copies, %",
        log=True,
    )
    (axes,) = drawn[0].axes
    assert [
        line.get_ydata().tolist() if hasattr(line.get_ydata(), "tolist") else line.get_ydata()
        for line in axes.lines[:2]
    ] == [[50, 10], [30, 10]]
    assert axes.lines[2].get_ydata().tolist() == [40, 10]
    (whiskers,) = axes.collections
    assert [s[:, 1].tolist() for s in whiskers.get_segments()] == [[30, 50], [5, 20]]
    assert [t.get_text() for t in axes.get_xticklabels()] == ["16", "64"]
    assert axes.get_ylim()[0] == 0
    assert Image.open(tmp_path / "a.png").width > 300


def test_a_cloud_has_a_colour_a_seed(tmp_path, drawn):
    import numpy as np

    figures.cloud(
        tmp_path / "c.png",
        [np.array([[1, 0.5], [2, 0.6]]), np.array([[1, 0.7]])],
        xlabel="x",
        ylabel="y",
        r=-0.25,
    )
    (axes,) = drawn[0].axes
    assert [c.get_offsets().tolist() for c in axes.collections] == [
        [[1, 0.5], [2, 0.6]],
        [[1, 0.7]],
    ]
    assert (
        axes.collections[0].get_facecolor().tolist() != axes.collections[1].get_facecolor().tolist()
    )
    assert axes.get_title(loc="left").startswith("r = -0.25, mean of 2 seeds")


def test_copying_against_each_cost_and_names_that_do_not_cover_each_other(tmp_path, drawn):
    points = [
        ("none", "none", (60, 50, 70), {"agreement": (80, 75, 85), "fd": (200, 190, 210)}),
        ("RT", "words", (20, 10, 30), {"agreement": (70, 65, 75), "fd": (220, 210, 230)}),
        ("CWR", "words", (20.1, 10, 30), {"agreement": (70, 65, 75), "fd": (180, 170, 190)}),
    ]
    figures.trade_off(
        tmp_path / "t.png",
        points,
        ylabel="copies, %",
        panels=[("agreement", "agreement"), ("fd", "distance")],
    )
    left, right = drawn[0].axes
    assert (left.get_xlabel(), right.get_xlabel()) == ("agreement", "distance")
    assert {a.get_text(): a.xy for a in left.texts} == {
        "none": (80, 60),
        "RT": (70, 20),
        "CWR": (70, 20.1),
    }
    joined = [
        list(zip(*line.get_data(), strict=True))
        for line in left.lines
        if len(line.get_xdata()) == 3
    ]
    assert joined == [[(80, 60), (70, 20), (70, 20.1)]]  # from the baseline on
    for axes in (left, right):
        axes.figure.canvas.draw()
        boxes = [a.get_window_extent() for a in axes.texts]
        assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
