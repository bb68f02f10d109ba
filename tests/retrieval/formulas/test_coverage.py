import numpy as np
import pytest
import torch

from utils.retrieval.formulas import coverage


def naive(generated, reference):
    """The definitions, image by image."""

    def radius(x, i, k):
        return sorted(np.linalg.norm(x[i] - x[j]) for j in range(len(x)) if j != i)[k - 1]

    def within(y, x, k):
        return [np.linalg.norm(y - x[i]) <= radius(x, i, k) for i in range(len(x))]

    return {
        "precision": np.mean([any(within(g, reference, 3)) for g in generated]),
        "recall": np.mean([any(within(r, generated, 3)) for r in reference]),
        "density": np.mean([sum(within(g, reference, 5)) / 5 for g in generated]),
        "coverage": np.mean(
            [
                min(np.linalg.norm(r - g) for g in generated) <= radius(reference, i, 5)
                for i, r in enumerate(reference)
            ]
        ),
    }


@pytest.mark.parametrize("block", [3, 8, 1024])
def test_blocks_agree_with_the_definitions(block, monkeypatch):
    monkeypatch.setattr(coverage, "BLOCK_ROWS", block)
    rng = np.random.default_rng(0)
    generated, reference = rng.normal(2.5, 1, (13, 3)), rng.normal(0, 1, (17, 3))
    found = coverage.prdc(torch.from_numpy(generated).float(), torch.from_numpy(reference).float())
    assert found == pytest.approx(naive(generated.astype(np.float32), reference.astype(np.float32)))
    assert 0 < found["precision"] < 1
    assert 0 < found["coverage"] < 1


def test_equal_sets_cover_each_other_and_far_ones_do_not():
    x = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
    same = coverage.prdc(x, x)
    assert (same["precision"], same["recall"], same["coverage"]) == (1, 1, 1)
    assert coverage.prdc(x, x + 100) == {"precision": 0, "recall": 0, "density": 0, "coverage": 0}


def test_a_copy_of_an_image_that_is_there_many_times_lies_within_its_ball():
    x = torch.randn(12, 4, generator=torch.Generator().manual_seed(0))
    x[:6] = x[0]
    assert coverage.radii(x.double(), 3)[0][0] == 0
    assert coverage.prdc(x[[0] * 6], x)["precision"] == 1
