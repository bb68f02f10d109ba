import io

import numpy as np
import pytest
from PIL import Image
from scipy.stats import pearsonr

from utils.data import image_sets
from utils.retrieval.formulas import complexity


def test_entropy_agrees_with_scikit_image(noise):
    from skimage.color import rgb2gray
    from skimage.measure import shannon_entropy

    for seed in range(3):
        pixels = np.asarray(noise(seed, 224))
        grey = np.round(rgb2gray(pixels) * 255).astype(np.uint8)
        assert complexity.entropy(pixels) == pytest.approx(
            shannon_entropy(grey, base=np.e), abs=2e-3
        )
    half = np.zeros((224, 224, 3), np.uint8)
    assert complexity.entropy(half) == 0
    half[:112] = 255
    assert complexity.entropy(half) == pytest.approx(np.log(2))  # nats, not bits


def test_total_variation_by_hand():
    pixels = np.zeros((4, 4, 3), np.uint8)
    pixels[1, 1] = (10, 20, 30)  # four neighbours each, two of them to the left and above
    assert complexity.total_variation(pixels) == pytest.approx(1e-4 * 4 * 60)
    step = np.zeros((4, 4, 3), np.uint8)
    step[:, 2:, 0] = 255
    # 8 bits do not wrap around
    assert complexity.total_variation(step) == pytest.approx(1e-4 * 4 * 255)


def test_jpeg_size_is_that_of_quality_90_with_halved_colours(noise):
    image = noise(0, 224)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=90, subsampling=2)
    assert complexity.jpeg_kib(image) == len(buffer.getvalue()) / 1024
    red = Image.merge("RGB", (image.split()[2], image.split()[1], image.split()[0]))
    # what red and blue exchanged would give
    assert complexity.jpeg_kib(red) != complexity.jpeg_kib(image)


def test_an_image_is_measured_at_224_and_read_once(tmp_path, noise, monkeypatch):
    for i in range(3):
        noise(i, 300, 260).save(tmp_path / f"{i}.png")
    images, opened = image_sets.list_images("--d", tmp_path), []
    real = image_sets.open_image
    monkeypatch.setattr(
        image_sets, "open_image", lambda path, **k: opened.append(path) or real(path, **k)
    )
    found = complexity.of_images(images, np.array([2, 0, 2, 2]), workers=2)
    assert len(opened) == 2
    # torchvision's resize and crop are those of the published script
    from torchvision.transforms import v2

    expected = complexity.of_image(
        v2.Compose([v2.Resize(224), v2.CenterCrop(224)])(real(tmp_path / "2.png"))
    )
    assert (found.entropy[0], found.jpeg_kib[0], found.total_variation[0]) == expected
    assert found.entropy[0] == found.entropy[2] != found.entropy[1]
    assert found.mixed == pytest.approx(found.entropy * found.jpeg_kib**0.5)


def test_correlation_agrees_with_scipy_and_is_none_without_spread():
    rng = np.random.default_rng(0)
    x = rng.normal(size=20)
    y = -x + rng.normal(size=20)
    assert complexity.correlation(x, y) == pytest.approx((pearsonr(x, y)[0], pearsonr(x, y)[1]))
    assert complexity.correlation(x, y)[0] < 0
    assert complexity.correlation(np.ones(20), y) is None
    assert complexity.correlation(x[:2], y[:2]) is None
