import os

import pytest

from utils.data import content_stamps
from utils.data.content_stamps import FILE_PIECES, PIECE, same, stamp_of


@pytest.mark.parametrize("size", [0, 10, 4 * PIECE, 4 * PIECE + 1, 90_000])
def test_a_byte_that_is_read_changes_the_stamp(tmp_path, size):
    path = tmp_path / "0.png"
    path.write_bytes(bytes(size))
    before = stamp_of(path)
    assert len(before) == 32
    assert before == stamp_of(path)
    for at in (0, size // 2, size - 1) if size and size <= 4 * PIECE else (0, size - 1):
        if size:
            path.write_bytes(bytes(at) + b"x" + bytes(size - at - 1))
            assert stamp_of(path) != before


def test_the_pieces_lie_within_the_file_and_reach_its_end():
    for size in (1, PIECE * 4 + 1, 10**9):
        for count in (content_stamps.IMAGE_PIECES, FILE_PIECES):
            pieces = content_stamps._pieces(size, count)
            assert pieces[0][0] == 0
            assert sum(pieces[-1]) == size
            assert sum(length for _, length in pieces) <= count * PIECE


def test_a_part_of_a_file_has_the_stamp_of_a_file_that_holds_that_part(tmp_path):
    content = bytes(range(256)) * 200
    (tmp_path / "all").write_bytes(b"before" + content + b"after")
    (tmp_path / "part").write_bytes(content)
    assert stamp_of(tmp_path / "all", first=6, size=len(content)) == stamp_of(tmp_path / "part")


def test_what_is_no_regular_file_has_no_stamp_and_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "loop.png").symlink_to("loop.png")
    for name in ("pipe.png", "loop.png", "absent.png", "."):
        assert stamp_of(tmp_path / name) == b""


def test_a_record_without_content_is_compared_by_what_it_holds():
    now = {"bytes": 1, "content": "a"}
    assert same({"bytes": 1}, now)
    assert not same({"bytes": 2}, now)
    assert same({"bytes": 1, "content": "a"}, now)
    assert not same({"bytes": 1, "content": "b"}, now)
    assert not same({"bytes": 1, "etag": None}, now)


def test_a_file_of_many_images_is_stamped_once_while_it_stays(tmp_path):
    path = tmp_path / "0.parquet"
    path.write_bytes(b"one")
    before = content_stamps.stamp_of_file(path)
    assert before == stamp_of(path, pieces=FILE_PIECES) == content_stamps.stamp_of_file(path)
    path.write_bytes(b"other")
    assert content_stamps.stamp_of_file(path) == stamp_of(path) != before
    assert content_stamps.stamp_of_file(tmp_path / "absent") == b""
