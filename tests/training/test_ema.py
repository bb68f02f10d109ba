import pytest
import torch

from utils.training import ema


def test_the_decay_warms_up_to_its_value():
    assert [ema.decay_at(n) for n in (0, 1, 8)] == pytest.approx([1 / 10, 2 / 11, 9 / 18])
    assert ema.decay_at(10**6) == 0.9999


def test_by_hand():
    weight = torch.nn.Parameter(torch.tensor([1.0]))
    average = ema.WeightAverage({"w": weight})
    with torch.no_grad():
        weight.fill_(11.0)
    average.update(0)
    assert average.averages["w"].item() == pytest.approx(0.1 * 1 + 0.9 * 11)
    with torch.no_grad():
        weight.fill_(0.0)
    average.update(1)
    assert average.averages["w"].item() == pytest.approx(2 / 11 * 10)


def test_swapping_twice_changes_nothing():
    weight = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    average = ema.WeightAverage({"w": weight})
    with torch.no_grad():
        weight.add_(5)
    average.swap()
    assert (weight.tolist(), average.averages["w"].tolist()) == ([1, 2], [6, 7])
    average.swap()
    assert (weight.tolist(), average.averages["w"].tolist()) == ([6, 7], [1, 2])
