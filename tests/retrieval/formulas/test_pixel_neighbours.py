import numpy as np
import pytest
import torch

from utils.retrieval.formulas import pixel_neighbours


def naive(generated, training, count, flip):
    """Squared distances by the definition, pair by pair. Images [N, 3, s, s]."""
    found = []
    for x in generated:
        d = [((x - t) ** 2).sum() for t in training]
        if flip:
            d = [min(a, ((x - t[:, :, ::-1]) ** 2).sum()) for a, t in zip(d, training, strict=True)]
        found.append(sorted(d)[:count])
    return np.array(found)


def images(rng, count):
    return rng.random((count, 3, 4, 4)).astype(np.float16)


def flat(images):
    return torch.from_numpy(images.copy()).flatten(1)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("block_rows", [7, 2048])
def test_blocks_agree_with_the_definition(flip, block_rows):
    rng = np.random.default_rng(0)
    training = images(rng, 151)  # more than CANDIDATES
    copies = (training[:3] + np.float16(0.01)).astype(np.float16)
    generated = np.concatenate([copies, training[5:7, :, :, ::-1], images(rng, 14)])
    expected = naive(*(x.astype(np.float64) for x in (generated, training)), 50, flip)
    found = pixel_neighbours.nearest(
        flat(generated), flat(training), 50, flip=flip, block_rows=block_rows
    )
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-15)
    assert (found[3:5, 0] == 0).all() == flip  # mirrored copies are near with flip alone


def test_what_float32_cannot_tell_apart_is_compared_exactly(monkeypatch):
    """300 training images that differ by less than the error of float32: any of them could be left
    out of the candidates."""
    rng = np.random.default_rng(0)
    training = 1 + 1e-7 * rng.random((300, 3, 4, 4)) * (np.arange(48) == 0).reshape(3, 4, 4)
    training[0] = 0  # so that their mean is none of them
    generated = rng.random((2, 3, 4, 4))
    asked = []
    exact = pixel_neighbours._of_all

    def counted(query, *args, **options):
        asked.append(query)
        return exact(query, *args, **options)

    monkeypatch.setattr(pixel_neighbours, "_of_all", counted)
    found = pixel_neighbours.nearest(flat(generated), flat(training), 50)
    expected = naive(generated, training, 50, False)
    np.testing.assert_allclose(found, expected, rtol=1e-14)
    assert np.ptp(expected[:, 1:], 1).max() < 1e-6  # float32 has steps of 1e-6 there
    assert len(asked) == 2


def test_far_images_need_no_second_comparison(monkeypatch):
    rng = np.random.default_rng(0)
    monkeypatch.setattr(pixel_neighbours, "_of_all", None)
    pixel_neighbours.nearest(flat(images(rng, 9)), flat(images(rng, 400)), 50)
