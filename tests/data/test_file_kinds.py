import io

import pytest
from PIL import Image

from utils.data.file_kinds import kind_of


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"", "empty"),
        (b"PK\x03\x04x", "a zip archive"),
        (b"%PDF-1.7", "a PDF"),
        (b"\n <!DOCTYPE html><html>", "a web page"),
        (b'<?xml version="1.0"?><svg>', "an SVG drawing"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "HEIC"),
        (b"\0\0\0\x18ftypisom\0\0\0\0", "a video"),
        (b"some words", None),
    ],
)
def test_what_a_file_is_by_its_beginning(content, kind):
    assert kind_of(content) == kind


@pytest.mark.parametrize("form", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "AVIF"])
def test_every_format_is_known_by_its_beginning(form):
    file = io.BytesIO()
    Image.new("RGB", (4, 4)).save(file, form)
    assert kind_of(file.getvalue()).upper() == form
