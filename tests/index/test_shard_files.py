"""A shard is two files that are whole or absent; an error about damage is one line that says what
to do."""

import numpy as np
import pytest

from utils.index import shard_files
from utils.runtime.errors import DataError


def write(root, name, count, **more):
    rows = [{"key": f"{name}.tar/{i}.jpg", "bytes": 100 + i} for i in range(count)]
    vectors = np.random.default_rng(count).standard_normal((count, 8)).astype(np.float32)
    shard_files.write_shard(
        root,
        name,
        vectors,
        rows,
        **{"descriptor": {"pt_style": "pixel"}, "change_stamp": {}} | more,
    )
    return vectors


def test_what_is_written_is_read(tmp_path):
    for name, count in (("10", 3), ("9", 5)):
        write(tmp_path, name, count)
    assert shard_files.finished(tmp_path) == ["9", "10"]
    shard, dimensions = shard_files.read_shard(tmp_path, "10", first=5)
    assert (shard.name, shard.first, shard.rows, dimensions) == ("10", 5, 3, 8)
    assert shard.facts["descriptor"] == {"pt_style": "pixel"}
    assert "damage" not in shard.facts
    assert shard_files.read_rows(tmp_path, "10", ["bytes", "key"]).to_pylist()[2] == {
        "bytes": 102,
        "key": "10.tar/2.jpg",
    }
    write(tmp_path, "10", 1, damage="cut", bad=[("10.tar/x", "broken")])
    rows, facts = shard_files.shard_facts(tmp_path, "10")
    assert (rows, facts["damage"], facts["bad"]) == (1, "cut", [["10.tar/x", "broken"]])


def test_a_shard_is_whole_or_absent(tmp_path, monkeypatch):
    for name in ("9", "10"):
        write(tmp_path, name, 3)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(OSError, match="No space"):
        write(tmp_path, "9", 5)
    assert shard_files.finished(tmp_path) == ["10"]
    assert not [p for p in (tmp_path / "shards").iterdir() if p.name.endswith(".part")]


def test_a_lone_surrogate_becomes_a_question_mark_in_a_caption_and_is_refused_in_a_key(tmp_path):
    odd = b"caf\xe9.jpg".decode("utf-8", "surrogateescape")
    how = {"descriptor": {}, "change_stamp": {}}
    shard_files.write_shard(
        tmp_path, "0", np.zeros((1, 8)), [{"key": "x.jpg", "bytes": 1, "caption": odd}], **how
    )
    assert shard_files.read_rows(tmp_path, "0", ["caption"]).to_pylist() == [
        {"caption": "caf?.jpg"}
    ]
    assert (shard_files.is_utf8("caf\xe9"), shard_files.is_utf8(odd)) == (True, False)
    with pytest.raises(UnicodeEncodeError):
        shard_files.write_shard(tmp_path, "0", np.zeros((1, 8)), [{"key": odd, "bytes": 1}], **how)


@pytest.mark.filterwarnings("ignore:.*invalid escape")
def test_any_damaged_byte_of_a_header_is_a_data_error_of_one_line(tmp_path):
    """numpy reads it as Python: what that raises is many things."""
    write(tmp_path, "9", 5)
    path = shard_files.paths_of(tmp_path, "9")[0]
    whole, seen = path.read_bytes(), set()
    for place in range(80):
        for byte in b"\x00({'\"\n \\9":
            path.write_bytes(whole[:place] + bytes([byte]) + whole[place + 1 :])
            try:
                shard_files.read_shard(tmp_path, "9")
            except DataError as error:
                seen.add(str(error))
    assert not any("\n" in line for line in seen)
    assert len(seen) > 100
    for header in (b"{'descr': '<f2',\n  (", b"  1\n 2\n", b"((((((", b'"""'):
        path.write_bytes(whole[:10] + header.ljust(118) + whole[128:])
        with pytest.raises(
            DataError,
            match=r"9\.npy: is not a \.npy of vectors \(.*\); run --build_index to rebuild this shard",
        ):
            shard_files.read_shard(tmp_path, "9")


def test_a_parquet_without_our_columns_is_a_data_error(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    write(tmp_path, "9", 5)
    path = shard_files.paths_of(tmp_path, "9")[1]
    pq.write_table(pa.table({"key": ["a"] * 5}), path)
    with pytest.raises(
        DataError,
        match=r"9\.parquet: cannot be read .*url.*; run --build_index to rebuild this shard",
    ):
        shard_files.read_rows(tmp_path, "9", ["key", "url"])
    with pytest.raises(DataError, match=r"9\.parquet: cannot be read"):
        shard_files.read_shard(tmp_path, "9")


@pytest.mark.parametrize(
    ("data", "wrong"),
    [
        ({"a": 1, "b": ""}, None),
        ({"a": 1}, "b"),
        ({"a": "1", "b": ""}, "a"),
        ([], "a"),
        (None, "a"),
        ({}, "a"),
    ],
)
def test_the_first_wrong_field_of_json(data, wrong):
    assert shard_files.wrong_field(data, a=int, b=str) == wrong
