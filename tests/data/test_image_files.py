import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from utils.data import image_files
from utils.runtime.errors import DataError, UnreadError


def gradient(size=(9, 7)):
    values = np.add.outer(np.arange(size[1]) * 10, np.arange(size[0]) * 5).astype(np.uint8)
    return Image.fromarray(np.stack([values, values[::-1], 255 - values], 2))


def test_grey_and_palette_and_cmyk_are_read_as_shown(tmp_path):
    image = gradient()
    grey = image.convert("L")
    grey.save(tmp_path / "grey.png")
    assert np.array_equal(image_files.open_image(tmp_path / "grey.png"), grey.convert("RGB"))
    image.convert("P", palette=Image.Palette.ADAPTIVE).save(tmp_path / "palette.png")
    shown = np.asarray(image_files.open_image(tmp_path / "palette.png")).astype(int)
    assert np.abs(shown - np.asarray(image)).max() <= 12
    flat = Image.new("CMYK", (8, 8), (0, 255, 255, 0))  # full magenta and yellow ink is red
    flat.save(tmp_path / "cmyk.jpg", quality=100)
    red = np.asarray(image_files.open_image(tmp_path / "cmyk.jpg")).astype(int)
    assert np.abs(red - [255, 0, 0]).max() <= 3


def test_transparency_lies_over_white(tmp_path):
    image = Image.new("RGBA", (4, 4), (255, 0, 0, 128))
    image.putpixel((0, 0), (0, 0, 0, 0))
    image.save(tmp_path / "rgba.png")
    shown = np.asarray(image_files.open_image(tmp_path / "rgba.png")).astype(int)
    assert tuple(shown[0, 0]) == (255, 255, 255)
    assert np.abs(shown[1, 1] - [255, 127, 127]).max() <= 1
    grey = Image.new("LA", (2, 2), (0, 0))
    grey.save(tmp_path / "la.png")
    assert np.asarray(image_files.open_image(tmp_path / "la.png")).min() == 255
    keyed = Image.new("P", (2, 2), 1)
    keyed.putpalette([0, 0, 0, 9, 9, 9])
    keyed.save(tmp_path / "keyed.png", transparency=1)
    assert np.asarray(image_files.open_image(tmp_path / "keyed.png")).min() == 255


def test_sixteen_bits_are_scaled_not_clipped(tmp_path):
    values = np.array([[0, 257 * 100, 65535]], np.uint16)
    Image.fromarray(values).save(tmp_path / "deep.png")
    assert np.asarray(image_files.open_image(tmp_path / "deep.png"))[0, :, 0].tolist() == [
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
    shown = image_files.open_image(tmp_path / "0.png")
    assert (shown.size, shown.info[image_files.STORED_SIZE]) == ((24, 40), (40, 24))
    Image.new("RGB", (400, 240)).save(tmp_path / "1.jpg")
    assert image_files.open_image(tmp_path / "1.jpg", at_least=30).info[
        image_files.STORED_SIZE
    ] == (
        400,
        240,
    )


def test_exif_orientation_is_applied(tmp_path):
    image = Image.new("RGB", (6, 3), (255, 0, 0))
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees to show
    image.save(tmp_path / "turned.jpg", exif=exif)
    assert image_files.open_image(tmp_path / "turned.jpg").size == (3, 6)


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
            image_files.open_image(tmp_path / name)


@pytest.mark.parametrize("kind", ["DDS", "EPS", "PPM", "ICNS", "TGA"])
def test_no_decoder_is_reached_but_those_of_the_names(tmp_path, kind, monkeypatch):
    """Strangers' files may say they are JPEG. An EPS would be handed to Ghostscript."""
    gradient().save(tmp_path / f"0.{kind}", kind)
    (tmp_path / f"0.{kind}").rename(tmp_path / "0.jpg")
    with pytest.raises(DataError, match="0.jpg: is not an image") as raised:
        image_files.open_image(tmp_path / "0.jpg")
    assert not isinstance(raised.value, UnreadError)


@pytest.mark.parametrize("kind", ["JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"])
def test_what_is_read_whatever_its_name(tmp_path, kind):
    gradient().save(tmp_path / f"0.{kind}", kind, **({"lossless": True} if kind == "WEBP" else {}))
    (tmp_path / f"0.{kind}").rename(tmp_path / "0.jpg")
    shown = np.asarray(image_files.open_image(tmp_path / "0.jpg")).astype(int)
    assert np.abs(shown - np.asarray(gradient()).astype(int)).max() < 40


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"%PDF-1.4", "is not an image: it is a PDF"),
        (b"<html>", "is not an image: it is a web page"),
        (b"", "is not an image: it is empty"),
        (b"\xff\xd8\xff\xe0", "is not an image: it begins as JPEG does, and is damaged"),
    ],
)
def test_a_message_says_what_was_found_in_the_place_of_an_image(tmp_path, content, reason):
    (tmp_path / "0.jpg").write_bytes(content)
    with pytest.raises(DataError, match=f"0.jpg: {reason}$"):
        image_files.open_image(tmp_path / "0.jpg")


