"""Page rows and plots of an evaluation with a second look; those without one are in
test_evaluation_files.py."""

import dataclasses
import io

import numpy as np
import pytest
from PIL import Image

from tests.retrieval.second_look_by_hand import WHOLE, decided, looked, pair
from tests.retrieval.test_evaluation_files import SHARE, measured, sets  # noqa: F401
from utils.reports.page import VERDICT_PLOT
from utils.retrieval import evaluation_pictures
from utils.retrieval.decided import Decided
from utils.retrieval.evaluation_sets import TrainingFacts

PAIRS = [pair(1, 0.9), None, pair(0, 0.95)]


def rows_of(sets, found, decisions):  # noqa: F811
    return evaluation_pictures.page_rows(found, sets, workers=2, unshown={}, decided=decisions)


def test_rows_are_in_the_order_of_aligned_and_say_what_counts(sets):  # noqa: F811
    decisions = decided(0.92, part_copied=np.array([True, False, False]))
    rows, _ = rows_of(sets, looked(measured(), PAIRS), decisions)
    assert [r["query"] for r in rows] == ["sub/2.png", "sub/0.png", "sub/1.png"]
    assert [(r["aligned"], r["copy"], r["part"]) for r in rows] == [
        (0.95, True, False),
        (0.9, False, True),
        (None, False, False),
    ]
    # what the descriptor found stays beside it
    assert [(r["match"], r["aligned_match"]) for r in rows] == [
        ("a.png", "a.png"),
        ("d.png", "b.png"),
        ("b.png", None),
    ]
    assert len({tuple(r) for r in rows}) == 1  # trackers want the same columns in each row


def test_every_picture_of_a_pair_is_there(sets):  # noqa: F811
    rows, pictures = rows_of(sets, looked(measured(), PAIRS), decided())
    named = {v for r in rows for k, v in r.items() if k.endswith("_picture") and v is not None}
    assert named == set(pictures)
    assert len(pictures) == 3 + 3 + 2 * 2  # generated, training, two maps of two pairs
    sizes = {Image.open(io.BytesIO(data)).size for data in pictures.values()}
    assert sizes == {(40, 20)}


def test_maps_lie_over_both_images_of_the_pair(sets):  # noqa: F811
    agreement = np.zeros((40, 40), np.uint8)
    agreement[:, :20] = 255  # the left half of the training image, the right of the generated one
    pairs = [pair(1, 0.9, agreement=agreement, box_match=WHOLE), None, None]
    rows, pictures = rows_of(sets, looked(measured(), pairs), decided())

    def reds(name):
        image = Image.open(io.BytesIO(pictures[rows[0][name]])).convert("RGB")
        return [image.getpixel((x, 10))[0] - image.getpixel((x, 10))[2] for x in (6, 33)]

    left, right = reds("agreement_picture")  # b.png is (60, 30, 0)
    assert left > 40
    assert abs(right) < 10
    grey = Image.open(io.BytesIO(pictures[rows[0]["query_agreement_picture"]])).convert("RGB")
    left, right = (grey.getpixel((x, 10))[0] for x in (6, 33))  # generation 0 is black
    assert left > 80
    assert right < 20


def test_long_captions_of_aligned_images_are_cut(sets):  # noqa: F811
    long = dataclasses.replace(sets, known=TrainingFacts(captions={"b.png": "é" * 9000}))
    rows, _ = rows_of(long, looked(measured(), [pair(1, 0.9), None, None]), decided())
    assert rows[0]["aligned_caption"] == "é" * 499 + "…"


def test_decisions_without_a_second_look_are_in_the_rows(sets):  # noqa: F811
    decisions = decided(0.7, of="pixel", near_duplicates=np.array([0, 0, 0, 1]))
    rows, _ = rows_of(sets, measured(), decisions)
    assert [(r["query"], r["copy"], r["group"], r["aligned"]) for r in rows] == [
        ("sub/1.png", True, None, None),
        ("sub/0.png", True, 2, None),
        ("sub/2.png", False, None, None),
    ]
    plain, _ = rows_of(sets, measured(), Decided())
    assert "copy" not in plain[0]


# Plots --------------------------------------------------------------------------------------------


@pytest.fixture
def drawn(monkeypatch):
    """What the plots of histograms and bars are given, by the name of the file."""
    given = {}
    for name in ("similarity_histogram", "verdict_histogram", "bars"):
        monkeypatch.setattr(
            evaluation_pictures.plots,
            name,
            lambda path, *values, **named: given.update({path.name: (values, named)}),
        )
    return given


def plot(tmp_path, found, decisions, row=None):
    return evaluation_pictures.write_plots(
        tmp_path,
        measured=found,
        row=row or {},
        settings={"pt_style": "pixel"},
        decided=decisions,
    )


def test_the_histogram_of_aligned_leaves_out_what_has_none(tmp_path, drawn):
    made = plot(tmp_path, looked(measured(), PAIRS), decided())
    assert [path.name for path, _ in made] == ["similarity.png", VERDICT_PLOT]
    (scores, innocents), named = drawn[VERDICT_PLOT]
    assert scores.tolist() == [0.9, 0.95]
    assert innocents.tolist() == [0.1, 0.2, 0.3, 0.55]
    assert named == {"threshold": 0.6, "interval": (0.5, 0.7), "score": "aligned"}
    assert list(drawn["similarity.png"][0][0]) == [0.8, 0.97, 0.4]  # stays


def test_the_histogram_of_the_score_that_decides_without_alignment(tmp_path, drawn):
    plot(tmp_path, measured(), decided(0.7, of="pixel"))
    (scores, _), named = drawn[VERDICT_PLOT]
    assert (scores.tolist(), named["score"]) == ([0.8, 0.97, 0.4], "pixel")


def test_a_second_look_without_a_threshold_is_drawn_without_one(tmp_path, drawn):
    plot(tmp_path, looked(measured(), PAIRS), Decided())
    (scores, innocents), named = drawn[VERDICT_PLOT]
    assert (scores.tolist(), innocents) == ([0.9, 0.95], None)
    assert named == {"threshold": None, "interval": None, "score": "aligned"}


@pytest.mark.parametrize("pairs", [None, [None] * 3])
def test_without_aligned_scores_there_is_no_such_histogram(tmp_path, drawn, pairs):
    found = measured() if pairs is None else looked(measured(), pairs)
    made = plot(tmp_path, found, Decided())
    assert [path.name for path, _ in made] == ["similarity.png"]


def test_bars_of_both_thresholds_and_of_parts(tmp_path, drawn):
    row = dict(SHARE)
    for key, value in (("copy_share_calibrated", 0.1), ("part_copied_share", 0.05)):
        row |= {key: value, f"{key}_lo": 0.0, f"{key}_hi": 0.2}
    plot(tmp_path, looked(measured(), PAIRS), decided(), row)
    (bars,), _ = drawn["copy_share.png"]
    assert [(words.replace("\n", " "), value) for words, value, *_ in bars] == [
        ("all", pytest.approx(10)),
        ("all, fixed threshold", pytest.approx(30)),
        ("a part copied", pytest.approx(5)),
    ]
