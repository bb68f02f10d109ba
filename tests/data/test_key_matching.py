import unicodedata

import pytest

from utils.data import key_matching
from utils.runtime.errors import DataError


def matched(keys, images, **options):
    return key_matching.match_keys("/set/c.json", keys, "/set/photos", images, **options)


@pytest.mark.parametrize(
    "key",
    [
        "cat\\0.png",
        "photos\\cat\\0.png",
        "C:\\Users\\me\\photos\\cat\\0.png",
        "\\\\server\\share\\cat\\0.png",
        "C:/Users/me/cat/0.png",
        ".\\cat\\0.png",
    ],
)
def test_a_path_of_windows_names_its_image(key):
    assert matched([key], ["cat/0.png", "dog/0.png"])[0] == {"cat/0.png": key}


@pytest.mark.parametrize("key", ["NFC", "NFD"])
def test_accents_composed_and_decomposed_name_one_image(key):
    name = "caf\u00e9/\u00fc.png"
    image = unicodedata.normalize("NFD" if key == "NFC" else "NFC", name)
    key = unicodedata.normalize(key, name)
    assert key != image
    assert matched([key], [image, "o.png"]) == ({image: key}, 0)
    away = f"/elsewhere/{key}"
    assert matched([away], [image, "o.png"]) == ({image: away}, 1)


def test_a_name_as_it_is_written_comes_before_other_forms():
    nfc, nfd = (unicodedata.normalize(form, "\u00e9.png") for form in ("NFC", "NFD"))
    assert matched([nfd, nfc], [nfc, nfd])[0] == {nfc: nfc, nfd: nfd}
    assert matched(["a\\b.png", "a/b.png"], ["a\\b.png", "a/b.png"])[0] == {
        "a\\b.png": "a\\b.png",
        "a/b.png": "a/b.png",
    }


def test_a_key_may_leave_the_suffix_of_its_image_out():
    images = ["00000/000000012.jpg", "00000/000000013.jpg", "v1.5/a.b.png"]
    keys = ["000000012", "/elsewhere/000000013", "v1.5/a.b"]
    assert matched(keys, images, anywhere=True)[0] == dict(zip(images, keys, strict=True))
    with pytest.raises(DataError, match="'0' may be the image '0.jpg' or '0.png'"):
        matched(["0"], ["0.jpg", "0.png"])


def test_two_keys_of_one_image_are_refused():
    with pytest.raises(DataError, match="both name the image '0.png'; keep one"):
        matched(["0.png", "photos/0.png"], ["0.png"])
    with pytest.raises(DataError, match="both name the image 'a/0.png'"):
        matched(["a/0.png", "a\\0.png"], ["a/0.png"])


def test_a_relative_key_matches_anywhere_only_as_a_whole_and_on_request(tmp_path):
    folder = tmp_path / "data"
    keys = ["cats/1.png", "cats/2.png", "dogs/1.png"]
    found, _ = key_matching.match_keys(
        folder / "m.json", ["data/cats/1.png", "x/dogs/1.png"], folder, keys, anywhere=True
    )
    assert found == {"cats/1.png": "data/cats/1.png"}
    assert key_matching.match_keys(folder / "m.json", ["data/cats/1.png"], folder, keys) == (
        {},
        0,
    )
