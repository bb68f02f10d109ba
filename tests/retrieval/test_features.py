import dataclasses
import os

import numpy as np
import pytest
import torch
from PIL import Image

from utils.data import content_stamps, image_sets
from utils.retrieval import features
from utils.retrieval.descriptors.network import Extractor
from utils.retrieval.feature_cache import FeatureCache
from utils.runtime import parallel
from utils.runtime.errors import DataError

ALONE = parallel.Processes(parallel.Alone(torch.device("cpu")))


def size_of(image):
    return torch.tensor([image.width, image.height], dtype=torch.float32)


def whole(image):
    return torch.from_numpy(np.asarray(image, np.float32))


SIZE = Extractor(size_of, lambda x: x * 2, {"what": "size"})
MEAN = Extractor(whole, lambda x: x.mean((1, 2)), {"what": "mean"})


def reading(batch_size=2, num_workers=0, folder=None):
    return features.ReaderSettings(batch_size, num_workers, ALONE, FeatureCache(folder, print))


@pytest.fixture
def images(tmp_path):
    (tmp_path / "i").mkdir()
    for i in range(5):
        Image.new("RGB", (4 + i % 2, 6), (i, 2 * i, 3 * i)).save(tmp_path / "i" / f"{i}.png")
    return image_sets.list_images("--d", tmp_path / "i")


@pytest.fixture
def opened(monkeypatch):
    """Paths of the images that are opened."""
    seen, real = [], image_sets.open_image
    monkeypatch.setattr(
        image_sets, "open_image", lambda path, **k: seen.append(path.name) or real(path, **k)
    )
    return seen


def test_pictures_in_memory_have_the_features_of_their_files(images):
    pictures = [images.open(i) for i in range(len(images))]
    found = features.of_pictures(pictures, {"s": SIZE, "m": MEAN})
    read, _, _ = features.extract(images, {"s": SIZE, "m": MEAN}, reading())
    assert found.keys() == read.keys()
    assert all(torch.equal(found[name], read[name]) for name in read)


def test_a_long_pass_names_images_and_networks(images, monkeypatch, capsys):
    monkeypatch.setattr(features.progress, "TELLING", 0)
    monkeypatch.setattr(features.progress, "LONG", 0)
    plain = dataclasses.replace(MEAN, is_network=False)
    for extractors, words in (
        ({"s": SIZE, "m": plain}, "through 1 network (s)"),
        ({"s": SIZE, "t": SIZE, "m": plain}, "through 2 networks (s, t)"),
        ({"m": plain}, "through no network"),
    ):
        features.extract(images, extractors, reading())
        line = f"reading 5 images of {images.root} {words}: about 1 minute\n"
        assert capsys.readouterr().out == line
    monkeypatch.setattr(features.progress, "LONG", 30)
    features.extract(images, {"s": SIZE}, reading())
    assert capsys.readouterr().out == ""


def test_rows_follow_the_images_for_every_extractor_whatever_the_batch(images):
    for batch, workers in ((1, 0), (2, 0), (5, 2)):
        found, kept, bad = features.extract(images, {"s": SIZE, "m": MEAN}, reading(batch, workers))
        assert found["s"].tolist() == [[2.0 * (4 + i % 2), 12.0] for i in range(5)]
        # shapes differ within a batch
        assert found["m"].tolist() == [[i, 2.0 * i, 3.0 * i] for i in range(5)]
        assert (kept, bad) == ([0, 1, 2, 3, 4], [])


@pytest.mark.parametrize("workers", [0, 2])
def test_one_pass_over_some_images_by_this_process(images, workers):
    exif = Image.Exif()
    exif[0x0112] = 6  # a viewer shows it turned
    Image.new("RGB", (9, 3)).save(images.path(3), exif=exif)
    images.path(1).write_text("")
    found = features.read_pass(images, [4, 1, 3, 0], {"s": SIZE}, reading(3, workers))
    assert found.features["s"].tolist() == [[8.0, 12.0], [6.0, 18.0], [8.0, 12.0]]
    assert found.indices == [4, 3, 0]
    assert found.sizes == [(4, 6), (9, 3), (4, 6)]  # as stored
    assert [key for key, _ in found.bad] == ["1.png"]
    for nothing in ([], [1]):
        found = features.read_pass(images, nothing, {"s": SIZE}, reading(3, workers))
        assert (found.features["s"].shape, found.indices, found.sizes, len(found.bad)) == (
            (0, 0),
            [],
            [],
            len(nothing),
        )
        features.require_finite(images, found.indices, found.features["s"])


