import pytest
import torch

from utils.models import embedding_edits


def test_noise_by_hand_and_its_size():
    e, noise = torch.ones(1, 1, 2), torch.tensor([[[2.0, -4.0]]])
    assert embedding_edits.add_noise(e, noise, 0.25).tolist() == [[[1.5, 0.0]]]
    big = torch.zeros(4, 50, 50)
    noise = torch.randn(big.shape, generator=torch.Generator().manual_seed(0))
    assert embedding_edits.add_noise(big, noise, 0.3).std().item() == pytest.approx(0.3, rel=0.02)


def test_noise_follows_the_embeddings_dtype():
    assert (
        embedding_edits.add_noise(torch.ones(1, dtype=torch.float16), torch.ones(1), 0.5).dtype
        == torch.float16
    )


def test_mixup_by_hand():
    assert embedding_edits.mix(torch.tensor([4.0]), torch.tensor([8.0]), 0.75).item() == 5.0
