import errno
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from utils.data import content_stamps, folder_walk, image_sets
from utils.runtime.errors import DataError, UnreadError, UsageError


def gradient(size=(9, 7)):
    values = np.add.outer(np.arange(size[1]) * 10, np.arange(size[0]) * 5).astype(np.uint8)
    return Image.fromarray(np.stack([values, values[::-1], 255 - values], 2))


def test_natural_order_everywhere(tmp_path):
    for name in ("10.png", "2.png", "a/1.png", "b10/x.png", "b9/x.png"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        gradient().save(path)
    found = image_sets.list_images("--d", tmp_path)
    assert found.keys == ("2.png", "10.png", "a/1.png", "b9/x.png", "b10/x.png")
    assert found.path(1) == tmp_path / "10.png"


def test_output_folders_and_hidden_files_are_not_read(tmp_path):
    for name in (
        "x.png",
        "evaluations/a.png",
        "inferences/b.png",
        "checkpoint_5/c.png",
        "state_1/d.png",
        ".x.png",
    ):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        gradient().save(path)
    assert image_sets.list_images("--d", tmp_path, measured=True).keys == ("x.png",)
    # a class of training images may have any name
    assert len(image_sets.list_images("--d", tmp_path)) == 5


def test_missing_and_empty_folders_are_named(tmp_path):
    with pytest.raises(UsageError, match="--query_dir=.*does not exist; give an existing folder"):
        image_sets.list_images("--query_dir", tmp_path / "no")
    with pytest.raises(
        UsageError,
        match="--query_dir=.*holds no images; use a folder with JPEG, PNG, WEBP, GIF, BMP, TIFF",
    ):
        image_sets.list_images("--query_dir", tmp_path)


def test_the_fingerprint_follows_names_and_sizes_in_order(tmp_path):
    import hashlib

    gradient().save(tmp_path / "a.png")
    found = image_sets.list_images("--d", tmp_path)
    size = (tmp_path / "a.png").stat().st_size
    assert found.fingerprint == hashlib.sha256(f"a.png\0{size}\n".encode()).hexdigest()
    gradient((20, 20)).save(tmp_path / "a.png")
    assert image_sets.list_images("--d", tmp_path).fingerprint != found.fingerprint


def failing_disk(monkeypatch, name, number):
    """A disk that does not give the file of that name."""
    real = Path.read_bytes

    def read(path):
        if path.name == name:
            raise OSError(number, os.strerror(number))
        return real(path)

    monkeypatch.setattr(Path, "read_bytes", read)


def test_what_the_disk_does_not_give_is_no_bad_image(tmp_path, monkeypatch):
    for i in range(3):
        gradient().save(tmp_path / f"{i}.png")
    found = image_sets.list_images("--d", tmp_path)
    for number in (errno.EIO, errno.ESTALE, errno.EMFILE):
        failing_disk(monkeypatch, "1.png", number)
        with pytest.raises(UnreadError, match=rf"1\.png: {os.strerror(number)}"):
            image_sets.readable("--d", found, max_bad=1.0, workers=2)
        monkeypatch.undo()
    failing_disk(monkeypatch, "1.png", errno.EACCES)
    assert image_sets.readable("--d", found, max_bad=1.0, workers=2).bad == (
        ("1.png", "Permission denied"),
    )


def test_bad_images_are_left_out_up_to_the_share_that_is_accepted(tmp_path):
    for i in range(9):
        gradient().save(tmp_path / f"{i}.png")
    (tmp_path / "9.png").write_text("no image")
    found = image_sets.list_images("--d", tmp_path)
    good = image_sets.readable("--d", found, max_bad=0.01, workers=2)  # one always may
    assert len(good) == 9
    assert good.bad == (("9.png", "is not an image"),)
    (tmp_path / "8.png").write_text("")
    found = image_sets.list_images("--d", tmp_path)
    with pytest.raises(
        UsageError,
        match=r"2 of 10 images that cannot be read, first '8.png'.*--max_bad_images=0.01 accepts 1",
    ):
        image_sets.readable("--d", found, max_bad=0.01, workers=2)
    assert len(image_sets.readable("--d", found, max_bad=0.2, workers=1)) == 8


def test_a_set_without_a_readable_image_is_an_error(tmp_path):
    (tmp_path / "0.png").write_text("")
    with pytest.raises(UsageError, match="1 of 1 images"):
        image_sets.readable("--d", image_sets.list_images("--d", tmp_path), max_bad=1.0, workers=1)


@pytest.mark.parametrize(
    ("files", "read"),
    [
        ({"index.json": '{\n "kind": "index",\n "version": 1\n}', "shards/0.npy": ""}, False),
        ({"index.json": '{"kind": "generation"}', "shards/0.npy": ""}, True),  # somebody's own
        ({"index.json": '{\n "kind": "index"\n}'}, True),
        ({"summary.json": "{}", "groups.parquet": ""}, False),
        ({"summary.json": "{}"}, True),
    ],
)
def test_what_an_index_and_its_near_duplicates_show_is_never_read(tmp_path, files, read):
    Image.new("RGB", (4, 4)).save(tmp_path / "0.png")
    for name in ("gallery/page_01.png", "deep/er/1.png"):
        (tmp_path / "made" / name).parent.mkdir(parents=True)
        Image.new("RGB", (4, 4)).save(tmp_path / "made" / name)
    for name, text in files.items():
        (tmp_path / "made" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "made" / name).write_text(text)
    for measured in (False, True):
        assert len(image_sets.list_images("--d", tmp_path, measured=measured)) == (3 if read else 1)
    (tmp_path / "0.png").unlink()
    assert folder_walk.holds_images(tmp_path) is read
    assert folder_walk.holds_images(tmp_path / "made") is read


def test_an_image_that_is_known_to_have_changed_is_not_opened(tmp_path):
    for i in range(2):
        Image.new("RGB", (4, 4)).save(tmp_path / f"{i}.png")
    images = replace(image_sets.list_images("--d", tmp_path), changed=frozenset(["1.png"]))
    assert images.open(0).size == (4, 4)
    with pytest.raises(DataError, match=r"1\.png: has changed since the index was built"):
        images.take([1]).open(0)


def test_an_evaluation_that_lies_among_the_images_is_not_measured(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "0.png")
    (tmp_path / "mine" / "gallery").mkdir(parents=True)
    Image.new("RGB", (4, 4)).save(tmp_path / "mine" / "gallery" / "page_01.png")
    assert len(image_sets.list_images("--d", tmp_path, measured=True)) == 2
    for name in ("metrics.json", "report.html"):
        (tmp_path / "mine" / name).write_text("{}")
    assert image_sets.list_images("--d", tmp_path, measured=True).keys == ("0.png",)
    assert len(image_sets.list_images("--d", tmp_path)) == 2  # the trainer reads what it is given


def test_contents_are_read_once_for_all_who_ask(tmp_path, monkeypatch):
    (tmp_path / "0.png").write_bytes(b"x")
    images, read = image_sets.list_images("--d", tmp_path), []
    stamp_of = content_stamps.stamp_of
    monkeypatch.setattr(content_stamps, "stamp_of", lambda p: read.append(p) or stamp_of(p))
    found = {each.content_fingerprint for each in (images, images, images.take([0]))}
    assert (len(found), len(read)) == (1, 1)
    # a set that is listed anew reads them anew
    (tmp_path / "0.png").write_bytes(b"y")
    assert image_sets.list_images("--d", tmp_path).content_fingerprint not in found
