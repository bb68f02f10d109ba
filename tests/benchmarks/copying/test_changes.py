"""The changes of the benchmark of copies, checked on their pixels."""

import numpy as np
import pytest
from PIL import Image

from benchmarks.copying.changes import CHANGES
from tests.benchmarks.copying import emoji_package

SIDE = 64
COLOUR = ("darker", "pale", "grey", "hue", "noise", "jpeg", "blurred", "text")


@pytest.fixture
def picture():
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8))
    return coarse.resize((SIDE, SIDE), Image.Resampling.BICUBIC)


@pytest.fixture
def other():
    return Image.new("RGB", (SIDE, SIDE), (0, 200, 0))


def changed(name, picture, strength, other, seed=0):
    return CHANGES[name].apply(picture, strength, np.random.default_rng(seed), other)


def values(image):
    return np.asarray(image, float)


def test_there_are_twenty_changes_most_with_two_strengths():
    assert len(CHANGES) == 20
    assert [name for name, c in CHANGES.items() if len(c.strengths) < 2] == ["exact"]


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_follows_from_its_generator_and_leaves_the_picture_as_it_was(name, picture, other):
    change = CHANGES[name]
    if change.transparent:
        picture = emoji_package.picture(np.random.default_rng(0))
    before = picture.tobytes()
    first, again = (changed(name, picture, change.strengths[-1], other) for _ in range(2))
    assert first.mode == "RGB"
    assert first.tobytes() == again.tobytes()
    assert picture.tobytes() == before


@pytest.mark.parametrize("name", COLOUR)
def test_a_greater_strength_changes_more(name, picture, other):
    less, more = (
        np.abs(values(changed(name, picture, s, other)) - values(picture)).mean()
        for s in CHANGES[name].strengths
    )
    assert 0 < less < more


def test_exact_mirrored_and_darker_by_their_pixels(picture, other):
    pixels = values(picture)
    assert (values(changed("exact", picture, 1.0, other)) == pixels).all()
    assert (values(changed("mirrored", picture, 1.0, other)) == pixels[:, ::-1]).all()
    assert np.abs(values(changed("darker", picture, 0.5, other)) - pixels / 2).max() <= 0.5


def test_a_crop_shows_a_part_of_the_picture_enlarged(other):
    ramp = np.tile(np.arange(SIDE, dtype=np.uint8)[None, :, None], (SIDE, 1, 3))
    shown = values(changed("cropped", Image.fromarray(ramp), 0.5, other))
    assert shown.shape == (SIDE, SIDE, 3)
    assert 29 <= shown.max() - shown.min() <= 33  # half of the ramp


def test_a_shift_moves_by_its_share_of_the_side(picture, other):
    a = values(picture)
    b = values(changed("shifted", picture, 0.125, other))
    found = max(
        (np.corrcoef(_inner(a, 0, 0), _inner(b, dx, dy))[0, 1], np.hypot(dx, dy))
        for dx in range(-9, 10)
        for dy in range(-9, 10)
    )
    assert found[0] > 0.98
    assert found[1] == pytest.approx(8, abs=1)


def _inner(pixels, dx, dy):
    """The middle of an image, 10 px from its edge, moved by dx, dy."""
    return pixels[10 + dy : 54 + dy, 10 + dx : 54 + dx].ravel()


def test_glued_and_half_have_their_share_of_the_width(picture, other):
    glued = changed("glued", picture, 0.5, other)
    assert glued.size == (2 * SIDE, SIDE)
    sides = [values(glued)[:, :SIDE], values(glued)[:, SIDE:]]
    assert any((side == values(picture)).all() for side in sides)
    assert any((side == values(other)).all() for side in sides)
    half = values(changed("half", picture, 0.5, other))
    assert any((half == part).all() for part in np.split(values(picture), 2, axis=1))


def test_a_picture_within_another_leaves_the_rest_of_it(picture, other):
    whole = values(changed("within", picture, 0.5, other))
    assert (whole == values(other)).all(2).mean() == pytest.approx(0.75, abs=0.02)
    alone = values(changed("smaller", picture, 0.5, other))
    assert max((alone == grey).all(2).mean() for grey in (128, 255)) >= 0.74


def test_another_ground_changes_the_transparent_part_only(other):
    transparent = emoji_package.picture(np.random.default_rng(0))
    ground = np.asarray(transparent)[..., 3] == 0
    black = values(changed("ground", transparent, 0.0, other))
    assert (black[ground] == 0).all()
    assert (black[~ground] == np.asarray(transparent)[~ground][:, :3]).all()
