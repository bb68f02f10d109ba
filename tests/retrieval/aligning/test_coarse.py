"""The coarse search by Fourier transforms against loops over pixels."""

import numpy as np
import pytest
import torch

from tests.retrieval.aligning.pictures import scene, seen
from utils.retrieval.aligning import coarse, geometry

REACH = coarse.REACH


def at_coarse(picture):
    return geometry.at_side(geometry.fitted(geometry.thumbnail(picture)), coarse.SIDE)


def variant(image, place, *, of_query):
    """What an entry shows of the generated image or of the training picture."""
    scale, rotation, mirrored = coarse.ENTRIES[place]
    if not of_query:
        return geometry.shrunk(image, min(scale, 1.0))
    linear = geometry.linear_of(1, rotation, mirrored=mirrored)[None]
    turn = geometry.Placements(linear, torch.zeros(1, 2))
    return geometry.warped(geometry.shrunk(image, min(1 / scale, 1.0)), turn, coarse.SIDE)


def grey(image):
    weights = torch.tensor(coarse.LUMINANCE).view(3, 1, 1)
    return (image.colours[0] * weights).sum(0).double().numpy(), image.mask[0, 0].numpy() > 0


def naive(query, match, across, down):
    """The score of one shift, by a loop over the pixels of the overlap."""
    (q, q_mask), (m, m_mask) = grey(query), grey(match)
    pairs = []
    for y in range(coarse.SIDE):
        for x in range(coarse.SIDE):
            v, u = y + down, x + across
            inside = 0 <= v < coarse.SIDE and 0 <= u < coarse.SIDE
            if q_mask[y, x] and inside and m_mask[v, u]:
                pairs.append((q[y, x], m[v, u]))
    share = len(pairs) / min(q_mask.sum(), m_mask.sum())
    if share < coarse.LEAST_OVERLAP:
        return coarse.NOT_POSSIBLE
    a, b = np.array(pairs).T
    if min(a.std(), b.std()) <= coarse.FLAT:
        return coarse.NOT_POSSIBLE
    return 1 - (1 - np.corrcoef(a, b)[0, 1]) / share


@pytest.mark.parametrize("size", [(160, 160), (160, 96)])
def test_every_kind_of_entry_equals_a_loop_over_pixels(size):
    query, match = at_coarse(seen(scene(0)).crop((0, 0, *size))), at_coarse(seen(scene(1)))
    q, m = coarse.query_spectra(query), coarse.match_spectra(match)
    scores = coarse.correlations(q, m, coarse.beneath(q, m))
    assert scores.shape == (len(coarse.ENTRIES), coarse.SHIFTS, coarse.SHIFTS)
    rng = np.random.default_rng(0)
    possible = 0
    for place in rng.choice(len(coarse.ENTRIES), 25, replace=False):
        across, down = (int(v) for v in rng.integers(-8, 9, 2))
        q_seen, m_seen = (
            variant(query, place, of_query=True),
            variant(match, place, of_query=False),
        )
        expected = naive(q_seen, m_seen, across, down)
        possible += expected != coarse.NOT_POSSIBLE
        found = float(scores[place, down + REACH, across + REACH])
        assert found == pytest.approx(expected, abs=2e-4)
    assert possible > 10


def test_a_flat_overlap_is_not_possible():
    flat = torch.full((coarse.SIDE, coarse.SIDE), 0.5).expand(1, 3, -1, -1)
    image = geometry.Fitted(flat, torch.ones(1, 1, coarse.SIDE, coarse.SIDE))
    q, m = coarse.query_spectra(at_coarse(seen(scene(0)))), coarse.match_spectra(image)
    under = coarse.beneath(q, m)
    assert (coarse.correlations(q, m, under) == coarse.NOT_POSSIBLE).all()
    placements, scores = coarse.best_placements(q, m, under, count=3)
    assert len(scores) == len(placements.linear) == len(placements.shift) == 0


def test_what_lies_beneath_is_the_same_for_pictures_of_one_shape():
    q = coarse.query_spectra(at_coarse(seen(scene(0))))
    one, other = (coarse.match_spectra(at_coarse(seen(scene(i)))) for i in (1, 2))
    scores = coarse.correlations(q, one, coarse.beneath(q, other))
    assert (scores == coarse.correlations(q, one, coarse.beneath(q, one))).all()


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("scale", [0.595, 1.0, 1.414])
def test_the_best_placement_is_the_one_that_was_made(mirrored, scale):
    made = seen(scene(3), mirrored=mirrored, scale=scale, rotation=6.0, shift=(0.18, -0.15))
    q = coarse.query_spectra(at_coarse(made))
    m = coarse.match_spectra(at_coarse(seen(scene(3))))
    placements, scores = coarse.best_placements(q, m, coarse.beneath(q, m), count=4)
    assert (scores.diff() <= 0).all()
    found = geometry.transformation_of(placements.linear[0].numpy(), placements.shift[0].numpy())
    assert found.mirrored is mirrored
    assert found.scale == pytest.approx(scale, rel=1e-4)
    assert found.rotation == pytest.approx(6.0, abs=1e-3)
    assert found.shift == pytest.approx((0.18, -0.15), abs=1.5 / coarse.SIDE)


def test_a_correlation_on_half_of_a_picture_counts_less():
    values = coarse.lowered(torch.tensor([1.0, 0.8, 0.8]), torch.tensor([0.5, 0.5, 1.0]))
    assert values.tolist() == pytest.approx([1.0, 0.6, 0.8])
