import pytest
import torch

from utils.retrieval.formulas.kernel import kernel_distance


def naive(x, y):
    """Unbiased squared maximum mean discrepancy under (x.y / D + 1)^3, term by term."""
    n, total = len(x), 0.0

    def kernel(a, b):
        return (float(a @ b) / len(a) + 1) ** 3

    for i in range(n):
        for j in range(n):
            if i != j:
                total += (kernel(x[i], x[j]) + kernel(y[i], y[j])) / (n * (n - 1))
            total -= 2 * kernel(x[i], y[j]) / n**2
    return total


def test_it_agrees_with_the_sums_written_out():
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(7, 5, generator=generator), torch.randn(7, 5, generator=generator) + 0.5
    mean, std = kernel_distance(x, y, seed=0)  # of subsets that are the whole sets
    assert mean == pytest.approx(naive(x.double(), y.double()), rel=1e-9)
    assert std == pytest.approx(0, abs=1e-9)


def test_subsets_are_drawn_by_the_seed():
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(12, 5, generator=generator), torch.randn(6, 5, generator=generator)
    assert kernel_distance(x, y, seed=0) == kernel_distance(x, y, seed=0)
    assert kernel_distance(x, y, seed=0) != kernel_distance(x, y, seed=1)
    assert kernel_distance(x, y, seed=0)[1] > 0
    # numpy's old generator takes 32 bits
    assert kernel_distance(x, y, seed=2**40 + 1) == kernel_distance(x, y, seed=1)
