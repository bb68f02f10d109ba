"""An index on disk: what is written is read back, and damage is an error of one line."""

import contextlib
import json
import os
import resource
import shutil

import numpy as np
import pytest

from tests import servers, tars
from utils.data import tar_shards
from utils.files import downloads
from utils.index import index_descriptor, shard_files, vector_index
from utils.runtime.errors import DataError, UsageError

DESCRIPTOR = {"pt_style": "sscd", "preset": "dcr", "weights_sha256": "ab", "dtype": "torch.float32"}


def unit(count, dimensions, seed):
    x = np.random.default_rng(seed).standard_normal((count, dimensions)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def row(shard, i, **more):
    return {
        "key": f"{shard}.tar/{i:03d}.jpg",
        "bytes": 100 + i,
        "offset": 512 * (i + 1),
        "width": 64,
        "height": 48,
    } | more


@pytest.fixture
def index(tmp_path):
    """Three shards of 7, 5 and 4 vectors of 8 dimensions, of tar files that lie beside the index.
    -> (folder, vectors)"""
    (tmp_path / "data").mkdir()
    root, parts = tmp_path / "index", [unit(7, 8, 1), unit(5, 8, 2), unit(4, 8, 3)]
    names = ("00002", "00010", "00100")
    vector_index.write_index(
        root,
        descriptor=DESCRIPTOR,
        source={"folder": str(tmp_path / "data"), "shards": True},
        planned=names,
    )
    for name, vectors in zip(names, parts, strict=True):
        rows = [
            row(name, i, caption=f"{name} {i}", url="https://example.org/x" if i else None)
            for i in range(len(vectors))
        ]
        shard_files.write_shard(
            root,
            name,
            vectors,
            rows,
            descriptor=DESCRIPTOR,
            change_stamp={},
            bad=[(f"{name}/x", "broken")],
        )
    return root, np.concatenate(parts).astype(np.float16).astype(np.float32)


def opened(root):
    return vector_index.open_index("--val_dir", root)


def test_rows_count_through_the_shards_in_natural_order(index):
    root, vectors = index
    whole = opened(root)
    assert (len(whole), whole.dimensions, whole.complete) == (16, 8, True)
    assert [s.name for s in whole.shards] == ["00002", "00010", "00100"]
    rows = [15, 0, 7, 7, 11, 12]
    assert np.array_equal(whole.take(rows), vectors[rows])
    assert [r["caption"] for r in whole.table(rows)] == [
        "00100 3",
        "00002 0",
        "00010 0",
        "00010 0",
        "00010 4",
        "00100 0",
    ]
    assert whole.table([0, 1], ["url", "width"]) == [
        {"url": None, "width": 64},
        {"url": "https://example.org/x", "width": 64},
    ]
    assert whole.bad == [("00002/x", "broken"), ("00010/x", "broken"), ("00100/x", "broken")]


@pytest.mark.parametrize("rows", [[], [3], [15, 0, 7, 7, 11, 12], list(range(16)), [0, 8, 1, 9]])
def test_a_table_has_the_order_of_its_rows_and_reads_each_shard_once(index, monkeypatch, rows):
    whole, read, real = opened(index[0]), [], shard_files.read_rows
    every = [
        row
        for shard in whole.shards
        for row in real(whole.root, shard.name, shard_files.COLUMNS).to_pylist()
    ]
    monkeypatch.setattr(
        shard_files, "read_rows", lambda root, n, c: read.append(n) or real(root, n, c)
    )
    assert whole.arrow(rows).to_pylist() == [every[r] for r in rows]
    assert sorted(read) == sorted(
        {s.name for s in whole.shards for r in rows if s.first <= r < s.first + s.rows}
    )
    table = whole.arrow(rows, ["url", "key"])
    assert table.column_names == ["url", "key"]
    assert table["key"].to_pylist() == [every[r]["key"] for r in rows]


@pytest.mark.parametrize("rows", [1, 3, 5, 16, 100])
@pytest.mark.parametrize("parts", [1, 2, 3])
def test_blocks_are_the_vectors_in_order_whatever_their_size(index, rows, parts):
    root, vectors = index
    firsts, blocks = [], []
    for part in range(parts):
        for first, block in opened(root).blocks(rows, part=part, parts=parts):
            assert len(block) <= rows
            firsts.append(first)
            blocks.append(block.numpy().copy())
    assert np.array_equal(np.concatenate(blocks), vectors)
    assert firsts == np.cumsum([0, *map(len, blocks)])[:-1].tolist()


def test_keys_and_images(index, tmp_path):
    root, _ = index
    whole = opened(root)
    assert whole.find(["00010.tar/003.jpg", "00002.tar/000.jpg", "00010.tar/999.jpg"]) == {
        "00002.tar/000.jpg": 0,
        "00010.tar/003.jpg": 10,
    }
    images = whole.images([10, 0])
    assert images.keys == ("00010.tar/003.jpg", "00002.tar/000.jpg")
    assert images.places == (("00010.tar", 2048), ("00002.tar", 512))
    assert images.sizes == (103, 100)
    assert images.root == tmp_path / "data"


def test_an_index_that_is_moved_with_its_images_still_finds_them(index, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    for name in ("index", "data"):
        (tmp_path / name).rename(tmp_path / "elsewhere" / name)
    assert (
        opened(tmp_path / "elsewhere" / "index").image_root.resolve()
        == tmp_path / "elsewhere" / "data"
    )


def test_the_finished_shards_of_an_incomplete_index_are_opened(index):
    root, vectors = index
    shard_files.paths_of(root, "00010")[0].unlink()  # its Parquet alone: a shard in hand
    partial = opened(root)
    assert (len(partial), partial.complete, len(partial.planned)) == (11, False, 3)
    assert np.array_equal(partial.take([7]), vectors[12:13])
    for name in ("00002", "00100"):
        shard_files.paths_of(root, name)[0].unlink()
    with pytest.raises(UsageError, match=r"--val_dir=.*no shard of this index is finished yet"):
        opened(root)


def broken(root, how):
    array, table = shard_files.paths_of(root, "00010")
    content = array.read_bytes()
    if how == "parquet missing":
        table.unlink()
    elif how == "parquet damaged":
        table.write_bytes(table.read_bytes()[:100])
    elif how == "npy truncated":
        array.write_bytes(content[:-3])
    elif how == "npy of nothing":
        array.write_bytes(b"")
    elif how == "npy of float64":
        np.save(array, np.zeros((5, 8)))
    elif how == "npy pickled":
        np.save(array, np.array([{}], dtype=object), allow_pickle=True)
    elif how == "rows differ":
        np.save(array, np.zeros((6, 8), np.float16))
    elif how == "dimensions differ":
        np.save(array, np.zeros((5, 4), np.float16))
    else:
        theirs = DESCRIPTOR | {"preset": "dcr-search"}
        rows = [row("00010", i) for i in range(5)]
        shard_files.write_shard(
            root, "00010", unit(5, 8, 2), rows, descriptor=theirs, change_stamp={}
        )


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("parquet missing", "its Parquet '00010.parquet' is missing"),
        ("parquet damaged", "00010.parquet: cannot be read"),
        ("npy truncated", r"is truncated, \d+ bytes of \d+"),
        ("npy of nothing", "is not a .npy of vectors"),
        ("npy of float64", r"holds float64 of shape \(5, 8\)"),
        ("npy pickled", r"holds object of shape \(1,\)"),
        ("rows differ", "holds 6 vectors, its Parquet 5 rows"),
        ("dimensions differ", "another descriptor than the index .4 dimensions, others 8"),
        ("preset differs", "another descriptor than the index .preset 'dcr-search', not 'dcr'"),
    ],
)
def test_damage_is_told_in_a_line_that_names_the_file_and_what_to_do(index, how, message):
    root, _ = index
    broken(root, how)
    with pytest.raises(
        DataError, match=rf"00010\.(npy|parquet): .*{message}|00010\.parquet: {message}|{message}"
    ) as error:
        opened(root)
    assert "00010." in str(error.value)
    assert "\n" not in str(error.value)