def test_heic_without_its_package_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(image_files.image_names, "decoders", lambda: ("JPEG", "PNG"))
    (tmp_path / "0.jpg").write_bytes(b"\0\0\0\x18ftypheic" + bytes(40))
    with pytest.raises(DataError, match="it is HEIC .pip install pillow-heif reads them"):
        image_files.open_image(tmp_path / "0.jpg")


def test_heic_is_read_where_its_package_is_installed(tmp_path):
    pytest.importorskip("pillow_heif")
    assert "HEIF" in image_files.image_names.decoders()
    Image.new("RGB", (32, 16), (200, 30, 30)).save(tmp_path / "0.heic", "HEIF", quality=100)
    shown = np.asarray(image_files.open_image(tmp_path / "0.heic")).astype(int)
    assert shown.shape == (16, 32, 3)
    assert np.abs(shown - [200, 30, 30]).max() <= 6


@pytest.mark.parametrize("form", ["GIF", "TIFF", "WEBP", "AVIF", "PNG"])
def test_of_several_pages_or_frames_the_first_is_read(tmp_path, form):
    frames = [Image.new("RGB", (32, 32), colour) for colour in ((250, 0, 0), (0, 250, 0))]
    frames[0].save(tmp_path / "0.png", form, save_all=True, append_images=frames[1:])
    shown = np.asarray(image_files.open_image(tmp_path / "0.png")).astype(int)
    assert np.abs(shown - [250, 0, 0]).max() <= 8


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("form", ["TIFF", "AVIF", "GIF", "BMP"])
def test_a_damaged_file_of_any_format_is_a_data_error(tmp_path, form):
    rng = np.random.default_rng(0)
    gradient((40, 30)).save(tmp_path / "whole", form)
    whole = (tmp_path / "whole").read_bytes()
    reasons = []
    for _ in range(60):
        damaged = bytearray(whole[: rng.integers(1, len(whole) + 1)])
        for at in rng.integers(0, len(damaged), 4):
            damaged[at] = rng.integers(256)
        try:
            assert image_files.open_image(io.BytesIO(bytes(damaged)), name="x").mode == "RGB"
        except DataError as error:
            reasons.append(str(error))
    assert reasons
    assert all(reason.startswith("x: ") for reason in reasons)


def test_a_line_of_pixels_is_no_picture(tmp_path):
    for size, readable in (((1, 50), True), ((1, 51), False), ((600, 10), False)):
        Image.new("RGB", size).save(tmp_path / "0.png")
        if readable:
            assert image_files.open_image(tmp_path / "0.png").size == size
            continue
        width, height = size
        with pytest.raises(
            DataError, match=f"{width} x {height} pixels: the longer side .* 50 times"
        ):
            image_files.open_image(tmp_path / "0.png")


@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF"])
@pytest.mark.parametrize("size", [(64, 48), (65, 49)])
def test_a_large_picture_is_read_at_half_its_size(tmp_path, form, size, monkeypatch):
    across, down = np.meshgrid(np.linspace(0, 200, size[0]), np.linspace(20, 250, size[1]))
    image = Image.fromarray(np.stack([across, down, 255 - across], 2).astype(np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees to show
    image.save(tmp_path / "0.png", form, exif=exif, **({"quality": 98} if form == "JPEG" else {}))
    full = image_files.open_image(tmp_path / "0.png")
    assert full.size == size[::-1]
    monkeypatch.setattr(image_files, "LARGE", 2000)
    half = image_files.open_image(tmp_path / "0.png")
    assert half.size == (-(-size[1] // 2), -(-size[0] // 2))
    # Pillow turns a TIFF when it opens it
    assert sorted(half.info[image_files.STORED_SIZE]) == sorted(size)
    expected = np.asarray(full.reduce(2)).astype(int)
    assert np.abs(np.asarray(half) - expected).max() <= (0 if form != "JPEG" else 10)


def test_a_telephones_picture_is_within_the_limits():
    for width, height in ((12_000, 9_000), (16_320, 12_240)):
        image_files._require_size(width, height)
        assert width * height > image_files.LARGE
    with pytest.raises(
        Image.DecompressionBombError, match="30000 x 30000 pixels may be a decompression bomb"
    ):
        image_files._require_size(30_000, 30_000)


def test_pixels_that_are_numbers_without_a_white_are_refused(tmp_path):
    Image.fromarray(np.ones((4, 4), np.float32)).save(tmp_path / "0.tif")
    with pytest.raises(DataError, match="its pixels are floating-point numbers"):
        image_files.open_image(tmp_path / "0.tif")