def test_each_image_is_opened_once_for_all_extractors(images, opened):
    features.extract(images, {"s": SIZE, "m": MEAN, "n": SIZE}, reading())
    assert opened == [f"{i}.png" for i in range(5)]


def test_a_broken_image_is_left_out_and_named(images):
    images.path(2).write_text("")
    found, kept, bad = features.extract(images, {"s": SIZE}, reading())
    assert kept == [0, 1, 3, 4]
    assert found["s"][2].tolist() == [10.0, 12.0]
    assert bad[0][0] == "2.png"


def test_training_images_are_cut_for_the_extractors_that_want_it_alone(images):
    cut = dataclasses.replace(SIZE, as_generated=True)
    found, _, _ = features.extract(images, {"s": SIZE, "t": cut}, reading(), side=3)
    assert found["t"].tolist() == [[6.0, 6.0]] * 5
    assert found["s"][0].tolist() == [8.0, 12.0]
    found, _, _ = features.extract(images, {"t": cut}, reading())  # generations are as they are
    assert found["t"][0].tolist() == [8.0, 12.0]


def test_what_was_kept_is_not_computed_again_and_gives_the_same(images, opened, tmp_path):
    images.path(2).write_text("")
    kept_in = reading(folder=tmp_path / "c")
    first = features.extract(images, {"s": SIZE}, kept_in)
    opened.clear()
    second = features.extract(images, {"s": SIZE}, kept_in)
    assert opened == []
    assert torch.equal(first[0]["s"], second[0]["s"])
    assert first[1:] == second[1:]
    # another extractor reads the images again, for itself alone
    both, _, bad = features.extract(images, {"s": SIZE, "m": MEAN}, kept_in)
    assert len(opened) == 5
    assert (len(both["m"]), bad[0][0]) == (4, "2.png")
    changed = Image.new("RGB", (9, 9))
    changed.save(images.path(0))
    opened.clear()
    found, _, _ = features.extract(image_sets.list_images("--d", images.root), {"s": SIZE}, kept_in)
    assert len(opened) == 5
    assert found["s"][0].tolist() == [18.0, 18.0]


def test_features_that_are_not_finite_are_an_error_that_names_an_image(images, tmp_path):
    # 5 pixels wide: divided by 0
    overflowing = Extractor(size_of, lambda x: x / (x[:, :1] - 5), {"what": "overflow"})
    with pytest.raises(
        DataError,
        match=(
            r"not finite for 2 images, first '1\.png'; half precision may overflow: try"
            r" --mixed"
        ),
    ):
        features.extract(images, {"o": overflowing}, reading(folder=tmp_path / "c"))
    assert not (tmp_path / "c").exists()  # and are not kept


def test_an_image_that_became_unreadable_does_not_shift_rows_that_were_kept(images, tmp_path):
    file = images.path(1)
    pixels = np.random.default_rng(0).integers(0, 256, (100, 100, 3), np.uint8)
    Image.fromarray(pixels).save(file)
    images = image_sets.list_images("--d", images.root)
    kept_in = reading(folder=tmp_path / "c")
    features.extract(images, {"s": SIZE}, kept_in)
    stamp, before = images.stamp(1), features.change_stamp(images)
    with open(file, "r+b") as handle:  # damage between the pieces that the stamp is made of
        handle.seek(content_stamps.PIECE + 1)
        handle.write(bytes(100))
    os.utime(file, ns=(stamp, stamp))
    assert features.change_stamp(images) == before
    found, kept, bad = features.extract(images, {"s": SIZE, "m": MEAN}, kept_in)
    assert (kept, bad[0][0]) == ([0, 2, 3, 4], "1.png")
    assert found["s"].tolist() == [[2.0 * (4 + i % 2), 12.0] for i in kept]
    assert found["m"][:, 0].tolist() == kept
