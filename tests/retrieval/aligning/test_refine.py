"""Refinement reaches a fraction of a pixel, and its correlation is the plain one."""

import numpy as np
import pytest
import torch

from tests.retrieval.aligning.pictures import scene, seen
from utils.retrieval.aligning import geometry, refine
from utils.retrieval.aligning.geometry import Placements


def full(picture):
    return geometry.fitted(geometry.thumbnail(picture))


def start(scale, rotation, shift):
    return Placements(
        geometry.linear_of(scale, rotation, mirrored=False)[None], torch.tensor([shift])
    )


def test_the_correlation_equals_numpys_over_the_mask():
    generator = torch.Generator().manual_seed(0)
    left, right = torch.rand(2, 3, 1, 9, 9, generator=generator)
    mask = (torch.rand(3, 1, 9, 9, generator=generator) > 0.4).float()
    found = refine.correlation(left, right, mask)
    for i in range(3):
        kept = mask[i, 0] > 0
        expected = np.corrcoef(left[i, 0][kept], right[i, 0][kept])[0, 1]
        assert float(found[i]) == pytest.approx(expected, abs=1e-5)


def test_a_start_that_is_a_little_off_is_improved_to_half_a_pixel():
    made = {"scale": 1.2, "rotation": 4.0, "shift": (0.05, -0.04)}
    image, match = full(seen(scene(2), **made)), full(seen(scene(2)))
    near = start(1.12, 6.5, (0.16, -0.02))  # shifts are of half a side here
    before = refine.refined(image, match, near, iterations=0)[1]
    best, score = refine.refined(image, match, near, iterations=8)
    assert score > before + 0.1
    found = geometry.transformation_of(best.linear[0].numpy(), best.shift[0].numpy())
    assert found.scale == pytest.approx(1.2, rel=0.01)
    assert found.rotation == pytest.approx(4.0, abs=0.5)
    assert found.shift == pytest.approx((0.05, -0.04), abs=0.5 / geometry.SIDE)


def test_the_best_placement_on_the_way_is_kept():
    image, match = full(seen(scene(2))), full(seen(scene(2)))
    best, score = refine.refined(image, match, start(1.0, 0.0, (0.0, 0.0)), iterations=3)
    assert float(score) == pytest.approx(1, abs=1e-4)
    assert torch.allclose(best.linear, torch.eye(2)[None], atol=0.01)


def test_a_placement_with_too_little_overlap_scores_below_any_other():
    image, match = full(seen(scene(2))), full(seen(scene(2)))
    _, score = refine.refined(image, match, start(1.0, 0.0, (1.2, 0.0)), iterations=0)
    assert float(score) == refine.TOO_SMALL