def test_descriptors_differ_only_by_what_changes_their_vectors():
    other = DESCRIPTOR | {"dtype": "torch.float16", "weights": "copy.pt"}
    assert index_descriptor.difference(other, DESCRIPTOR) is None
    assert (
        index_descriptor.difference(DESCRIPTOR | {"weights_sha256": "cd"}, DESCRIPTOR)
        == "weights_sha256 'cd', not 'ab'"
    )
    assert (
        index_descriptor.difference({"pt_style": "pixel"}, {"pt_style": "pixel", "cells": 16})
        == "cells None, not 16"
    )


def test_the_fingerprint_changes_with_the_images(index):
    root, _ = index
    before = opened(root).fingerprint
    rows = [row("00010", i) for i in range(5)]
    shard_files.write_shard(
        root, "00010", unit(5, 8, 9), rows, descriptor=DESCRIPTOR, change_stamp={}
    )
    assert opened(root).fingerprint == before  # of keys and sizes, as a folder's
    rows[0]["bytes"] += 1
    shard_files.write_shard(
        root, "00010", unit(5, 8, 9), rows, descriptor=DESCRIPTOR, change_stamp={}
    )
    assert opened(root).fingerprint != before


@pytest.mark.parametrize("there", ["here", "behind an address"])
@pytest.mark.parametrize("how", ["untouched", "rewritten", "touched", "gone"])
def test_pictures_of_a_tar_that_was_rewritten_are_not_read_at_old_offsets(
    tmp_path, how, there, monkeypatch
):
    (tmp_path / "data").mkdir()
    rows = []
    for name in ("0", "1"):
        path = tmp_path / "data" / f"{name}.tar"
        tars.write(path, {"0.png": tars.png(1), "1.png": tars.png(2)})
        members = tar_shards.read_shard(path).images
        rows.append(
            [{"key": f"{name}.tar/{m.name}", "bytes": m.size, "offset": m.offset} for m in members]
        )
    root, folder = tmp_path / "index", tmp_path / "data"
    with contextlib.ExitStack() as served:
        if there != "here":
            folder = downloads.Address(
                served.enter_context(servers.serving(tmp_path / "data", monkeypatch)).address
            )
        vector_index.write_index(
            root, descriptor={}, source={"folder": str(folder), "shards": True}, planned=["0", "1"]
        )
        for name, some in zip(("0", "1"), rows, strict=True):
            stamp = (tar_shards if there == "here" else downloads).change_stamp(
                folder / f"{name}.tar"
            )
            shard_files.write_shard(
                root, name, unit(2, 4, 1), some, descriptor={}, change_stamp=stamp
            )
        path = tmp_path / "data" / "1.tar"
        if how == "rewritten":
            # whole pictures lie at the old offsets
            tars.write(path, {"1.png": tars.png(2), "0.png": tars.png(1)})
        elif how == "touched":
            os.utime(path, ns=(5, 5))
        elif how == "gone":
            path.unlink()
        images = opened(root).images([3, 0, 2])
        assert images.open(1).getpixel((0, 0)) == (1, 0, 0)
        for i, value in ((0, 2), (2, 1)):
            if how == "untouched":
                assert images.open(i).getpixel((0, 0)) == (value, 0, 0)
                continue
            message = "has changed since the index was built"
            if how == "gone":
                message = "No such file" if there == "here" else "answered 404"
            with pytest.raises(DataError, match=rf"1\.tar/{value - 1}\.png: {message}"):
                images.open(i)


