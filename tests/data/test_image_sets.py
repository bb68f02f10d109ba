import errno
import os
import struct
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from utils.data import image_sets
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
        match="--query_dir=.*holds no images; takes a folder with .jpg, .jpeg, .png, .webp",
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


def test_grey_and_palette_and_cmyk_are_read_as_shown(tmp_path):
    image = gradient()
    grey = image.convert("L")
    grey.save(tmp_path / "grey.png")
    assert np.array_equal(image_sets.open_image(tmp_path / "grey.png"), grey.convert("RGB"))
    image.convert("P", palette=Image.Palette.ADAPTIVE).save(tmp_path / "palette.png")
    shown = np.asarray(image_sets.open_image(tmp_path / "palette.png")).astype(int)
    assert np.abs(shown - np.asarray(image)).max() <= 12
    flat = Image.new("CMYK", (8, 8), (0, 255, 255, 0))  # full magenta and yellow ink is red
    flat.save(tmp_path / "cmyk.jpg", quality=100)
    red = np.asarray(image_sets.open_image(tmp_path / "cmyk.jpg")).astype(int)
    assert np.abs(red - [255, 0, 0]).max() <= 3


def test_transparency_lies_over_white(tmp_path):
    image = Image.new("RGBA", (4, 4), (255, 0, 0, 128))
    image.putpixel((0, 0), (0, 0, 0, 0))
    image.save(tmp_path / "rgba.png")
    shown = np.asarray(image_sets.open_image(tmp_path / "rgba.png")).astype(int)
    assert tuple(shown[0, 0]) == (255, 255, 255)
    assert np.abs(shown[1, 1] - [255, 127, 127]).max() <= 1
    grey = Image.new("LA", (2, 2), (0, 0))
    grey.save(tmp_path / "la.png")
    assert np.asarray(image_sets.open_image(tmp_path / "la.png")).min() == 255
    keyed = Image.new("P", (2, 2), 1)
    keyed.putpalette([0, 0, 0, 9, 9, 9])
    keyed.save(tmp_path / "keyed.png", transparency=1)
    assert np.asarray(image_sets.open_image(tmp_path / "keyed.png")).min() == 255


def test_sixteen_bits_are_scaled_not_clipped(tmp_path):
    values = np.array([[0, 257 * 100, 65535]], np.uint16)
    Image.fromarray(values).save(tmp_path / "deep.png")
    assert np.asarray(image_sets.open_image(tmp_path / "deep.png"))[0, :, 0].tolist() == [
        0,
        100,
        255,
    ]


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "CMYK", "I;16"])
def test_the_size_in_the_file_is_told_beside_the_picture(tmp_path, mode):
    form = "JPEG" if mode == "CMYK" else "PNG"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new(mode, (40, 24)).save(tmp_path / "0.png", format=form, exif=exif)
    shown = image_sets.open_image(tmp_path / "0.png")
    assert (shown.size, shown.info[image_sets.STORED_SIZE]) == ((24, 40), (40, 24))
    Image.new("RGB", (400, 240)).save(tmp_path / "1.jpg")
    assert image_sets.open_image(tmp_path / "1.jpg", at_least=30).info[image_sets.STORED_SIZE] == (
        400,
        240,
    )


def test_exif_orientation_is_applied(tmp_path):
    image = Image.new("RGB", (6, 3), (255, 0, 0))
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees to show
    image.save(tmp_path / "turned.jpg", exif=exif)
    assert image_sets.open_image(tmp_path / "turned.jpg").size == (3, 6)


def bomb(path):
    """A PNG whose header promises 60,000 x 60,000 pixels."""

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0"))
        + chunk(b"IEND", b"")
    )


def test_broken_files_are_reported_with_their_reason(tmp_path):
    (tmp_path / "text.png").write_text("no image")
    gradient((64, 64)).save(tmp_path / "whole.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:400])
    bomb(tmp_path / "bomb.png")
    for name, reason in (
        ("text.png", "is not an image"),
        ("cut.jpg", "(?i)truncated"),
        ("bomb.png", "decompression bomb"),
    ):
        with pytest.raises(DataError, match=reason):
            image_sets.open_image(tmp_path / name)


@pytest.mark.parametrize("kind", ["DDS", "EPS", "TIFF", "AVIF", "PPM"])
def test_no_decoder_is_reached_but_those_of_the_names(tmp_path, kind, monkeypatch):
    """Strangers' files may say they are JPEG. An EPS would be handed to Ghostscript."""
    gradient().save(tmp_path / f"0.{kind}", kind)
    (tmp_path / f"0.{kind}").rename(tmp_path / "0.jpg")
    with pytest.raises(DataError, match="0.jpg: is not an image") as raised:
        image_sets.open_image(tmp_path / "0.jpg")
    assert not isinstance(raised.value, UnreadError)


@pytest.mark.parametrize("kind", ["JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP"])
def test_what_is_read_whatever_its_name(tmp_path, kind):
    gradient().save(tmp_path / f"0.{kind}", kind, **({"lossless": True} if kind == "WEBP" else {}))
    (tmp_path / f"0.{kind}").rename(tmp_path / "0.jpg")
    shown = np.asarray(image_sets.open_image(tmp_path / "0.jpg")).astype(int)
    assert np.abs(shown - np.asarray(gradient()).astype(int)).max() < 40


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
    assert image_sets.holds_images(tmp_path) is read
    assert image_sets.holds_images(tmp_path / "made") is read


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
