import os
import socket

import pytest
from PIL import Image

from tests import tars
from utils.data import folder_walk, image_sets, tar_shards
from utils.runtime.errors import DataError, UsageError

NAMES = (
    "0.png",
    "1.tif",
    "2.gif",
    "3.bmp",
    "4.avif",
    "5.jfif",
    "deep/6.jpe",
    "._0.png",
    ".DS_Store",
    "@eaDir/0.png",
    "__MACOSX/0.png",
    "Thumbs.db",
    "a.xyz",
    "b.xyz",
    "0.txt",
)
FORMATS = {
    ".tif": "TIFF",
    ".gif": "GIF",
    ".bmp": "BMP",
    ".avif": "AVIF",
    ".jfif": "JPEG",
    ".jpe": "JPEG",
}
IMAGES = ("0.png", "1.tif", "2.gif", "3.bmp", "4.avif", "5.jfif", "deep/6.jpe")


def content(name):
    """A picture of that name's format; it is in names that are no pictures of a set, too."""
    return tars.noise(3, form=FORMATS.get(os.path.splitext(name)[1], "PNG"))


def as_folder(root):
    for name in NAMES:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content(name))
    return image_sets.list_images("--d", root)


def as_tar(root):
    root.mkdir()
    tars.write(root / "0.tar", {name: content(name) for name in NAMES})
    return tar_shards.list_shards("--d", root)[0]


@pytest.mark.parametrize("make", [as_folder, as_tar])
def test_folders_and_tar_files_read_the_same_names(make, tmp_path):
    images = make(tmp_path / "set")
    assert tuple(key.removeprefix("0.tar/") for key in images.keys) == IMAGES
    assert [images.open(i).size for i in range(len(images))] == [(20, 16)] * len(IMAGES)
    assert images.bad == ()
    lines = []
    image_sets.say_left_out("--d", images, lines.append)
    others = sum(count for _, count in images.left_out)
    assert lines == [
        f"--d={str(images.root)!r}: {7 + others} files, 7 images; left out: 3 of the operating"
        " system, 2 .xyz, 2 hidden"
    ]


def test_nothing_is_said_of_a_folder_of_images_and_texts(tmp_path):
    for name in ("0.png", "0.txt", "metadata.jsonl", "captions.json"):
        (tmp_path / name).write_bytes(tars.noise(0))
    lines = []
    image_sets.say_left_out("--d", image_sets.list_images("--d", tmp_path), lines.append)
    assert lines == []


def test_what_is_no_file_is_named_and_never_opened(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "0.png")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "device.png").symlink_to("/dev/zero")
    (tmp_path / "loop.png").symlink_to("loop.png")
    (tmp_path / "absent.png").symlink_to("nowhere")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s.png"))
        images = image_sets.list_images("--d", tmp_path)
    assert images.bad == (
        ("device.png", "is a device, which is not opened"),
        ("loop.png", "is a link that leads back to itself"),
        ("pipe.png", "is a pipe, which is not opened"),
        ("s.png", "is a socket, which is not opened"),
    )
    assert images.keys == ("0.png", "absent.png")
    with pytest.raises(UsageError, match=r"5 of 6 images .*first 'device.png' .is a device"):
        image_sets.readable("--d", images, max_bad=0.1, workers=1)
    assert len(image_sets.readable("--d", images, max_bad=0.9, workers=1).bad) == 5


def test_a_file_that_became_a_pipe_is_not_waited_for(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "0.png")
    images = image_sets.list_images("--d", tmp_path)
    (tmp_path / "0.png").unlink()
    os.mkfifo(tmp_path / "0.png")
    with pytest.raises(DataError, match="0.png: is a pipe, which is not opened"):
        images.open(0)
    assert images.content(0) == b""


def test_links_to_a_folder_above_are_followed_once(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "other").mkdir()
    for place in ("0.png", "a/b/1.png", "other/2.png"):
        Image.new("RGB", (4, 4)).save(tmp_path / place)
    (tmp_path / "a" / "b" / "up").symlink_to(tmp_path / "a")
    (tmp_path / "a" / "loop").symlink_to("loop")
    (tmp_path / "a" / "aside").symlink_to(tmp_path / "other")  # leads elsewhere: it is read
    images = image_sets.list_images("--d", tmp_path)
    assert images.keys == ("0.png", "a/aside/2.png", "a/b/1.png", "other/2.png")
    assert folder_walk.holds_images(tmp_path)
    assert images.left_out == (("without an ending", 2),)


def test_a_folder_without_images_says_what_it_holds_instead(tmp_path):
    for i in range(3):
        (tmp_path / f"{i}.xyz").write_text("")
    with pytest.raises(
        UsageError, match=r"holds no images \(left out: 3 .xyz\); use a folder with JPEG"
    ):
        image_sets.list_images("--d", tmp_path)
    tars.write(tmp_path / "0.tar", {"0.cls": b"1", "._0.png": b"x"})
    with pytest.raises(
        UsageError, match=r"holds no images \(left out: 1 .cls, 1 hidden\); use shards"
    ):
        tar_shards.list_shards("--d", tmp_path / "0.tar")
    (tmp_path / "set.zip").write_bytes(b"PK\x03\x04....")
    with pytest.raises(UsageError, match="is an archive; unpack it and give the folder"):
        image_sets.list_images("--d", tmp_path / "set.zip")
