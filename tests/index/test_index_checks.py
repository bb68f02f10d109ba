import os
import time

import pytest

from tests.index.test_vector_index import index, row, unit  # noqa: F401
from utils.index import index_checks, shard_files, vector_index
from utils.runtime.errors import DataError


def opened(root):
    return vector_index.open_index("--val_dir", root)


def flip(path, at):
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def test_a_whole_index_agrees(index):  # noqa: F811
    said = []
    index_checks.verify(opened(index[0]), said.append)
    assert said == [f"the index {index[0]} agrees with its checksums: 3 shards"]


def test_one_flipped_bit_of_the_vectors_is_found_and_named(index):  # noqa: F811
    path = shard_files.paths_of(index[0], "00010")[0]
    flip(path, -1)
    with pytest.raises(DataError, match=r"00010\.npy: differs from its checksum: .*--build_index"):
        index_checks.verify(opened(index[0]), print)


def test_no_flipped_bit_of_a_parquet_changes_a_row_or_a_fact_unnoticed(index):  # noqa: F811
    root, name = index[0], "00010"
    path = shard_files.paths_of(root, name)[1]
    whole, found = path.read_bytes(), 0
    rows = shard_files.read_rows(root, name, shard_files.COLUMNS).to_pylist()
    _, facts = shard_files.shard_facts(root, name)
    for place in range(0, len(whole), 37):
        flip(path, place)
        try:
            shard_files.require_content(root, name)
        except DataError as error:
            found += "00010.parquet: " in str(error)
        else:
            assert shard_files.read_rows(root, name, shard_files.COLUMNS).to_pylist() == rows
            assert shard_files.shard_facts(root, name)[1] == facts
        path.write_bytes(whole)
    assert found > 20


def test_one_flipped_bit_of_index_json_is_found_at_once(index):  # noqa: F811
    path = index[0] / "index.json"
    flip(path, path.read_bytes().index(b"pixel" if b"pixel" in path.read_bytes() else b"pt_style"))
    with pytest.raises(DataError, match=r"index\.json: "):
        opened(index[0])


def test_an_index_of_an_earlier_version_is_opened_and_counted(index, monkeypatch):  # noqa: F811
    root = index[0]
    content = vector_index.read_record(root)
    del content["checksum"]
    vector_index.write_manifest(root / "index.json", **content)
    monkeypatch.setattr(shard_files, "CONTENT", "unknown to it")
    said = []
    index_checks.verify(opened(root), said.append)
    assert said[0].endswith("3 shards (3 of an earlier version have none)")


def test_it_is_checked_once_a_day(index):  # noqa: F811
    root, said = index[0], []
    index_checks.verify_daily(opened(root), said.append)
    index_checks.verify_daily(opened(root), said.append)
    assert len(said) == 1
    yesterday = time.time() - index_checks.DAY - 1
    os.utime(root / index_checks.MARK, (yesterday, yesterday))
    flip(shard_files.paths_of(root, "00100")[0], -1)
    for _ in range(2):  # a damaged index is not taken for checked
        with pytest.raises(DataError, match=r"00100\.npy"):
            index_checks.verify_daily(opened(root), said.append)
