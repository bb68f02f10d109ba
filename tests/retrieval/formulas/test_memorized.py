import numpy as np
import torch
from PIL import Image

from utils.retrieval.formulas import memorized, pixel_neighbours


def found(generated, training, **options):
    pixels = (torch.from_numpy(np.array(x)).flatten(1) for x in (generated, training))
    return pixel_neighbours.nearest(*pixels, memorized.NEIGHBOURS, **options)


def published(generated, training, threshold):
    """The published procedure, image by image: squared distances to all, the 50 smallest, the
    smallest over their mean. Images [N, 3, s, s]."""
    memorized_images = 0
    for x in generated:
        smallest = sorted(float(((x - t) ** 2).sum()) for t in training)[:50]
        memorized_images += smallest[0] / (sum(smallest) / 50) < threshold
    return memorized_images


def test_quantities_are_those_of_the_published_procedure_down_to_exact_copies():
    """Ratios of 1e-10 to 1: the most exact copies are those that a ratio in a file's name loses,
    where 9.5e-05 is read as 9.5."""
    rng = np.random.default_rng(1)
    training = rng.random((70, 3, 4, 4))
    noise = rng.standard_normal((40, 3, 4, 4)) * np.logspace(-5, 0, 40)[:, None, None, None]
    generated = training[:40] + noise
    ratio = memorized.ratios(found(generated, training))
    assert ratio.min() < 1e-8
    assert ((ratio > 1e-5) & (ratio < 1e-4)).any()
    for at, threshold in enumerate(memorized.THRESHOLDS):
        counted = memorized.below(ratio)[:, at].sum()
        assert counted == published(generated, training, threshold), threshold
    assert 0 < memorized.below(ratio)[:, 0].sum() < memorized.below(ratio)[:, -1].sum()


def test_nl2_by_hand():
    """Distances 1 and 49 times 3: 1 / (0.5 * 148 / 50); the ratio has their squares."""
    nearest = torch.tensor([[1.0] + [9.0] * 49, [0.0] * 50], dtype=torch.float64)
    expected = [1 / (0.5 * 148 / 50), 0]
    np.testing.assert_allclose(memorized.normalised_distances(nearest), expected)
    np.testing.assert_allclose(memorized.ratios(nearest), [50 / 442, 0])


def test_an_exact_copy_of_what_is_there_fifty_times_counts():
    assert memorized.ratios(found(np.ones((1, 12)), np.ones((60, 12)))).tolist() == [0]


def test_ratios_count_strictly_below_the_published_thresholds():
    rows = memorized.below(np.array([0.1, 0.15, 0.19, 0.85]))
    assert rows.sum(0).tolist() == [1, 3, 3, 3, 3, 3, 3, 3, 4]
    assert memorized.threshold_names() == ["015", *(f"0{d}" for d in range(2, 10))]


def test_pixels_are_area_averaged_and_in_zero_to_one():
    extractor = memorized.pixels(4)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8))
    found = extractor.network(extractor.transform(image)[None])
    expected = np.asarray(image, float).reshape(4, 2, 4, 2, 3).mean((1, 3)).transpose(2, 0, 1) / 255
    np.testing.assert_allclose(found[0].float(), expected.ravel(), atol=3e-4)
    assert extractor.as_generated
