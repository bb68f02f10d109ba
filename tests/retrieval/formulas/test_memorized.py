import numpy as np
import pytest
import torch
from PIL import Image

from utils.retrieval.formulas import memorized


def naive(generated, training, flip):
    """Ratios by the definition, pair by pair. Images [N, 3, s, s]."""
    found = []
    for x in generated:
        d = [((x - t) ** 2).sum() for t in training]
        if flip:
            d = [min(a, ((x - t[:, :, ::-1]) ** 2).sum()) for a, t in zip(d, training, strict=True)]
        nearest = sorted(d)[:50]
        found.append(nearest[0] / np.mean(nearest))
    return np.array(found)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("block_rows", [7, 512])
def test_blocks_agree_with_the_definition(flip, block_rows):
    rng = np.random.default_rng(0)
    training = rng.random((61, 3, 4, 4)).astype(np.float16).astype(np.float64)
    generated = np.concatenate(
        [training[:3] + 0.01, training[5:7, :, :, ::-1], rng.random((4, 3, 4, 4))]
    )
    expected = naive(generated, training, flip)
    found = memorized.ratios(
        *(torch.from_numpy(x.copy()).flatten(1) for x in (generated, training)),
        flip=flip,
        block_rows=block_rows,
    )
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
    assert (found[:3] < 0.05).all()
    assert (found[3:5] < 1e-9).all() == flip  # mirrored copies count with --mq_flip alone


def test_an_exact_copy_of_what_is_there_fifty_times_counts():
    assert memorized.ratios(torch.ones(1, 12), torch.ones(60, 12)).tolist() == [0]


def test_counts_and_rates_at_the_published_thresholds():
    row = memorized.quantities(np.array([0.1, 0.15, 0.19, 0.85]))
    # strictly below
    assert (row["mq_015"], row["mq_02"], row["mq_03"], row["mq_09"]) == (1, 3, 3, 4)
    assert row["mq_rate_015"] == 0.25
    assert sorted(k for k in row if "rate" not in k) == [
        "mq_015",
        *(f"mq_0{d}" for d in range(2, 10)),
    ]


def test_pixels_are_area_averaged_and_in_zero_to_one():
    extractor = memorized.pixels(4)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8))
    found = extractor.network(extractor.transform(image)[None])
    expected = np.asarray(image, float).reshape(4, 2, 4, 2, 3).mean((1, 3)).transpose(2, 0, 1) / 255
    np.testing.assert_allclose(found[0].float(), expected.ravel(), atol=3e-4)
    assert extractor.as_generated
