import codecs
import os

import pytest

from utils.files import text_files
from utils.runtime.errors import DataError

TEXT = "café\n\u2028 two\nthree\n"


@pytest.mark.parametrize(
    "content",
    [
        TEXT.encode(),
        codecs.BOM_UTF8 + TEXT.encode(),
        codecs.BOM_UTF16_LE + TEXT.encode("utf-16-le"),
        codecs.BOM_UTF16_BE + TEXT.encode("utf-16-be"),
        codecs.BOM_UTF32_LE + TEXT.encode("utf-32-le"),
        TEXT.replace("\n", "\r\n").encode(),
        TEXT.replace("\n", "\r").encode(),
        TEXT.removesuffix("\n").encode(),
    ],
)
def test_a_text_is_the_same_however_an_editor_saved_it(tmp_path, content):
    (tmp_path / "t.txt").write_bytes(content)
    # U+2028 stays within its line
    assert text_files.read_lines(tmp_path / "t.txt") == ["café", "\u2028 two", "three"]


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"one\ncaf\xe9 two\n", r"t\.txt: is not UTF-8 text at line 2, byte 7 \(0xe9\); save it"),
        (codecs.BOM_UTF8 + b"caf\xe9", r"t\.txt: is not UTF-8 text at line 1, byte 6 \(0xe9\)"),
        (codecs.BOM_UTF16_LE + b"a\0\n\0b", r"t\.txt: is not UTF-16 text at line 2, byte 6"),
        ("one\ntwo".encode("utf-16-le"), r"t\.txt: line 1 holds a NUL character, as UTF-16"),
    ],
)
def test_what_cannot_be_decoded_is_named_with_its_place_and_never_guessed(tmp_path, content, fault):
    (tmp_path / "t.txt").write_bytes(content)
    with pytest.raises(text_files.MalformedError, match=fault):
        text_files.read_text(tmp_path / "t.txt")


def test_what_is_no_regular_file_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.txt")
    with pytest.raises(DataError, match="pipe.txt: is a pipe, which is not opened"):
        text_files.read_text(tmp_path / "pipe.txt")
    with pytest.raises(DataError, match="none.txt: does not exist"):
        text_files.read_text(tmp_path / "none.txt")


def test_json_with_a_byte_order_mark_is_read(tmp_path):
    (tmp_path / "c.json").write_bytes(codecs.BOM_UTF8 + b'{"a": "caf\xc3\xa9"}\r\n')
    assert text_files.read_json(tmp_path / "c.json") == {"a": "café"}


@pytest.mark.parametrize("content", ["[" * 200_000, '{"a":' * 200_000])
def test_json_that_is_nested_too_deeply_is_one_line(tmp_path, content):
    (tmp_path / "c.json").write_text(content)
    with pytest.raises(DataError, match=r"c\.json: is nested too deeply$"):
        text_files.read_json(tmp_path / "c.json")


def test_a_key_that_occurs_twice_is_refused_where_the_last_one_would_win(tmp_path):
    (tmp_path / "c.json").write_text('{"x": {"a.png": "one", "b.png": "two", "a.png": "three"}}')
    assert text_files.read_json(tmp_path / "c.json")["x"]["a.png"] == "three"
    with pytest.raises(DataError, match=r"c\.json: the key 'a\.png' stands twice in one object"):
        text_files.read_json(tmp_path / "c.json", unique=True)