@pytest.mark.parametrize("rows", [3, 2, 4])
def test_a_shard_that_is_rebuilt_after_the_index_was_opened_is_an_error(tmp_path, rows):
    vector_index.write_index(
        tmp_path,
        descriptor={},
        source={"folder": str(tmp_path), "shards": True},
        planned=["0", "1"],
    )
    for name in ("0", "1"):
        shard_files.write_shard(
            tmp_path,
            name,
            unit(3, 4, 1),
            [row(name, i) for i in range(3)],
            descriptor={},
            change_stamp={},
        )
    index = opened(tmp_path)
    os.utime(shard_files.paths_of(tmp_path, "1")[0], ns=(5, 5))
    index = opened(tmp_path)
    shard_files.write_shard(
        tmp_path,
        "1",
        unit(rows, 4, 2),
        [row("1", i + 7) for i in range(rows)],
        descriptor={},
        change_stamp={},
    )
    message = "1.npy: was rebuilt after the index was opened; search again"
    for call in (
        lambda: index.table([5]),
        lambda: index.take([5]),
        lambda: list(index.blocks(2)),
        lambda: index.find(["1.tar/001.jpg"]),
    ):
        with pytest.raises(DataError, match=message):
            call()
    assert index.table([2])[0]["key"] == "0.tar/002.jpg"  # of the other shard nothing is lost
    assert len(opened(tmp_path).table(range(3 + rows))) == 3 + rows


