import tarfile

import pytest
from PIL import Image

from utils.generation import source_pictures


@pytest.fixture
def data(tmp_path):
    """Two folders with pictures of different colours."""
    for name, colour in (("one/cat/0.png", (1, 0, 0)), ("two/0.png", (2, 0, 0))):
        path = tmp_path / name
        path.parent.mkdir(parents=True)
        Image.new("RGB", (40, 30), colour).save(path)
    return tmp_path


def colour(found, name):
    return source_pictures.opened(found, name, 8).getpixel((0, 0))


def test_the_first_folder_that_holds_a_name_counts(data):
    folders = [None, data / "gone", data / "two", data / "one"]
    found = source_pictures.find(["0.png", "cat/0.png", None, "9.png"], folders)
    assert colour(found, "0.png") == (2, 0, 0)
    assert colour(found, "cat/0.png") == (1, 0, 0)
    assert set(found) == {"0.png", "cat/0.png"}
    assert source_pictures.opened(found, None, 8) is None
    assert source_pictures.opened(found, "9.png", 8) is None


def test_a_name_may_be_that_of_a_folder_above_or_lie_in_a_shard(data):
    found = source_pictures.find(["one/cat/0.png"], [data / "one"])
    assert colour(found, "one/cat/0.png") == (1, 0, 0)
    shards = data / "shards"
    shards.mkdir()
    with tarfile.open(shards / "00.tar", "w") as tar:
        tar.add(data / "two" / "0.png", "7.png")
    (name,) = source_pictures.find(["00.tar/7.png"], [shards])
    assert name == "00.tar/7.png"


def test_a_picture_that_cannot_be_read_is_not_shown(data):
    (data / "two" / "bad.png").write_bytes(b"no picture")
    found = source_pictures.find(["bad.png"], [data / "two"])
    assert source_pictures.opened(found, "bad.png", 8) is None
