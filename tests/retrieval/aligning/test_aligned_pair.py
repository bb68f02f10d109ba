"""A transformation in words."""

import pytest

from utils.retrieval.aligning.aligned_pair import Transformation


@pytest.mark.parametrize(
    ("done", "words"),
    [
        (Transformation(), "as it is"),
        (Transformation(scale=1.02, rotation=0.5, shift=(0.01, 0.01)), "as it is"),
        (Transformation(mirrored=True), "mirrored"),
        (
            Transformation(mirrored=True, scale=1 / 0.82, shift=(0.09, 0)),
            "mirrored, 82 % crop, shifted 9 %",
        ),
        (Transformation(scale=0.6), "at 60 % of its size"),
        (Transformation(rotation=-7.2), "rotated by -7°"),
        (Transformation(shift=(0.03, 0.04)), "shifted 5 %"),
        (Transformation(stretch=0.8), "squeezed to 80 % of its width"),
        (Transformation(stretch=1.25), "squeezed to 80 % of its height"),
    ],
)
def test_words(done, words):
    assert done.in_words() == words
