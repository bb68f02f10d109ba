"""Agreement of pictures that lie over each other: by hand, and what must not change it."""

import numpy as np
import pytest
import torch

from tests.retrieval.aligning.pictures import scene, seen
from utils.retrieval.aligning import agreement as ag
from utils.retrieval.aligning import geometry
from utils.retrieval.aligning.geometry import Fitted


def full(picture):
    return geometry.fitted(geometry.thumbnail(picture))


PICTURE = full(seen(scene(0)))


def test_a_mean_over_windows_equals_a_loop():
    values = torch.rand(1, 1, 7, 7, generator=torch.Generator().manual_seed(0))
    padded = torch.nn.functional.pad(values, (1, 1, 1, 1))[0, 0]
    expected = [[float(padded[y : y + 3, x : x + 3].mean()) for x in range(7)] for y in range(7)]
    assert ag.box_mean(values, 3)[0, 0].tolist() == [
        pytest.approx(row, abs=1e-6) for row in expected
    ]


def test_a_map_of_colours_is_found():
    generator = torch.Generator().manual_seed(0)
    source, mixed = (
        torch.randn(1, 3, 500, generator=generator),
        torch.tensor([[[0.2, 1.0, 0.0], [0.0, 0.5, -1.0], [1.0, 0.0, 0.3]]]),
    )
    target = mixed.transpose(1, 2) @ source
    assert torch.allclose(ag.colour_map(source, target), mixed, atol=0.05)  # a ridge shrinks a bit


def test_a_picture_agrees_with_itself_and_with_its_recoloured_self():
    assert float(ag.agreement(PICTURE, PICTURE).scores) == pytest.approx(1, abs=0.02)
    mixed = torch.tensor([[0.1, 0.6, 0.0], [0.0, 0.2, 0.5], [0.5, 0.0, 0.2]])
    recoloured = torch.einsum("ij,njhw->nihw", mixed, PICTURE.colours) + 0.1
    found = ag.agreement(Fitted(recoloured, PICTURE.mask), PICTURE)
    assert float(found.scores) > 0.9


def test_strangers_do_not_agree():
    for i in range(1, 6):
        assert float(ag.agreement(full(seen(scene(i))), PICTURE).scores) < 0.4


def test_places_where_nothing_lies_are_0_in_the_map():
    mask = PICTURE.mask.clone()
    mask[..., :32] = 0
    found = ag.agreement(Fitted(PICTURE.colours * mask, mask), PICTURE)
    assert (found.local[..., :32] == 0).all()
    assert found.local[found.detailed & (mask[:, 0] > 0)].mean() > 0.9
    area = ag.copied_area(found.local[0].numpy(), found.detailed[0].numpy())
    assert area == pytest.approx(0.5, abs=0.1)


def test_detail_is_0_for_stripes_and_for_a_flat_picture():
    across = torch.linspace(0, 25, 64).sin().expand(1, 3, 64, 64).contiguous()
    mask = torch.ones(1, 1, 64, 64)
    assert float(ag.detail(across, mask)) < 1e-3
    assert float(ag.detail(torch.zeros(1, 3, 64, 64), mask)) == 0
    assert float(ag.detail(across * across.transpose(2, 3), mask)) > 0.05


def test_what_is_missing_counts_more_with_little_detail():
    faint, mask = PICTURE.colours * 0.02, PICTURE.mask
    alike = torch.tensor([0.9])
    assert float(ag.trusted(alike, faint, faint, mask)) < 0.5
    assert float(ag.trusted(torch.tensor([1.0]), faint, faint, mask)) == 1
    assert float(ag.trusted(alike, PICTURE.colours, PICTURE.colours, mask)) <= 0.9


def test_the_copied_area_is_the_largest_connected_part_by_hand():
    local, detailed = np.zeros((6, 6)), np.zeros((6, 6), bool)
    detailed[:5, :4] = True  # 20 places
    local[0, :2] = 0.9  # two in a row
    local[3:5, 1:4] = 0.8  # six in a block
    local[2, 0] = 0.6  # not enough
    assert ag.copied_area(local, detailed) == 6 / 20
    assert ag.copied_area(np.zeros((6, 6)), detailed) == 0
    assert ag.copied_area(local, np.zeros((6, 6), bool)) == 0


def test_no_nan_comes_out_of_flat_or_empty_overlaps():
    flat = Fitted(torch.full((1, 3, 64, 64), 0.3), torch.ones(1, 1, 64, 64))
    empty = Fitted(torch.zeros(1, 3, 64, 64), torch.zeros(1, 1, 64, 64))
    for over in (flat, empty, PICTURE):
        for match in (flat, empty, PICTURE):
            found = ag.agreement(over, match)
            assert torch.isfinite(found.scores).all()
            assert torch.isfinite(found.local).all()
            assert 0 <= float(found.scores) <= 1
