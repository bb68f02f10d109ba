import numpy as np
import pytest

from tests.retrieval.second_look_by_hand import decided, looked, pair
from tests.retrieval.test_evaluation_files import measured
from utils.retrieval.decided import UNDECIDED, Decided, best_aligned, order_shown

# the descriptor's best scores are 0.8, 0.97 and 0.4; its threshold is 0.95
PAIRS = [pair(3, 0.9), None, pair(0, 0.2)]


def test_a_copy_is_above_the_calibrated_threshold_of_what_decides():
    found = looked(measured(), PAIRS)
    assert decided(0.6).copies(found).tolist() == [True, False, False]
    assert decided(0.9).copies(found).tolist() == [False] * 3  # above, not at
    assert decided(0.7, of="pixel").copies(found).tolist() == [True, True, False]


def test_without_a_calibrated_threshold_the_fixed_one_decides():
    assert UNDECIDED.copies(looked(measured(), PAIRS)).tolist() == [False, True, False]
    assert UNDECIDED.copies(measured(threshold=None)) is None


def test_aligned_of_each_image_is_nan_where_there_is_none():
    assert best_aligned(looked(measured(), PAIRS)).tolist() == pytest.approx(
        [0.9, np.nan, 0.2], nan_ok=True
    )
    assert np.isnan(best_aligned(measured())).all()


@pytest.mark.parametrize(
    ("pairs", "order"),
    [
        (None, [1, 0, 2]),
        (PAIRS, [0, 2, 1]),
        ([pair(0, 0.1), pair(0, 0.1), pair(0, 0.5)], [2, 1, 0]),  # equals by the score
        ([None, None, pair(0, -0.5)], [2, 1, 0]),
    ],
)
def test_the_order_is_by_aligned_and_nothing_to_align_is_last(pairs, order):
    found = measured() if pairs is None else looked(measured(), pairs)
    assert order_shown(found).tolist() == order


def test_groups_count_the_image_itself_and_single_images_have_none():
    groups = Decided(near_duplicates=np.array([0, 2, 1]))
    assert [groups.group_of(i) for i in range(3)] == [None, 3, 2]
    assert UNDECIDED.group_of(1) is None


def test_parts_are_known_or_not():
    parts = Decided(part_copied=np.array([True, False]))
    assert [parts.is_part(0), parts.is_part(1), UNDECIDED.is_part(0)] == [True, False, None]


def test_anything_decided_is_known():
    assert not UNDECIDED.is_known
    assert decided().is_known
    assert Decided(near_duplicates=np.zeros(2, int)).is_known
    assert (decided().by_alignment, decided(of="pixel").by_alignment) == (True, False)
    assert not UNDECIDED.by_alignment
