"""Alignment finds what was done to a picture, whatever its colours, and nothing in flat ones."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps

from tests.retrieval.aligning.pictures import scene, seen, thumbnails
from utils.retrieval.aligning import geometry
from utils.retrieval.aligning.align import Aligner

CPU = torch.device("cpu")
SCENE = scene(0)
PICTURE = seen(SCENE)


def aligned(image, *training):
    return Aligner(thumbnails(training or [PICTURE]), CPU).align(
        geometry.thumbnail(image), range(max(len(training), 1))
    )


@pytest.mark.parametrize(
    "done",
    [
        {},
        {"mirrored": True},
        {"scale": 1.25},
        {"scale": 1.6, "shift": (0.1, -0.08)},
        {"scale": 0.8},
        {"scale": 0.6, "shift": (-0.1, 0.15)},
        {"rotation": 5.0},
        {"rotation": -9.0},
        {"rotation": 14.0},
        {"shift": (0.12, -0.05)},
        {"shift": (-0.2, 0.2)},
        {"mirrored": True, "scale": 1.2, "rotation": 7.0, "shift": (0.06, 0.1)},
    ],
    ids=str,
)
def test_a_known_transformation_is_found(done):
    """The placement is expected to 2 % of the side and 2 degrees."""
    (pair,) = aligned(seen(SCENE, **done))
    found = pair.transformation
    assert found.mirrored is done.get("mirrored", False)
    assert found.scale == pytest.approx(done.get("scale", 1.0), rel=0.02)
    assert found.rotation == pytest.approx(done.get("rotation", 0.0), abs=2)
    assert found.shift == pytest.approx(done.get("shift", (0.0, 0.0)), abs=0.02)
    assert pair.aligned > 0.9
    assert pair.copied_area > 0.35  # no less than the overlap


def hue_turned(picture):
    h, s, v = picture.convert("HSV").split()
    return Image.merge("HSV", (h.point([(i + 60) % 256 for i in range(256)]), s, v)).convert("RGB")


@pytest.mark.parametrize(
    "recolour",
    [
        ImageOps.grayscale,
        lambda p: ImageEnhance.Brightness(p).enhance(0.5),
        lambda p: ImageEnhance.Contrast(p).enhance(0.5),
        hue_turned,
    ],
    ids=["grey", "darker", "pale", "hue"],
)
def test_colours_that_changed_are_undone(recolour):
    image = recolour(PICTURE).convert("RGB")
    copied, stranger = aligned(image, PICTURE, seen(scene(1)))
    assert copied.aligned > 0.8
    assert copied.aligned > stranger.aligned + 0.3
    assert copied.transformation.in_words() == "as it is"


def test_the_right_training_picture_agrees_best_and_the_order_of_candidates_does_not_matter():
    pictures = [seen(scene(i)) for i in range(4)]
    small = thumbnails(pictures)
    image = geometry.thumbnail(ImageOps.mirror(pictures[2]))
    one = Aligner(small, CPU).align(image, [0, 1, 2, 3])
    assert max(one, key=lambda pair: pair.aligned).match == 2
    other = Aligner(small, CPU).align(image, [3, 2])
    assert [pair.match for pair in other] == [3, 2]
    assert other[1].aligned == pytest.approx(one[2].aligned, abs=1e-4)


def test_the_same_pictures_give_the_same_bits():
    small, image = thumbnails([PICTURE]), geometry.thumbnail(seen(SCENE, scale=1.3))
    (one,), (other,) = (Aligner(small, CPU).align(image, [0]) for _ in range(2))
    assert one.aligned == other.aligned
    assert one.transformation == other.transformation
    assert (one.agreement == other.agreement).all()


def test_flat_pictures_give_none_and_nearly_flat_ones_no_nan():
    flat = Image.new("RGB", (64, 64), (90, 120, 30))
    assert aligned(flat) == [None]
    assert aligned(PICTURE, flat, PICTURE)[0] is None
    assert aligned(PICTURE, flat, PICTURE)[1].aligned > 0.99
    line = Image.new("RGB", (64, 64), (90, 120, 30))
    line.paste((255, 255, 255), (0, 30, 64, 34))
    for image, training in ((line, PICTURE), (PICTURE, line), (line, line)):
        (pair,) = aligned(image, training)
        assert pair is None or (0 <= pair.aligned <= 1 and np.isfinite(pair.box_query).all())


def test_stripes_fit_stripes_less_than_a_picture_fits_itself():
    """They lie over each other exactly, but also when shifted along themselves."""
    columns = np.arange(64)
    stripes = np.where(columns // 8 % 2, 200, 40).astype(np.uint8)
    wide = Image.fromarray(np.repeat(np.tile(stripes, (64, 1))[:, :, None], 3, 2))
    noisy = Image.fromarray(
        (np.asarray(wide, float) + np.random.default_rng(0).normal(0, 12, (64, 64, 3)))
        .clip(0, 255)
        .astype(np.uint8)
    )
    assert aligned(noisy, wide)[0].aligned < aligned(PICTURE)[0].aligned - 0.1


@pytest.mark.parametrize("size", [(160, 120), (120, 160), (160, 80)])
def test_pictures_that_are_not_square(size):
    width, height = size
    cut = PICTURE.crop((0, 0, width, height))
    (pair,) = aligned(cut, cut)
    assert pair.aligned > 0.99
    assert pair.box_query == pair.box_match == ((0, 0), (1, 0), (1, 1), (0, 1))
    (pair,) = aligned(cut)  # a part of the square picture
    assert pair.aligned > 0.9
    assert pair.box_match[2] == pytest.approx((width / 160, height / 160), abs=0.02)
    assert pair.box_query == (pytest.approx((0, 0), abs=0.02), *pair.box_query[1:])


@pytest.mark.parametrize(
    ("size", "words"), [((128, 160), "80 % of its width"), ((160, 128), "80 % of its height")]
)
def test_a_squeezed_picture_lies_whole_over_whole(size, words):
    (pair,) = aligned(PICTURE.resize(size))
    assert pair.aligned > 0.95
    assert f"squeezed to {words}" in pair.transformation.in_words()
    assert pair.copied_area > 0.9


def test_no_placement_has_less_than_the_least_overlap():
    """A corner that fits exactly is no copy: an eighth of either picture."""
    other = seen(scene(5))
    other.paste(PICTURE.crop((0, 0, 56, 56)), (104, 104))
    (pair,) = aligned(other)
    (left, top), _, (right, bottom), _ = pair.box_match
    found = pair.transformation.scale
    smaller = min(1.0, 1 / found**2)
    assert (right - left) * (bottom - top) > 0.45 * smaller
    assert pair.aligned < 0.7
