"""Candidates by windows: scores against a loop, and parts that are found."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from tests.retrieval.aligning.pictures import scene, seen, thumbnails
from utils.retrieval.aligning import geometry, windows
from utils.retrieval.aligning.windows import WindowSearch

CPU = torch.device("cpu")


def described(picture, window):
    """12 x 12 averages of a window, without their mean and of length 1, by Pillow and NumPy."""
    pixels = np.asarray(picture, float)
    height, width = pixels.shape[:2]
    left, top, right, bottom = window
    part = pixels[round(top * height) : round(bottom * height)]
    part = part[:, round(left * width) : round(right * width)]
    cells = np.array(
        [
            [
                part[_cell(i, len(part)), _cell(j, part.shape[1])].mean((0, 1))
                for j in range(windows.CELLS)
            ]
            for i in range(windows.CELLS)
        ]
    )
    values = cells.transpose(2, 0, 1).ravel() - cells.mean()
    return values / np.linalg.norm(values)


def _cell(i, length):
    return slice(i * length // windows.CELLS, -(-(i + 1) * length // windows.CELLS))


def test_scores_equal_a_loop_over_all_pairs_of_windows():
    pictures = [seen(scene(i), side=64) for i in range(3)]
    image = seen(scene(9), side=64)
    found = WindowSearch(thumbnails(pictures), CPU).scores(geometry.thumbnail(image))
    for picture, score in zip(pictures, found, strict=True):
        of_match = [described(picture, w) for w in windows.MATCH_WINDOWS]
        best = max(
            a @ b
            for shown in (image, ImageOps.mirror(image))
            for a in (described(shown, w) for w in windows.QUERY_WINDOWS)
            for b in of_match
        )
        assert float(score) == pytest.approx(best, abs=2e-3)  # training windows are kept as float16


@pytest.mark.parametrize(
    "change",
    [
        lambda p: p.crop((0, 0, 80, 160)),
        lambda p: ImageOps.mirror(p.crop((0, 0, 160, 80))),
        lambda p: ImageOps.expand(p, (120, 60, 40, 100), "gray"),
        lambda p: p.crop((30, 40, 130, 140)),
    ],
    ids=["left half", "upper half mirrored", "smaller on a ground", "crop"],
)
def test_a_part_is_found_among_many(change):
    pictures = [seen(scene(i)) for i in range(12)]
    search = WindowSearch(thumbnails(pictures), CPU)
    assert int(search.scores(geometry.thumbnail(change(pictures[7]))).argmax()) == 7


def test_flat_windows_match_nothing_and_thin_pictures_are_read():
    flat = Image.new("RGB", (64, 64), "teal")
    thin = seen(scene(3)).crop((0, 0, 160, 3))
    search = WindowSearch(thumbnails([flat, thin, seen(scene(0))]), CPU)
    assert search.scores(geometry.thumbnail(flat)).tolist() == [0, 0, 0]
    found = search.scores(geometry.thumbnail(thin))
    assert torch.isfinite(found).all()
    assert found[0] == 0
    assert int(found.argmax()) == 1
