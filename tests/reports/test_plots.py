import numpy as np
import pytest
from PIL import Image

from utils.reports import plots

pytestmark = pytest.mark.usefixtures("drawn_plots")
BLUE, ORANGE, GREEN, VERMILION = (0, 114, 178), (230, 159, 0), (0, 158, 115), (213, 94, 0)


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def drawn(path, colour, near=12):
    """How many pixels have a colour."""
    return int((np.abs(pixels(path) - colour).sum(2) < near).sum())


@pytest.fixture
def shown(monkeypatch):
    """Figures as they are saved: each leaves its axes' (title, texts, labels of y, axes) here."""
    seen, save = [], plots.save

    def keep(figure, path):
        figure.canvas.draw()
        for axes in figure.axes:
            texts = [t.get_text() for t in axes.texts]
            title = axes.get_title(loc="left")
            seen.append((title, texts, [t.get_text() for t in axes.get_yticklabels()], axes))
        save(figure, path)

    monkeypatch.setattr(plots, "save", keep)
    return seen


@pytest.mark.parametrize("background", [None, np.linspace(-0.2, 0.8, 30)])
@pytest.mark.parametrize("threshold", [None, 0.95])
def test_a_histogram_is_drawn_with_what_there_is(tmp_path, background, threshold):
    path = tmp_path / "plots" / "h.png"
    best = np.linspace(0.3, 1.0, 50)
    plots.similarity_histogram(path, best, background, threshold=threshold, descriptor="pixel")
    assert pixels(path).shape[1] > 600
    assert drawn(path, VERMILION) > 50 if threshold else drawn(path, VERMILION) == 0


@pytest.mark.parametrize("innocents", [None, np.append(np.linspace(-0.2, 0.6, 30), np.nan)])
@pytest.mark.parametrize(("threshold", "interval"), [(None, None), (0.62, (0.55, 0.7))])
def test_a_histogram_of_the_verdict_is_drawn_with_what_there_is(
    tmp_path, shown, innocents, threshold, interval
):
    path = tmp_path / "plots" / "v.png"
    best = np.linspace(0.3, 1.0, 50)
    plots.verdict_histogram(
        path, best, innocents, threshold=threshold, interval=interval, score="aligned"
    )
    assert pixels(path).shape[1] > 600
    assert drawn(path, VERMILION) > 50 if threshold else drawn(path, VERMILION) == 0
    axes = shown[0][3]
    assert axes.get_xlabel() == "aligned, of the best match"
    words = [text.get_text() for text in axes.get_legend().get_texts()]
    assert words == [
        "generated images (50)",
        *(["pictures that nobody copied (30)"] if innocents is not None else []),
        *(
            [
                "counted as a copy above 0.620 (calibrated)",
                "95 % interval of that threshold, 0.550 to 0.700",
            ]
            if threshold
            else []
        ),
    ]


@pytest.mark.parametrize(
    ("r", "p", "text"),
    [
        (-0.31, 2e-4, "r = -0.31, p = 2e-4"),
        (0.5, 0.0312, "r = 0.50, p = 0.031"),
        (0.5, 1.0, "r = 0.50, p = 1"),
        (0.9, 1e-120, "r = 0.90, p = 1e-120"),
        (0.99, 0.0, "r = 0.99, p < 1e-300"),
        (0.99, 5e-324, "r = 0.99, p < 1e-300"),
        (1.0, float("nan"), "r = 1.00"),
        (float("nan"), float("nan"), "r undefined"),
        (None, None, "r undefined"),
    ],
)
def test_a_correlation_in_words(r, p, text):
    assert plots.correlation_text(r, p) == text


@pytest.mark.parametrize("count", [1, 20, 20000])
def test_points_of_a_scatter_are_seen_however_many_there_are(tmp_path, shown, count):
    x, y = np.random.default_rng(0).normal(size=(2, count))
    plots.scatter(
        tmp_path / "s.png", x, y, xlabel="entropy, nats", ylabel="similarity", r=0.1, p=0.5
    )
    title, _, _, axes = shown[0]
    assert title == f"r = 0.10, p = 0.5 ({count} images)"
    assert axes.collections[0].get_rasterized()
    blue = (pixels(tmp_path / "s.png") - 255)[..., 0] < -60  # red is missing where there is blue
    assert 20 < blue.sum() < 0.6 * blue.size


def test_bars_carry_their_values_and_the_intervals_that_there_are(tmp_path, shown):
    rows = [
        ("all", 25.0, 15.6, 35.2),
        ("duplicated", 100.0, None, None),
        ("others", 0.0, None, None),
    ]
    plots.bars(tmp_path / "b.png", rows, ylabel="share, %", limit=100)
    _, texts, _, axes = shown[0]
    assert texts == ["25", "100", "0"]
    assert [b.get_height() for b in axes.patches] == [25, 100, 0]
    (interval,) = axes.collections
    assert interval.get_segments()[0].tolist() == [[0, 15.6], [0, 35.2]]
    assert axes.texts[0].xy == (0, 35.2)  # above the interval, not within it
    assert axes.get_ylim()[0] == 0
    assert max(axes.get_yticks()) == 100
    assert all(t.get_window_extent().y1 <= axes.bbox.y1 + 1 for t in axes.texts)
    assert drawn(tmp_path / "b.png", BLUE) > 1000


