from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from tests.retrieval.second_look_by_hand import MIRRORED, WHOLE, decided, looked, pair
from tests.retrieval.test_evaluation_files import measured, sets  # noqa: F401
from utils.reports import aligned_pictures, galleries
from utils.retrieval import evaluation_pictures, gallery_pages
from utils.retrieval.decided import UNDECIDED, Decided

PAIRS = [pair(1, 0.9), None, pair(0, 0.95)]


@pytest.fixture
def rows(monkeypatch):
    """(rows, options) of every page that is drawn."""
    pages, real = [], aligned_pictures.aligned_page

    def aligned_page(shown, **options):
        pages.append((shown, options))
        return real(shown, **options)

    monkeypatch.setattr(aligned_pictures, "aligned_page", aligned_page)
    return pages


def write(tmp_path, sets, found, decisions):  # noqa: F811
    return evaluation_pictures.write_gallery(
        tmp_path / "gallery", found, sets, workers=1, unshown={}, decided=decisions
    )


def test_the_best_aligned_come_first_each_with_its_pair_and_the_descriptors_matches(
    sets,  # noqa: F811
    tmp_path,
    rows,
):
    write(tmp_path, sets, looked(measured(), PAIRS), decided(0.92))
    ((shown, options),) = rows
    assert [row.name for row in shown] == ["2.png", "0.png", "1.png"]
    assert [row.pair and (row.pair.name, row.pair.aligned, row.pair.framed) for row in shown] == [
        ("a.png", 0.95, True),
        ("b.png", 0.9, False),
        None,
    ]
    assert [[key for _, _, key in row.matches] for row in shown] == [
        ["a.png", "b.png"],
        ["d.png", "a.png"],
        ["b.png", "c.png"],
    ]
    first = shown[0]
    assert (first.pair.box_query, first.pair.box_match) == (MIRRORED, WHOLE)
    assert first.size == first.pair.size == (40, 20)
    assert first.pair.match.getpixel((64, 64)) == (0, 30, 0)  # a.png
    assert first.query.getpixel((64, 64)) == (120, 0, 0)
    assert options == {"threshold": None, "columns": 2}  # alignment decides
    page = Image.open(tmp_path / "gallery" / "page_01.png")
    assert page.size == aligned_pictures.aligned_page(shown, **options).size


def test_the_threshold_of_the_descriptor_frames_its_matches(sets, tmp_path, rows):  # noqa: F811
    found = looked(measured(), PAIRS)
    for number, (decisions, threshold) in enumerate(
        ((UNDECIDED, 0.95), (decided(0.8, of="pixel"), 0.8))
    ):
        write(tmp_path / str(number), sets, found, decisions)
        shown, options = rows[-1]
        assert options["threshold"] == threshold
        assert not any(row.pair.framed for row in shown if row.pair)


def test_without_a_second_look_the_gallery_is_as_it_was_to_the_pixel(sets, tmp_path, rows):  # noqa: F811
    write(tmp_path, sets, measured(), UNDECIDED)
    assert rows == []
    shown = Image.open(tmp_path / "gallery" / "page_01.png")

    def fitted(images, index):
        return galleries.fitted(images.open(index), galleries.SIDE)

    found = measured().matches
    plain = [
        (
            fitted(sets.generated, q),
            f"{q}.png",
            [
                (fitted(sets.training, m), s, sets.training.keys[m])
                for m, s in zip(found.indices[q], found.scores[q], strict=True)
            ],
        )
        for q in (1, 0, 2)
    ]
    wanted = galleries.match_page(plain, threshold=0.95, columns=2)
    assert np.array_equal(np.asarray(shown.convert("RGB")), np.asarray(wanted))


def test_a_calibrated_threshold_of_the_descriptor_frames_the_plain_gallery(
    sets,  # noqa: F811
    tmp_path,
    monkeypatch,
):
    drawn = {}
    real = galleries.match_page

    def match_page(rows, **options):
        drawn.update(options)
        return real(rows, **options)

    monkeypatch.setattr(galleries, "match_page", match_page)
    write(tmp_path, sets, measured(), decided(0.7, of="pixel"))
    assert drawn["threshold"] == 0.7


def test_words_below_a_pair():
    decisions = Decided(part_copied=np.array([False, True]), near_duplicates=np.array([0, 2]))
    whole, part = pair(0, 0.9), pair(1, 0.3, copied_area=0.4)
    assert gallery_pages.pair_in_words(whole, decisions, 0) == [
        "mirrored, 82 % crop, shifted 9 %",
        "82 % of its details found again",
    ]
    assert gallery_pages.pair_in_words(part, decisions, 1)[1] == (
        "40 % of its details found again, part copied, one of 3 near-duplicates"
    )
    assert gallery_pages.pair_in_words(None, decisions, 0) == [gallery_pages.FLAT]


@pytest.mark.parametrize(
    ("keys", "names"),
    [
        (["a/0.png", "a/1.png"], ["0.png", "1.png"]),
        (["flip/x.png", "exact/x.png", "exact/y.png"], ["flip/x.png", "exact/x.png", "y.png"]),
        (["a/b/x.png", "c/b/x.png", "c/d/x.png"], ["a/b/x.png", "c/b/x.png", "d/x.png"]),
        (["x.png", "a/x.png"], ["x.png", "a/x.png"]),
        (["ax.png", "x.png"], ["ax.png", "x.png"]),
        ([], []),
    ],
)
def test_names_of_pictures_from_several_folders_are_told_apart(keys, names):
    assert gallery_pages.shortest_endings(keys) == names


def test_a_gallery_of_several_folders_names_the_folder_where_it_must(
    sets,  # noqa: F811
    tmp_path,
    rows,
):
    keys = ("flip/x.png", "exact/x.png", "exact/y.png")
    queries = [replace(q, key=key) for q, key in zip(sets.queries, keys, strict=True)]
    write(tmp_path, replace(sets, queries=queries), looked(measured(), PAIRS), decided(0.92))
    assert sorted(row.name for row in rows[0][0]) == ["exact/x.png", "flip/x.png", "y.png"]
