"""The second look at an index: rows become places, and an image is no innocent of itself."""

import numpy as np

from tests.retrieval.second_look_by_hand import pair
from utils.index import index_verdict
from utils.index.index_verdict import IndexSource
from utils.retrieval.second_look import SecondLook


def test_rows_of_an_index_become_places_by_hand():
    look = SecondLook(
        [pair(40, 0.9), None],
        np.array([[0.9, 0.1], [np.nan, np.nan]]),
        np.array([[40, 7], [12, -1]]),
    )
    placed = index_verdict.in_places(look, np.array([7, 12, 40]))
    assert placed.candidates.tolist() == [[2, 0], [1, -1]]
    assert placed.pairs[0].match == 2
    assert placed.pairs[1] is None
    assert index_verdict.in_places(None, np.array([7])) is None


class Alone:
    main = True

    def share(self, value):
        return value


def test_an_image_of_the_index_matches_neither_itself_nor_its_near_duplicates():
    """By hand: image 5 is the first match of itself, image 8 a near-duplicate of it."""
    scores, rows = np.array([[1.0, 0.97, 0.6, 0.4]]), np.array([[5, 8, 2, 3]])
    asked = []

    def search(vectors, k):
        asked.append(k)
        return scores, rows

    reading = type("Reading", (), {"processes": Alone()})()
    view = type("View", (), {"numpy": lambda self: np.zeros((1, 4))})()
    source = IndexSource(None, search, 0.95, reading, print)
    best, found = source.nearest([view, view], 2, np.array([5]))
    assert found.tolist() == [[[2, 3]], [[2, 3]]]
    assert best.tolist() == [[[0.6, 0.4]], [[0.6, 0.4]]]
    assert asked == [2 + index_verdict.MORE_MATCHES] * 2
    far = IndexSource(None, search, None, reading, print)
    assert far.nearest([view], 2, np.array([5]))[1].tolist() == [[[8, 2]]]
    assert far.nearest([view], 2, None)[1].tolist() == [[[5, 8, 2, 3]]]
