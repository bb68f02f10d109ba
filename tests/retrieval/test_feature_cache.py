import os

import pytest
import torch
from PIL import Image

from utils.data import image_sets
from utils.retrieval.descriptors.network import Extractor
from utils.retrieval.feature_cache import FeatureCache, change_stamp, default_folder, folder_of


@pytest.fixture
def images(tmp_path):
    (tmp_path / "i").mkdir()
    for i in range(3):
        Image.new("RGB", (4, 4), (i, i, i)).save(tmp_path / "i" / f"{i}.png")
    return image_sets.list_images("--d", tmp_path / "i")


ONE = Extractor(None, None, {"arch": "a"})


def test_what_was_written_is_read(images, tmp_path, capsys):
    cache = FeatureCache(tmp_path / "c", print)
    path = cache.path(change_stamp(images), ONE, {"side": None})
    assert cache.read(path) is None
    cache.write(path, torch.arange(4.0).view(2, 2), [0, 2], [("1.png", "is not an image")])
    features, indices, bad = cache.read(path)
    assert (features.tolist(), indices, bad) == (
        [[0, 1], [2, 3]],
        [0, 2],
        [("1.png", "is not an image")],
    )
    assert [p.name for p in (tmp_path / "c").iterdir()] == [path.name]
    assert capsys.readouterr().out == ""


def test_whatever_the_features_depend_on_has_a_file_of_its_own(images, tmp_path):
    cache = FeatureCache(tmp_path / "c", print)
    names = {
        cache.path(change_stamp(images), ONE, {"side": None}),
        cache.path(change_stamp(images), ONE, {"side": 64}),
        cache.path(change_stamp(images), Extractor(None, None, {"arch": "b"}), {"side": None}),
        cache.path(change_stamp(images.take([0, 1])), ONE, {"side": None}),
    }
    os.utime(images.path(1), ns=(1, 1))  # changed since, with the same size
    names.add(cache.path(change_stamp(images), ONE, {"side": None}))
    assert len(names) == 5


def test_a_damaged_file_is_said_and_counts_as_none(images, tmp_path, capsys):
    cache = FeatureCache(tmp_path / "c", print)
    path = cache.path(change_stamp(images), ONE, {})
    cache.write(path, torch.zeros(3, 2), [0, 1, 2], [])
    path.write_bytes(path.read_bytes()[:40])
    assert cache.read(path) is None
    assert "is rebuilt" in capsys.readouterr().out


def test_a_folder_that_cannot_be_written_costs_nothing_but_time(images, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    cache = FeatureCache(tmp_path / "file" / "c", print)
    cache.write(cache.path(change_stamp(images), ONE, {}), torch.zeros(3, 2), [0, 1, 2], [])
    assert "could not be cached" in capsys.readouterr().out


def test_the_folder_is_the_users_or_given_or_none(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_folder() == folder_of(None) == tmp_path / "diffrep" / "features"
    assert folder_of("x").name == "x"
    assert folder_of("none") is None
    FeatureCache(None, print).write(None, torch.zeros(1, 1), [0], [])
    assert FeatureCache(None, print).read(None) is None


def test_other_pictures_of_equal_names_sizes_and_times_have_other_features(tmp_path):
    stamps = []
    for folder, shade in (("a", 10), ("b", 200)):
        (tmp_path / folder).mkdir()
        for i in range(3):
            path = tmp_path / folder / f"{i}.bmp.png"
            Image.new("L", (40, 40), shade + i).save(path, "BMP")
            os.utime(path, ns=(1, 1))
        stamps.append(change_stamp(image_sets.list_images("--d", tmp_path / folder)))
    one, other = stamps
    assert (one["fingerprint"], one["stamps"]) == (other["fingerprint"], other["stamps"])
    cache = FeatureCache(tmp_path / "c", print)
    assert cache.path(one, ONE, {}) != cache.path(other, ONE, {})
