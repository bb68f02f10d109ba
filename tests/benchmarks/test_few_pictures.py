"""The model of ten pictures: its pictures, its commands and the sheet to look at."""

import numpy as np
import pytest
from PIL import Image

from benchmarks import few_pictures
from tests.benchmarks.copying import emoji_package
from utils.files.whole_files import read_json

pytest.importorskip("skimage")


@pytest.fixture
def written(tmp_path):
    package = emoji_package.write_many(tmp_path / "package", 20, names=few_pictures.EMOJI)
    few_pictures.write_pictures(tmp_path / "out", package, seed=0)
    return tmp_path / "out"


def test_ten_pictures_have_captions_and_no_innocent_is_among_them(written):
    captions = read_json(written / "captions.json")
    assert len(captions) == 10
    assert all((written / name).is_file() and len(each) == 1 for name, each in captions.items())
    training = {(written / name).stem for name in captions}
    innocents = list((written / "innocents").iterdir())
    assert len(innocents) > 100  # tiles of the other photographs, and all other emoji
    for path in innocents:
        assert path.stem.split("-")[0] not in training
        with Image.open(path) as image:
            assert image.size == (64, 64)


def test_the_halves_of_the_faces_are_disjoint(written):
    one, other = ({p.name for p in (written / "faces" / h).iterdir()} for h in ("one", "other"))
    assert not one & other
    assert abs(len(one) - len(other)) <= 1


def test_training_mirrors_and_crops_as_published(written):
    steps = list(few_pictures.commands(written, seed=0, steps=1600, images=16))
    assert [command[0] for _, command in steps] == [
        "diff_train.py",
        *["diff_inference.py"] * 2,
        *["diff_retrieval.py"] * 3,
    ]
    training = steps[0][1]
    assert "--center_crop" in training
    assert "--random_flip" in training
    measured = [command for _, command in steps if command[0] == "diff_retrieval.py"]
    assert ["--innocent_dir" in command for command in measured] == [True, True, False]


def test_a_sheet_frames_what_counts_as_a_copy(tmp_path):
    for folder in ("queries", "training"):
        (tmp_path / folder).mkdir()
        Image.new("RGB", (8, 8), "white").save(tmp_path / folder / "a.png")
        Image.new("RGB", (8, 8), "white").save(tmp_path / folder / "b.png")
    chosen = {"a.png": ("b.png", 0.9), "b.png": ("a.png", 0.1)}
    page = few_pictures.sheet(tmp_path / "queries", tmp_path / "training", chosen, {"a.png"})
    red = (np.asarray(page) == (0xD0, 0, 0)).all(2)
    middle = page.width // few_pictures.IMAGES_PER_PROMPT
    assert red[:, :middle].any()
    assert not red[:, middle:].any()


@pytest.mark.parametrize(
    ("metrics", "expected"),
    [
        ({"threshold": 0.8, "settings": {"copy_threshold": 0.95}}, True),
        ({"settings": {"copy_threshold": 0.95}}, False),
        ({"settings": {}}, None),
    ],
)
def test_the_calibrated_threshold_decides_where_there_is_one(metrics, expected):
    assert few_pictures.is_copy(0.9, metrics) is expected
