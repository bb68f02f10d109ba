from dataclasses import astuple, replace

import numpy as np
import pytest
from PIL import Image

from benchmarks.scene_reader import (
    COLOUR_ATTRIBUTES,
    SceneAttributes,
    agreement,
    asked_of,
    read_background,
    read_scene,
)
from utils.data import scenes

ASKED = SceneAttributes("green", "red", "circle", "blue", "star")


def drawn_as(spec):
    return SceneAttributes(
        spec.background, spec.large.colour, spec.large.name, spec.small.colour, spec.small.name
    )


def of(shape, colour, *, x, y, radius, rotation=0.3):
    return scenes.Shape(shape, colour, scenes.COLOURS[colour], x, y, radius, rotation)


def test_the_background_is_read_off_at_least_95_of_100_scenes():
    drawn = [scenes.scene_at(i, seed=11) for i in range(300)]
    right = np.mean([read_background(s.image) == s.spec.background for s in drawn])
    assert right >= 0.95
    # and the rule looks at the image: turning it upside down in colour changes what it reads
    inverted = [read_background(255 - np.asarray(s.image)) == s.spec.background for s in drawn]
    assert np.mean(inverted) < 0.2


@pytest.mark.parametrize("noise", [0, 3], ids=["as drawn", "with noise"])
def test_each_attribute_is_read_off_at_least_95_of_100_scenes(noise):
    rng = np.random.default_rng(0)
    right = []
    for index in range(100):
        scene = scenes.scene_at(index, seed=12)
        picture = np.clip(
            np.asarray(scene.image) + noise * rng.standard_normal((64, 64, 3)), 0, 255
        ).astype(np.uint8)
        right.append(
            np.array(astuple(read_scene(picture))) == np.array(astuple(drawn_as(scene.spec)))
        )
    assert np.mean(right, axis=0).min() >= 0.95


@pytest.mark.parametrize("large", scenes.SHAPES)
def test_the_large_shape_is_read_behind_the_small_one(large):
    """A small shape bites off a corner; its pixels count neither for nor against an outline."""
    spec = scenes.Spec(
        "yellow",
        scenes.COLOURS["yellow"],
        "checked",
        0.15,
        (0.3, 0.6),
        0.0,
        of(large, "purple", x=0.45, y=0.52, radius=0.27),
        of("circle", "red", x=0.6, y=0.4, radius=0.175),
    )
    assert read_scene(scenes.paint(spec)) == SceneAttributes(
        "yellow", "purple", large, "red", "circle"
    )


def test_a_thing_that_is_not_there_is_not_read():
    spec = scenes.Spec(
        "white",
        scenes.COLOURS["white"],
        "striped",
        0.15,
        (0.3, 0.6),
        0.7,
        of("heart", "black", x=0.5, y=0.5, radius=0.3),
        of("square", "black", x=0.5, y=0.5, radius=0.12),
    )
    # one blends into the other
    assert read_scene(scenes.paint(spec)) == SceneAttributes("white", "black", "heart", None, None)


@pytest.mark.parametrize("colour", scenes.COLOURS)
def test_a_flat_picture_has_a_background_and_nothing_else(colour):
    picture = Image.new("RGB", (64, 64), scenes.COLOURS[colour])
    assert read_scene(picture) == SceneAttributes(colour, None, None, None, None)


def test_any_picture_is_read_without_an_error():
    rng = np.random.default_rng(0)
    pictures = [np.full((64, 64, 3), value, np.uint8) for value in (0, 128, 255)]
    pictures += [rng.integers(0, 256, (64, 64, 3), dtype=np.uint8) for _ in range(10)]
    # noise in patches of every size, halves, a single pixel, one that fills a corner
    pictures += [
        np.kron(rng.integers(0, 256, (64 // k, 64 // k, 3)), np.ones((k, k, 1))).astype(np.uint8)
        for k in (2, 4, 8, 16, 32)
    ]
    halves = np.zeros((64, 64, 3), np.uint8)
    halves[:, 32:] = 255
    dot = np.zeros((64, 64, 3), np.uint8)
    dot[0, 0] = 255
    for picture in [*pictures, halves, dot]:
        assert read_scene(picture).background in scenes.COLOURS


def test_agreement_by_hand():
    assert agreement(ASKED, ASKED) == 1.0
    assert agreement(replace(ASKED, small_shape="ring"), ASKED) == 4 / 5
    assert agreement(replace(ASKED, small_shape=None, small_colour=None), ASKED) == 3 / 5
    # the same words in other places are wrong: the things exchanged
    assert agreement(SceneAttributes("green", "blue", "star", "red", "circle"), ASKED) == 1 / 5
    assert agreement(SceneAttributes(None, None, None, None, None), ASKED) == 0.0
    assert (
        agreement(
            replace(ASKED, small_shape="ring", small_colour="pink"), ASKED, of=COLOUR_ATTRIBUTES
        )
        == 2 / 3
    )


def test_a_first_caption_asks_for_what_was_drawn():
    assert asked_of("a red circle and a blue star on a striped green background") == ASKED
    for index in range(300):
        scene = scenes.scene_at(index)
        assert asked_of(scene.captions[0]) == drawn_as(scene.spec)


@pytest.mark.parametrize(
    "caption",
    [
        "a dog on a lawn",
        "",
        "a red circle and a blue star on a striped green background today",
        "a red circle and a blue blob on a striped green background",
        "a small blue star beside a big red circle over striped green",
    ],
)
def test_another_caption_is_refused_by_name(caption):
    with pytest.raises(
        ValueError, match="is not of the form 'a red circle and a blue star on a striped"
    ) as refused:
        asked_of(caption)
    assert repr(caption) in str(refused.value)
