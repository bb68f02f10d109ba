"""Pictures on a square, placements and their boxes, by hand."""

import numpy as np
import pytest
import torch
from PIL import Image

from utils.retrieval.aligning import geometry
from utils.retrieval.aligning.geometry import Fitted, Placements

SQUARE = (64, 64)
CORNERS = ((0, 0), (1, 0), (1, 1), (0, 1))
EVERYWHERE = torch.ones(1, 1, 8, 8)


def test_a_thumbnail_lies_in_the_middle_of_a_square_and_knows_its_size():
    wide = geometry.thumbnail(Image.new("RGB", (200, 100), (255, 0, 0)))
    assert wide.shape == (geometry.LENGTH,)
    assert wide.dtype == torch.uint8
    assert geometry.sides_of(wide) == (64, 32)
    fitted = geometry.fitted(wide)
    rows = fitted.mask[0, 0].sum(1)
    assert rows.tolist() == [0] * 16 + [64] * 32 + [0] * 16
    assert (fitted.colours[0, 0] == fitted.mask[0, 0]).all()
    assert (fitted.colours[0, 1:] == 0).all()
    assert geometry.sides_of(geometry.thumbnail(Image.new("RGB", (1, 900)))) == (1, 64)


def test_edges_are_not_mixed_with_what_lies_around():
    small = geometry.at_side(
        geometry.fitted(geometry.thumbnail(Image.new("RGB", (90, 50), (200, 100, 50)))), 32
    )
    inside = small.mask.expand(-1, 3, -1, -1) > 0
    expected = torch.tensor([200, 100, 50]).view(1, 3, 1, 1).expand(1, 3, 32, 32) / 255
    assert small.colours[inside].tolist() == pytest.approx(expected[inside].tolist(), abs=1e-5)
    assert (small.colours[~inside] == 0).all()
    half = geometry.shrunk(small, 0.5)
    assert half.mask[0, 0, 16].sum() == 16


def test_a_shift_and_a_mirroring_by_hand():
    colours = torch.arange(64.0).view(1, 1, 8, 8).expand(1, 3, 8, 8) / 64
    image = Fitted(colours, EVERYWHERE)
    right = Placements(torch.eye(2)[None], torch.tensor([[0.25, 0.0]]))  # a pixel is 0.25 wide
    moved = geometry.warped(image, right, 8)
    assert torch.allclose(moved.colours[..., :7], colours[..., 1:], atol=1e-6)
    assert (moved.mask[..., 7] == 0).all()
    linear = geometry.linear_of(1, 0, mirrored=True)[None]
    flipped = geometry.warped(image, Placements(linear, torch.zeros(1, 2)), 8)
    assert torch.allclose(flipped.colours, colours.flip(3), atol=1e-6)


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize(("scale", "rotation"), [(1.0, 0.0), (0.5, 12.0), (1.7, -7.5)])
def test_a_placement_is_read_as_it_was_made(mirrored, scale, rotation):
    linear = geometry.linear_of(scale, rotation, mirrored=mirrored).numpy()
    found = geometry.transformation_of(linear, np.array([0.2, -0.4]))
    assert found.mirrored is mirrored
    assert found.scale == pytest.approx(scale, rel=1e-5)
    assert found.rotation == pytest.approx(rotation, abs=1e-3)
    assert found.shift == pytest.approx((0.1, -0.2))
    assert found.stretch == pytest.approx(1)


def test_a_rotation_is_counter_clockwise():
    """A quarter turn takes the right to the top; y points down."""
    assert np.allclose(geometry.linear_of(1, 90, mirrored=False) @ np.array([1.0, 0.0]), [0, -1])


def test_a_stretched_placement_by_hand():
    placements = geometry.whole_over_whole((64, 48), SQUARE)
    assert placements.linear.tolist() == [
        [[1.0, 0.0], [0.0, 0.75]],
        [[-1.0, 0.0], [0.0, 0.75]],
    ]
    found = geometry.transformation_of(placements.linear[1].numpy(), np.zeros(2))
    assert found.mirrored
    assert found.stretch == pytest.approx(4 / 3)
    assert found.scale == pytest.approx(0.75**0.5)
    assert len(geometry.whole_over_whole((64, 63), SQUARE).linear) == 0
    assert len(geometry.whole_over_whole((64, 48), (32, 24)).linear) == 0


def boxes(scale=1.0, rotation=0.0, shift=(0.0, 0.0), mirrored=False, sizes=(SQUARE, SQUARE)):
    linear = geometry.linear_of(scale, rotation, mirrored=mirrored).numpy()
    return geometry.boxes_of(linear, np.array(shift), *sizes)


def test_boxes_by_hand():
    assert boxes() == (CORNERS, CORNERS)
    # half of its size, in the middle of the generated image
    assert boxes(scale=0.5) == (((0.25, 0.25), (0.75, 0.25), (0.75, 0.75), (0.25, 0.75)), CORNERS)
    # its middle at twice the size
    assert boxes(scale=2) == (CORNERS, ((0.25, 0.25), (0.75, 0.25), (0.75, 0.75), (0.25, 0.75)))
    # shifted to the right by a quarter of the side
    right = boxes(shift=(0.5, 0))
    assert right == (
        ((0.25, 0), (1, 0), (1, 1), (0.25, 1)),
        ((0, 0), (0.75, 0), (0.75, 1), (0, 1)),
    )
    # the first corner of both is the same place
    assert boxes(mirrored=True)[0] == ((1, 0), (0, 0), (0, 1), (1, 1))


def test_boxes_of_pictures_that_are_not_square_by_hand():
    """A wide image shows the middle half of a square picture, from edge to edge."""
    query, match = boxes(sizes=((64, 32), SQUARE))
    assert query == CORNERS
    assert match == ((0, 0.25), (1, 0.25), (1, 0.75), (0, 0.75))


def test_without_an_overlap_there_is_no_box():
    nothing = ((0.0, 0.0),) * 4
    assert boxes(shift=(3, 0)) == (nothing, nothing)


def test_a_rotated_box_stays_within_both_pictures():
    for query, match in (boxes(1.3, 12, (0.2, 0.1)), boxes(0.7, -12, (0.5, 0.4), mirrored=True)):
        assert 0 <= np.min([query, match]) <= np.max([query, match]) <= 1
