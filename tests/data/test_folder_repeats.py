from pathlib import Path

import pytest

from utils.data import folder_repeats, prompt_styles
from utils.data.image_sets import ImageSet


def images_in(*keys):
    return ImageSet(Path("x"), keys, (1,) * len(keys))


def test_every_folder_gives_the_weight_and_the_class_of_its_images():
    images = images_in("img/10_cat/0.png", "img/10_cat/1.png", "img/2_sks dog_new/0.png")
    found, line = folder_repeats.find(images)
    assert list(found.weights(images)) == [10, 10, 2]
    assert found.classes == {"img/10_cat": "cat", "img/2_sks dog_new": "sks dog_new"}
    assert found.captions(images)["img/2_sks dog_new/0.png"] == ["sks dog_new"]
    assert line == (
        "folders are named <repeats>_<class>: 'img/2_sks dog_new' has weight 2 and class 'sks"
        " dog_new', 'img/10_cat' has weight 10 and class 'cat'; --no_folder_repeats takes the names"
        " as they are"
    )
    classed = ImageSet(Path("x"), images.keys, images.sizes, classes=found.classes)
    assert prompt_styles.class_names(classed) == ["cat", "sks dog_new"]
    assert prompt_styles.class_names(images) == ["2_sks dog_new", "10_cat"]


def test_equal_repeats_are_said_to_change_no_draw():
    assert "; equal weights change no draw;" in folder_repeats.find(images_in("10_cat/0.png"))[1]


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        (("cat/0.png", "dog/0.png"), ""),
        (("0.png",), ""),
        (("2024_trip/0.png", "2023_trip/0.png"), ""),  # years
        (("00_cat/0.png", "01_dog/0.png"), ""),  # numbers that begin with 0
        (("10_/0.png", "_cat/0.png", "10cat/0.png"), ""),
        (("1_a/0.png", "2_b/0.png", "3_c/0.png"), "folders are numbered 1 to 3: the numbers are"),
        (
            ("10_cat/0.png", "dog/0.png"),
            "1 of 2 folders are named like <repeats>_<class>, and 'dog'",
        ),
        (
            ("10_cat/0.png", "0.png"),
            "1 of 2 folders .*, and images at the top are in none: no name",
        ),
        (
            ("10_cat/0.png", "10_cat/more/0.png"),
            "1 of 2 folders .* '10_cat/more' is not: no name is",
        ),
    ],
)
def test_names_that_are_no_repeats_stay_names(keys, line):
    import re

    found, said = folder_repeats.find(images_in(*keys))
    assert found is None
    assert bool(said) == bool(line)
    assert re.match(line, said)


def test_two_numbered_folders_are_repeats():
    assert folder_repeats.find(images_in("1_cat/0.png", "2_dog/0.png"))[0] is not None


def test_images_inside_larger_files_have_no_repeats():
    images = ImageSet(Path("x"), ("0.tar/10_cat/0.png",), (1,), places=(("0.tar", 0),))
    assert folder_repeats.find(images) == (None, "")


def test_names_alone_say_whether_there_may_be_repeats(tmp_path):
    assert not folder_repeats.may_name(tmp_path)
    (tmp_path / "img/10_cat").mkdir(parents=True)
    assert folder_repeats.may_name(tmp_path)