def test_labels_are_broken_where_names_are_and_lose_nothing():
    assert plots.wrapped("short") == "short"
    assert plots.wrapped("runs/one/gen_nomit", 10) == "runs/one/\ngen_nomit"
    assert plots.wrapped("a b c", 3) == "a b\nc"
    long = "x" * 25
    assert plots.wrapped(long, 10) == f"{'x' * 10}\n{'x' * 10}\n{'x' * 5}"
    name = "sd-v1-4/laion_10k_instancelevel_blip_duplicates/gen_rand_word"
    assert plots.wrapped(name, 12).replace("\n", "") == name
    assert max(map(len, plots.wrapped(name, 12).split("\n"))) <= 12


@pytest.mark.parametrize("threshold", [None, 0.5])
def test_distributions_name_each_run_and_fit_what_is_odd(tmp_path, shown, threshold):
    named = {"$a_1$ 100%": np.linspace(-0.4, 0.9, 50), "constant": np.ones(5), "one": [0.3]}
    plots.distributions(tmp_path / "d.png", named, threshold=threshold, descriptor="pixel")
    title, _, names, axes = shown[0]
    assert names == list(named)
    assert ("dashed: counted as a copy above 0.5" in title) == bool(threshold)
    assert any(line.get_linestyle() == "--" for line in axes.lines) == bool(threshold)
    assert axes.get_xlim()[0] < -0.4
    assert axes.get_xlim()[1] > 1
    assert axes.yaxis_inverted()  # the first run on top
    assert drawn(tmp_path / "d.png", BLUE, near=120) > 500


def test_a_run_has_its_colour_in_every_panel(tmp_path, shown):
    panels = [
        ("sim_mean*", [("a", 0.8, 0.7, 0.9), ("b", 0.5, None, None), ("c", 0.2, 0.1, 0.3)]),
        ("fid", [("b", 30.0, None, None), ("c", None, None, None), ("a", 10.0, None, None)]),
    ]
    plots.metric_bars(tmp_path / "m.png", panels)
    (first, texts, names, one), (second, others, hidden, two) = shown
    assert (first, second) == ("sim_mean*", "fid")
    assert texts == ["0.8", "0.5", "0.2"]
    assert others == ["30", "not measured", "10"]
    assert names == ["a", "b", "c"]
    assert hidden == ["", "", ""]  # the rows are named once, on the left

    def bars(axes):
        return {
            round(b.get_y() + b.get_height() / 2): (b.get_width(), b.get_facecolor())
            for b in axes.patches
        }

    assert {row: width for row, (width, _) in bars(one).items()} == {0: 0.8, 1: 0.5, 2: 0.2}
    assert {row: width for row, (width, _) in bars(two).items()} == {0: 10, 1: 30}
    assert all(bars(two)[row][1] == bars(one)[row][1] for row in (0, 1))
    assert len({colour for _, colour in bars(one).values()}) == 3
    assert len(one.collections) == 2  # intervals
    assert all(drawn(tmp_path / "m.png", c) > 300 for c in (BLUE, ORANGE, GREEN))


def test_many_runs_are_told_apart():
    looks = plots._looks([f"run {i}" for i in range(16)])
    assert len({(look["facecolor"], look["hatch"]) for look in looks.values()}) == 16
    assert "#000000" not in {look["facecolor"] for look in looks.values()}  # intervals are black


def test_rows_of_a_grid_do_not_run_into_each_other(tmp_path, shown):
    labels = [f"sd-v1-4/laion_10k_instancelevel_blip_{i}/gen_rand_word_repeat" for i in range(9)]
    panels = [
        (
            f"fd_vit_large_patch14_dinov2_{k}",
            [(name, 0.1 + i, None, None) for i, name in enumerate(labels)],
        )
        for k in range(5)
    ]
    plots.comparison(
        tmp_path / "c.png",
        {n: np.linspace(0, 1, 9) for n in labels},
        panels,
        threshold=0.5,
        descriptor="sscd",
    )
    for *_, axes in shown:
        boxes = [t.get_window_extent() for t in axes.get_yticklabels() if t.get_text()]
        assert all(not a.overlaps(b) for a, b in zip(boxes, boxes[1:], strict=False))
    titles = [axes._left_title.get_window_extent() for *_, axes in shown[1:]]
    assert all(not a.overlaps(b) for i, a in enumerate(titles) for b in titles[i + 1 :])
    assert len(shown) == 6 + 1  # of a grid of six, one panel stays empty


def test_a_comparison_without_metrics_is_the_distributions(tmp_path, shown):
    plots.comparison(
        tmp_path / "c.png",
        {"a": [0.1, 0.2], "b": [0.3, 0.4]},
        [],
        threshold=None,
        descriptor="pixel",
    )
    assert len(shown) == 1
