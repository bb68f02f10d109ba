"""Candidates for alignment: views, and both rankings, by hand."""

import numpy as np
import pytest

from utils.retrieval import candidates
from utils.retrieval.candidates import alternated, best_of_views
from utils.retrieval.descriptors.extractors import EXTRACTORS


def test_the_best_of_views_by_hand():
    """Two views, one query, the three best of each: picture 4 is in both lists."""
    scores = np.array([[[0.9, 0.5, 0.1]], [[0.8, 0.7, 0.2]]])
    indices = np.array([[[4, 2, 0]], [[3, 4, 1]]])
    assert best_of_views(scores, indices, 3).tolist() == [[4, 3, 2]]
    assert best_of_views(scores, indices, 7).tolist() == [[4, 3, 2, 1, 0, -1, -1]]


def test_places_without_a_picture_are_left_out():
    scores = np.array([[[0.9, -np.inf]], [[0.5, -np.inf]]])
    indices = np.array([[[1, -1]], [[1, -1]]])
    assert best_of_views(scores, indices, 3).tolist() == [[1, -1, -1]]


def test_equal_scores_keep_the_order_of_views():
    scores, indices = np.ones((2, 1, 2)), np.array([[[7, 5]], [[6, 7]]])
    assert best_of_views(scores, indices, 4).tolist() == [[7, 5, 6, -1]]


def test_both_rankings_alternate_by_hand():
    first, second = np.array([[1, 2, 3], [4, 5, -1]]), np.array([[9, 1, 8], [4, -1, -1]])
    assert alternated(first, second, 4).tolist() == [[1, 9, 2, 3], [4, 5, -1, -1]]
    assert alternated(first, second[:, :1], 5).tolist() == [[1, 9, 2, 3, -1], [4, 5, -1, -1, -1]]
    assert alternated(first, np.empty((2, 0), np.int64), 2).tolist() == [[1, 2], [4, 5]]


def test_views_show_the_picture_mirrored_and_its_centre(noise):
    picture = noise(0, 50, 40)
    seen = {name: np.asarray(view(picture), int) for name, view in candidates.VIEWS.items()}
    assert all(pixels.shape == (40, 50, 3) for pixels in seen.values())
    assert (seen["plain"] == np.asarray(picture)).all()
    assert (seen["mirrored"] == np.asarray(picture)[:, ::-1]).all()
    assert (seen["mirrored_centre"] == seen["centre"][:, ::-1]).all()
    middle = picture.crop((5, 4, 45, 36)).resize((50, 40))
    assert np.abs(seen["centre"] - np.asarray(middle, int)).mean() < 2


@pytest.mark.parametrize(
    ("descriptor", "count"), [("pixel", 4), ("timm", 4), ("sscd", 2), ("dino", 2)]
)
def test_views_that_are_used_without_a_flag(descriptor, count):
    assert candidates.default_views(descriptor) == tuple(candidates.VIEWS)[:count]


def test_each_view_has_features_of_its_own(wanted, noise):
    extractor = EXTRACTORS["pixel"](wanted())
    extractors = candidates.of_views(extractor, ("plain", "mirrored", "centre"))
    assert list(extractors) == ["descriptor:mirrored", "descriptor:centre"]
    mirrored = extractors["descriptor:mirrored"].transform
    picture = noise(1)
    expected = extractor.transform(candidates.VIEWS["mirrored"](picture))
    assert (mirrored(picture) == expected).all()
    assert extractors["descriptor:centre"].record["view"] == "centre"
    assert candidates.feature_name("plain") == "descriptor"