def test_a_folders_image_of_another_size_is_not_shown(tmp_path):
    for i in range(3):
        (tmp_path / f"{i}.png").write_bytes(tars.noise(i))
    rows = [{"key": f"{i}.png", "bytes": (tmp_path / f"{i}.png").stat().st_size} for i in range(3)]
    vector_index.write_index(
        tmp_path, descriptor={}, source={"folder": str(tmp_path), "shards": False}, planned=["0"]
    )
    shard_files.write_shard(
        tmp_path, "0", unit(3, 4, 1), rows, descriptor={}, change_stamp={"fingerprint": "x"}
    )
    (tmp_path / "1.png").write_bytes(tars.noise(1, (40, 40)))
    images = opened(tmp_path).images(range(3))
    assert images.changed == {"1.png"}
    with pytest.raises(DataError, match="has changed since"):
        images.open(1)


def test_unplanned_shards_are_ignored(index):
    root, vectors = index
    for kind in ("npy", "parquet"):
        shutil.copy(root / "shards" / f"00010.{kind}", root / "shards" / f"00011.{kind}")
    whole = opened(root)
    assert (len(whole), whole.complete) == (16, True)
    assert np.array_equal(whole.take(range(16)), vectors)
    shard_files.paths_of(root, "00002")[0].unlink()  # which the copy would hide
    assert (len(opened(root)), opened(root).complete) == (9, False)


def test_which_folders_are_an_index(index, tmp_path):
    root, _ = index
    assert vector_index.is_index(root)
    assert not vector_index.is_index(tmp_path)
    (root / "index.json").write_text("")  # of a disk that was full
    assert vector_index.is_index(root)
    (tmp_path / "index.json").write_text(json.dumps({"kind": "generation"}))
    assert not vector_index.is_index(tmp_path)


def test_vectors_are_not_read_into_memory(tmp_path):
    """60 MB of vectors are searched through a block of 1 MB: what the process may hold beyond it is
    asked of the kernel."""

    def anonymous():
        status = open("/proc/self/status").read()  # noqa: SIM115 - read at once
        return int(status.split("RssAnon:")[1].split()[0]) * 1024

    vector_index.write_index(
        tmp_path, descriptor={}, source={"folder": str(tmp_path), "shards": False}, planned=["0"]
    )
    vectors = np.zeros((60_000, 512), np.float16)
    shard_files.write_shard(
        tmp_path,
        "0",
        vectors,
        [{"key": str(i), "bytes": 1} for i in range(60_000)],
        descriptor={},
        change_stamp={},
    )
    del vectors
    whole = opened(tmp_path)
    next(whole.blocks(512))
    before, most = anonymous(), 0
    for _first, _block in whole.blocks(512):
        most = max(most, anonymous() - before)
    assert most < 8 << 20, resource.getrusage(resource.RUSAGE_SELF)


@pytest.mark.parametrize("name", ["00001", "00005", "00999"])
def test_a_shard_whose_images_could_not_be_read_holds_no_rows(index, name):
    """First, in the middle and last: rows and blocks are those of the others."""
    root, vectors = index
    source, planned = {"folder": str(root), "shards": True}, ["00002", "00010", "00100", name]
    vector_index.write_index(root, descriptor=DESCRIPTOR, source=source, planned=planned)
    shard_files.write_shard(
        root,
        name,
        np.empty((0, 0)),
        [],
        descriptor=DESCRIPTOR,
        change_stamp={},
        bad=[("x", "broken")],
    )
    whole = opened(root)
    assert (len(whole), whole.dimensions, len(whole.shards)) == (16, 8, 4)
    assert np.array_equal(whole.take(range(16)), vectors)
    keys = ["00002.tar/000.jpg", "00010.tar/000.jpg", "00100.tar/003.jpg"]
    assert [r["key"] for r in whole.table([0, 7, 15])] == keys
    assert np.array_equal(np.concatenate([b.numpy().copy() for _, b in whole.blocks(5)]), vectors)
    assert whole.vectors(next(s for s in whole.shards if s.name == name)).shape == (0, 8)
    assert whole.find(["00100.tar/003.jpg"]) == {"00100.tar/003.jpg": 15}
    assert ("x", "broken") in whole.bad
    for other in ("00002", "00010", "00100"):
        shard_files.paths_of(root, other)[0].unlink()
    with pytest.raises(UsageError, match="none of the 1 finished shards holds an image"):
        opened(root)
