import numpy as np
import torch
from PIL import Image

from utils.data import image_sets
from utils.evaluation import features
from utils.evaluation.extractors import Extractor


def size_of(image):
    return torch.tensor([image.width, image.height], dtype=torch.float32)


def whole(image):
    return torch.from_numpy(np.asarray(image, np.float32))


SIZE = Extractor(size_of, lambda x: x * 2)
MEAN = Extractor(whole, lambda x: x.mean((1, 2)))


def folder(tmp_path, count=5):
    for i in range(count):
        Image.new("RGB", (4 + i % 2, 6), (i, 2 * i, 3 * i)).save(tmp_path / f"{i}.png")
    return image_sets.list_images("--d", tmp_path)


def test_rows_follow_the_images_for_every_extractor_whatever_the_batch(tmp_path):
    images = folder(tmp_path)
    for batch, workers in ((1, 0), (2, 0), (5, 2)):
        found, kept, bad = features.extract(images, {"s": SIZE, "m": MEAN}, batch_size=batch, num_workers=workers)
        assert found["s"].tolist() == [[2.0 * (4 + i % 2), 12.0] for i in range(5)]
        assert found["m"].tolist() == [[i, 2.0 * i, 3.0 * i] for i in range(5)]  # shapes differ within a batch
        assert (kept, bad) == ([0, 1, 2, 3, 4], [])


def test_each_image_is_opened_once_for_all_extractors(tmp_path, monkeypatch):
    images, opened = folder(tmp_path), []
    monkeypatch.setattr(features, "open_image", lambda path: opened.append(path) or image_sets.open_image(path))
    features.extract(images, {"s": SIZE, "m": MEAN}, batch_size=2, num_workers=0)
    assert len(opened) == 5


def test_a_broken_image_is_left_out_and_named(tmp_path):
    images = folder(tmp_path)
    (tmp_path / "2.png").write_text("")
    found, kept, bad = features.extract(images, {"s": SIZE}, batch_size=2, num_workers=0)
    assert kept == [0, 1, 3, 4]
    assert found["s"][2].tolist() == [10.0, 12.0]
    assert bad[0][0] == "2.png"


def test_prepare_comes_before_the_transform_of_its_extractor_alone(tmp_path):
    found, _, _ = features.extract(
        folder(tmp_path), {"s": SIZE, "t": SIZE}, prepare={"t": lambda i: i.resize((1, 1))}, batch_size=8, num_workers=0
    )
    assert found["t"].tolist() == [[2.0, 2.0]] * 5
    assert found["s"][0].tolist() == [8.0, 12.0]
