import numpy as np
import pytest
from PIL import Image

from utils.reports import plots


@pytest.mark.parametrize("background", [None, np.linspace(-0.2, 0.8, 30)])
@pytest.mark.parametrize("threshold", [None, 0.95])
def test_a_histogram_is_drawn_with_what_there_is(tmp_path, background, threshold):
    path = tmp_path / "plots" / "h.png"
    best = np.linspace(0.3, 1.0, 50)
    plots.similarity_histogram(path, best, background, threshold=threshold, descriptor="pixel")
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    assert pixels.shape[1] > 600

    def drawn(colour):
        return (np.abs(pixels - colour).sum(2) < 12).sum()

    assert drawn([213, 94, 0]) > 50 if threshold else drawn([213, 94, 0]) == 0
