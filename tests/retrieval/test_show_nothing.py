"""Generated images that show nothing are found while they are read, and are left out of all numbers."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from tests.retrieval.test_measurement import READING, read_features, sets, sizes  # noqa: F401
from utils.retrieval import show_nothing
from utils.runtime.errors import DataError

# one candidate: aligning ten takes most of the time of such a test, and other tests are about it
FLAGS = ("--pt_style", "pixel", "--num_candidates", 1, "--report_to", "none", "--num_workers", 0)
FEW = ("--metrics", "similarity,background")


def flat_image(path, colour=(0, 0, 0), size=(32, 32)):
    Image.new("RGB", size, colour).save(path)


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "RGBA"])
def test_the_spread_is_that_of_the_channel_that_differs_most(mode):
    picture = Image.new(mode, (9, 7))
    assert show_nothing.extractor().transform(picture).tolist() == [0.0]
    pixels = np.zeros((7, 9, 3), np.uint8)
    pixels[3, 4] = (0, 5, 2)
    assert show_nothing.extractor().transform(Image.fromarray(pixels)).tolist() == [5.0]


def test_equal_pixels_and_those_within_a_level_show_nothing(sets):  # noqa: F811
    flat_image(sets.generated.path(1), (200, 10, 10))
    near = np.full((16, 16, 3), 128, np.uint8)
    near[0, 0] = 129
    Image.fromarray(near).save(sets.generated.path(2))
    near[0, 0] = 130
    Image.fromarray(near).save(sets.generated.path(3))
    found, read = read_features(sets, sizes())
    assert read.show_nothing == ("1.png", "2.png")
    assert [q.key for q in read.queries] == list(read.generated.keys) == ["0.png", "3.png"]
    assert len(found["descriptor"][0]) == 2
    assert list(found) == ["descriptor"]


def test_every_row_that_stays_is_that_of_its_own_image(sets):  # noqa: F811
    flat_image(sets.generated.path(0))
    read = {
        "x": torch.arange(4)[:, None],
        show_nothing.SPREAD: torch.tensor([0.0, 9, 1, 9])[:, None],
    }
    left, rows = show_nothing.leave_out(sets, read, READING.processes)
    assert rows["x"][:, 0].tolist() == [1, 3]
    assert [q.prompt for q in left.queries] == ["p1", "p3"]


def test_what_the_generation_noted_is_left_out_whatever_its_pixels(sets):  # noqa: F811
    noted = [
        dataclasses.replace(query, shows_nothing=n == 2) for n, query in enumerate(sets.queries)
    ]
    _, read = read_features(dataclasses.replace(sets, queries=noted), sizes())
    assert read.show_nothing == ("2.png",)


def test_without_one_nothing_changes(sets):  # noqa: F811
    found, read = read_features(sets, sizes())
    assert (len(read.queries), read.show_nothing) == (4, ())
    assert show_nothing.settings_of(read) == {}
    assert show_nothing.note(read.show_nothing) is None


def test_if_all_show_nothing_there_is_nothing_to_measure(sets):  # noqa: F811
    for place in range(4):
        flat_image(sets.generated.path(place))
    with pytest.raises(DataError, match=r"all 4 generated images show nothing, first '0\.png'"):
        read_features(sets, sizes())


def test_most_that_show_nothing_make_the_verdict_void(sets):  # noqa: F811
    half = dataclasses.replace(sets, show_nothing=("4.png",) * 4)
    assert show_nothing.settings_of(half)["show_nothing"] == {"images": 4, "of": 8, "void": False}
    most = dataclasses.replace(sets, show_nothing=("4.png",) * 5)
    assert show_nothing.settings_of(most)["show_nothing"] == {"images": 5, "of": 9, "void": True}


def test_a_line_names_the_first_ones():
    assert show_nothing.note(["a.png", "b.png"]).endswith(": 2 ('a.png', 'b.png')")
    assert show_nothing.note([f"{n}.png" for n in range(5)]).endswith("'2.png' and 2 more)")


# The command --------------------------------------------------------------------------------------


@pytest.fixture
def generated(tmp_path, scenes_dir):
    """Three copies of training images in a folder of their own."""
    folder = tmp_path / "generated"
    folder.mkdir()
    for n, path in enumerate(sorted((scenes_dir / "train").rglob("*.png"))[:3]):
        shutil.copy(path, folder / f"{n}.png")
    return folder


def measure(script, folder, val_dir, *flags):
    """(what was printed, metrics.json, the page, the rows of matches.csv)."""
    printed = script("diff_retrieval", "--query_dir", folder, "--val_dir", val_dir, *FLAGS, *flags)
    (found,) = (folder / "evaluations").iterdir()
    numbers = json.loads((found / "metrics.json").read_text())
    return (
        printed,
        numbers,
        (found / "report.html").read_text(),
        (found / "matches.csv").read_text(),
    )


def without_place(numbers):
    kept = {k: v for k, v in numbers.items() if k not in ("settings", "counts", "show_nothing")}
    return {k: v for k, v in kept.items() if k != "seconds"}


def test_black_images_do_not_make_a_model_that_copies_look_clean(script, generated, scenes_dir):
    train = scenes_dir / "train"
    _, alone, _, _ = measure(script, generated, train, *FEW)
    assert alone["copy_share"] == 1.0
    shutil.rmtree(generated / "evaluations")
    flat_image(generated / "3.png")
    flat_image(generated / "4.png", (255, 254, 255))
    printed, numbers, page, rows = measure(script, generated, train, *FEW)
    assert without_place(numbers) == without_place(alone)
    assert numbers["counts"]["generated"] == 3
    assert numbers["counts"]["generated_that_show_nothing"] == 2
    assert numbers["show_nothing"] == ["3.png", "4.png"]
    assert "left out of all numbers: 2 ('3.png', '4.png')" in printed
    assert "2 of 5 generated images show nothing and are left out." in page
    assert "verdict is void" not in page + printed
    assert {line.split(",")[0] for line in rows.splitlines()[1:]} == {"0.png", "1.png", "2.png"}


def test_where_most_show_nothing_the_first_sentence_says_that_the_verdict_is_void(
    script, generated, scenes_dir
):
    for n in range(3, 8):
        flat_image(generated / f"{n}.png")
    printed, numbers, page, _ = measure(script, generated, scenes_dir / "train", *FEW)
    void = "This verdict is void: 5 of 8 generated images show nothing and are left out"
    assert f"\n{void}" in printed
    assert f'<p class="lead">{void}' in page
    assert numbers["settings"]["show_nothing"] == {"images": 5, "of": 8, "void": True}


def test_against_an_index_they_are_left_out_as_well(script, generated, scenes_dir, tmp_path):
    index = tmp_path / "index"
    script("diff_retrieval", "--build_index", index, "--val_dir", scenes_dir / "train", *FLAGS[:2])
    flat_image(generated / "3.png")
    printed, numbers, page, _ = measure(script, generated, index)
    assert (numbers["counts"]["generated"], numbers["copy_share"]) == (3, 1.0)
    assert numbers["show_nothing"] == ["3.png"]
    assert "1 of 4 generated images show nothing and are left out." in page
