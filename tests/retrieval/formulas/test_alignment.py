import numpy as np
import pytest
import torch

from utils.retrieval.formulas import alignment


def test_each_image_goes_with_its_own_prompt_and_a_prompt_is_embedded_once():
    asked = []

    def embed(prompts):
        asked.append(prompts)
        return torch.tensor([[1.0, 0.0] if p == "x" else [0.0, 1.0] for p in prompts])

    images = torch.tensor([[3.0, 4.0], [0.0, 2.0], [5.0, 0.0], [1.0, 0.0]])
    found = alignment.cosines(images, ["x", "y", None, "x"], embed)
    assert found[[0, 1, 3]] == pytest.approx([0.6, 1.0, 1.0])
    assert np.isnan(found[2])
    assert asked == [["x", "y"]]


def test_without_any_prompt_nothing_is_embedded():
    assert np.isnan(alignment.cosines(torch.ones(2, 2), [None, None], None)).all()
