import numpy as np

from tests.retrieval.second_look_by_hand import looked, pair
from tests.retrieval.test_evaluation_files import measured, sets  # noqa: F401
from utils.retrieval import second_look_shown
from utils.retrieval.decided import UNDECIDED, Decided


def test_a_row_says_what_was_found(sets):  # noqa: F811
    found = looked(measured(), [None, pair(1, 0.91234567, copied_area=0.33333), None])
    groups = Decided(near_duplicates=np.array([4, 2, 0, 0]))
    assert second_look_shown.page_columns(found, sets, groups, 1) == {
        "aligned": 0.912346,
        "aligned_match": "b.png",
        "aligned_picture": "training/b.png",
        "aligned_caption": "a caption",
        "aligned_duplicated": True,
        "transformation": "mirrored, 82 % crop, shifted 9 %",
        "box_query": [[1, 0], [0, 0], [0, 1], [1, 1]],
        "box_match": [[0, 0], [1, 0], [1, 1], [0, 1]],
        "copied_area": 0.3333,
        "agreement_picture": "agreement/training/sub/1.png",
        "query_agreement_picture": "agreement/generated/sub/1.png",
        "group": 3,
    }


def test_a_row_without_a_pair_has_the_same_columns_and_the_group_of_the_descriptors_match(sets):  # noqa: F811
    found = looked(measured(), [None, pair(1, 0.9), None])
    groups = Decided(near_duplicates=np.array([4, 0, 0, 1]))
    empty = second_look_shown.page_columns(found, sets, groups, 0)  # its best match is d.png
    assert list(empty) == list(second_look_shown.page_columns(found, sets, groups, 1))
    assert {k: v for k, v in empty.items() if v is not None} == {"group": 2}
    plain = second_look_shown.page_columns(measured(), sets, UNDECIDED, 0)
    assert set(plain.values()) == {None}


def test_what_shares_only_flat_areas_is_counted_and_named(sets):  # noqa: F811
    two = looked(measured(), [None, pair(1, 0.9), None])
    assert second_look_shown.flat_queries(two) == [0, 2]
    assert second_look_shown.flat_note(two, sets) == (
        "generated images without an aligned score, because they share only flat areas with their"
        " candidates: 2 ('sub/0.png', 'sub/2.png')"
    )
    none = looked(measured(), [pair(0, 0.1)] * 3)
    assert second_look_shown.flat_note(none, sets) is None
    assert second_look_shown.flat_note(measured(), sets) is None


def test_of_many_flat_images_the_first_are_named(sets, monkeypatch):  # noqa: F811
    monkeypatch.setattr(second_look_shown, "FLAT_NAMED", 1)
    found = looked(measured(), [None] * 3)
    assert second_look_shown.flat_note(found, sets).endswith(": 3 ('sub/0.png' and 2 more)")


def test_a_group_in_words():
    assert second_look_shown.group_in_words(3) == "one of 3 near-duplicates"
    assert second_look_shown.group_in_words(None) == ""
