import sys

import pytest

from utils.data import image_names


@pytest.mark.parametrize(
    "name",
    [
        "a.jpg",
        "a.JPEG",
        "a.jpe",
        "a.jfif",
        "d/e.f.png",
        "a.webp",
        "a.gif",
        "a.bmp",
        "a.TIF",
        "a.tiff",
        "a.avif",
    ],
)
def test_endings_of_all_formats_are_images_in_any_case(name):
    assert image_names.has_suffix(name)
    assert image_names.kind_of(name) is None


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("._x.png", "hidden"),
        ("a/.git/x.png", "hidden"),
        ("./a.png", None),
        ("__MACOSX/a.png", "of the operating system"),
        ("a/@eaDir/a.png/SYNOPHOTO_THUMB_M.jpg", "of the operating system"),
        ("Thumbs.db", "of the operating system"),
        ("a.xyz", ".xyz"),
        ("a.XYZ", ".xyz"),
        ("README", "without an ending"),
        ("a.\x1b[31m", "without an ending"),  # a stranger's text reaches no terminal
        ("a.txt", None),
        ("metadata.jsonl", None),
    ],
)
def test_what_is_left_out_is_counted_by_its_kind(path, kind):
    assert image_names.kind_of(path) == kind


def test_kinds_in_words_are_few_and_the_most_frequent_first():
    kinds = image_names.counted([".xyz"] * 1200 + ["hidden"] * 3)
    assert image_names.in_words(kinds) == "1,200 .xyz, 3 hidden"
    many = image_names.counted({f".e{i}": i for i in range(1, 10)})
    assert image_names.in_words(many).endswith(".e4, 6 of other kinds")
    assert image_names.in_words(()) == ""


def test_files_whose_decoder_is_not_installed_are_left_out_with_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    for cached in (image_names.decoders, image_names.suffixes):
        cached.cache_clear()
    try:
        assert "HEIF" not in image_names.decoders()
        assert image_names.kind_of("a.HEIC") == ".heic"
        words = image_names.in_words(image_names.counted([".heic", ".heic"]))
        assert words == "2 .heic (pip install pillow-heif reads them)"
    finally:
        for cached in (image_names.decoders, image_names.suffixes):
            cached.cache_clear()
