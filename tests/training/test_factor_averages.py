import pytest
import torch

from utils.training import factor_averages


def factors(generator, *, rank, shapes, near=None, step=1.0):
    """Random factors of layers of shapes (out, in), or `near` others, `step` away."""
    made = {}
    for i, (out, into) in enumerate(shapes):
        down = step * torch.randn(rank, into, generator=generator)
        up = step * torch.randn(out, rank, generator=generator)
        if near is not None:
            down, up = near[str(i)][0] + down, near[str(i)][1] + up
        made[str(i)] = (down, up)
    return made


@pytest.mark.parametrize("step", [1.0, 1e-2])
def test_the_error_is_that_of_the_dense_means(step):
    """Three copies with unequal shares, two layers, all matrices written out."""
    generator = torch.Generator().manual_seed(0)
    shapes, shares = ((7, 5), (4, 9)), (0.5, 0.3, 0.2)
    start = factors(generator, rank=3, shapes=shapes)
    copies = [factors(generator, rank=3, shapes=shapes, near=start, step=step) for _ in shares]
    error = change = 0.0
    for layer, (down0, up0) in start.items():
        exact = sum(s * c[layer][1] @ c[layer][0] for s, c in zip(shares, copies, strict=True))
        down = sum(s * c[layer][0] for s, c in zip(shares, copies, strict=True))
        up = sum(s * c[layer][1] for s, c in zip(shares, copies, strict=True))
        error += (exact - up @ down).double().square().sum()
        change += (exact - up0 @ down0).double().square().sum()
    wanted = float((error / change).sqrt())
    found = factor_averages.relative_error(copies, shares, start)
    assert found == pytest.approx(wanted, rel=1e-3)
    assert found > 1e-3


def test_one_frozen_factor_equal_copies_and_no_change_have_no_error():
    generator = torch.Generator().manual_seed(1)
    start = factors(generator, rank=2, shapes=((6, 6),))
    moved = [{"0": (start["0"][0], torch.randn(6, 2, generator=generator))} for _ in range(2)]
    assert factor_averages.relative_error(moved, (0.5, 0.5), start) == pytest.approx(0, abs=1e-7)
    assert factor_averages.relative_error([start, start], (0.5, 0.5), start) == 0.0
    other = factors(generator, rank=2, shapes=((6, 6),))
    same = factor_averages.relative_error([other, other], (0.25, 0.75), start)
    assert same == pytest.approx(0, abs=1e-7)
