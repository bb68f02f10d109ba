"""An index is built shard by shard: what it holds, what a second launch rebuilds, and what is
refused."""

import csv
import io
import json
import os
import shutil
import tarfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from tests import servers, tars
from tests.conftest import SEED_FLAGS
from tests.index.index_builds import NAMES, contents, left_over, opened, record, stamps
from utils.data import tar_shards, transforms
from utils.files import downloads
from utils.files.locks import Claims
from utils.index import search, shard_building, shard_files
from utils.retrieval import measurement
from utils.retrieval.descriptors.network import Extractor
from utils.runtime import parallel
from utils.runtime.errors import DataError, UnreadError, UsageError


def naive(picture):
    """The `pixel` descriptor of an image file, L2-normalised. Returns: [768] float64."""
    with Image.open(io.BytesIO(picture)) as image:
        values = transforms.pixel_input(image.convert("RGB")).numpy().astype(np.float64).ravel()
    return (values - values.mean()) / np.linalg.norm(values - values.mean())


# What it holds ------------------------------------------------------------------------------------


def test_an_index_holds_what_a_loop_over_the_members_finds(shards, build, tmp_path):
    lines = build(shards / "{00000..00003}.tar")
    expected, vectors = [], []
    for name in NAMES:
        with tarfile.open(shards / f"{name}.tar") as archive:
            for member in archive.getmembers():
                if member.name.endswith(".jpg"):
                    picture, number = archive.extractfile(member).read(), member.name[:3]
                    fields = json.loads(archive.extractfile(f"{number}.json").read())
                    with Image.open(io.BytesIO(picture)) as image:
                        width, height = image.size
                    expected.append(
                        {
                            "key": f"{name}.tar/{member.name}",
                            "caption": fields.get("caption"),
                            "url": fields.get("url"),
                            "width": width,
                            "height": height,
                            "bytes": len(picture),
                            "offset": member.offset_data,
                        }
                    )
                    vectors.append(naive(picture))
    index = opened(tmp_path / "index")
    assert index.complete
    assert index.table(range(14)) == expected
    # half of the last digit of float16 below 1
    assert np.abs(index.take(range(14)) - np.stack(vectors)).max() < 5e-4
    assert index.descriptor == {"pt_style": "pixel", "cells": 16}
    assert index.image_root == shards
    data, short = record(tmp_path / "index"), sorted(min(r["width"], r["height"]) for r in expected)
    assert data["counts"] == {
        "images": 14,
        "unreadable": 0,
        "with_caption": 10,
        "with_url": 10,
        "bytes": sum(r["bytes"] for r in expected),
        "short_side": [short[0], short[6], short[-1]],
        "shards": 4,
        "damaged_shards": [],
        "flat": 0,
    }
    launch = data["launch"]
    assert (launch["shards"], launch["images"], launch["processes"], launch["device"]) == (
        4,
        14,
        1,
        "cpu",
    )
    assert launch["images_per_second"] == pytest.approx(14 / launch["seconds"], rel=0.05)
    assert launch["environment"]["versions"]["torch"] == torch.__version__.split("+")[0]
    assert lines[0].startswith("14 images of 4 shards in ")
    assert lines[1].startswith(
        "4 shards: 14 images, 0 of 14 unreadable, 10 with a caption, 10 with a URL"
    )
    assert lines[2:] == [f"index: {tmp_path / 'index'}"]
    assert left_over(tmp_path / "index") == []


@pytest.mark.parametrize("source", ["", "0*.tar", "{00000..00003}.tar"])
def test_neither_batches_nor_workers_nor_the_way_shards_are_named_change_a_byte(
    shards, build, tmp_path, source
):
    build(shards)
    build(
        shards / source,
        "--batch_size",
        "3",
        "--num_workers",
        "2" if source else "0",
        root=tmp_path / "other",
    )
    assert contents(tmp_path / "other") == contents(tmp_path / "index")


def test_unreadable_images_are_skipped_and_counted(shards, build, tmp_path):
    tars.write(
        shards / "00001.tar",
        {
            "000.png": tars.noise(1),
            "001.png": b"no image",
            "../002.png": tars.noise(2),
            "/003.png": tars.noise(3),
            "a/../../004.jpg": tars.noise(4),
            "..\\005.png": tars.noise(5),
            "006.png": tars.noise(6),
        },
    )
    cut = (shards / "00003.tar").read_bytes()
    with tarfile.open(shards / "00003.tar") as archive:
        third = archive.getmember("003.jpg")
    (shards / "00003.tar").write_bytes(cut[: third.offset_data + 20])
    tars.write(shards / "00002.tar", {"000.jpg": b"", "001.txt": b"no image beside"})
    lines = build(shards, "--max_bad_images", "0.6")
    index = opened(tmp_path / "index")
    assert [s.rows for s in index.shards] == [3, 2, 0, 3]
    assert [k.split("/", 1) for k, _ in index.bad] == [
        ["00001.tar", "../002.png"],
        ["00001.tar", "/003.png"],
        ["00001.tar", "a/../../004.jpg"],
        ["00001.tar", "..\\005.png"],
        ["00001.tar", "001.png"],
        ["00002.tar", "000.jpg"],
    ]
    assert index.damaged == [("00003.tar", "unexpected end of data")]
    assert record(tmp_path / "index")["counts"]["damaged_shards"] == ["00003"]
    kept = "the images before the damage are kept"
    assert lines[2] == f"1 of 4 tar files are damaged: '00003.tar' (unexpected end of data); {kept}"
    assert [r["key"] for r in index.table([3, 4, 5])] == [
        "00001.tar/000.png",
        "00001.tar/006.png",
        "00003.tar/000.jpg",
    ]
    assert "4 shards: 8 images, 6 of 14 unreadable" in lines[1]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["index", "shards"]  # nothing was unpacked


def test_too_many_unreadable_images_are_an_error_and_the_index_is_complete(shards, build, tmp_path):
    tars.write(
        shards / "00001.tar", {"000.png": tars.noise(1)} | {f"{i}.png": b"x" for i in range(3)}
    )
    message = (
        r"--val_dir='.*' has 3 of 14 images that cannot be read, first '00001.tar/0.png'"
        r" .*--max_bad_images=0.01 accept"
    )
    for _ in range(2):  # the second build has nothing to do, and ends with the same error
        with pytest.raises(UsageError, match=message):
            build(shards)
        assert opened(tmp_path / "index").complete
        assert len(opened(tmp_path / "index")) == 11
        assert record(tmp_path / "index")["counts"]["unreadable"] == 3
    assert build(shards, "--max_bad_images", "0.5")[0].startswith(
        "4 shards: 11 images, 3 of 14 unreadable"
    )


def test_a_damaged_tar_file_is_an_error_and_the_index_is_complete(shards, build, tmp_path):
    """It may have held any number of images: it does not count as one unreadable image."""
    os.truncate(shards / "00001.tar", 2000)
    message = (
        r"--val_dir='.*': 1 of 4 tar files are damaged: '00001.tar' \(.*\); .*"
        r" --max_bad_images=0.01 accepts 0"
    )
    for _ in range(2):
        with pytest.raises(UsageError, match=message):
            build(shards)
        assert opened(tmp_path / "index").complete
        assert record(tmp_path / "index")["counts"]["damaged_shards"] == ["00001"]
    assert build(shards, "--max_bad_images", "0.25")[1].startswith(
        "1 of 4 tar files are damaged: '00001.tar'"
    )


def test_a_folder_without_a_readable_image_is_an_error(tmp_path, build):
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / "0.png").write_text("no image")
    with pytest.raises(UsageError, match="has 1 of 1 images that cannot be read, first '0.png'"):
        build(tmp_path / "f")


# Going on -----------------------------------------------------------------------------------------


def test_a_second_launch_builds_only_missing_shards(shards, build, tmp_path):
    root = tmp_path / "index"
    build(shards)
    before, was = stamps(root), contents(root)
    # as of a build that was killed between its two files
    shard_files.paths_of(root, "00002")[0].unlink()
    lines = build(shards)
    assert {n for n, stamp in stamps(root).items() if stamp != before[n]} == {"00002"}
    assert contents(root) == was
    assert lines[0].startswith("2 images of 1 shards in ")
    written = (root / "index.json").stat().st_mtime_ns
    assert build(shards)[0].startswith("4 shards: 14 images")  # nothing to do, nothing written
    assert (root / "index.json").stat().st_mtime_ns == written


def test_more_shards_of_the_same_folder_extend_the_plan(shards, build, tmp_path):
    root = tmp_path / "index"
    build(shards / "{00000..00001}.tar")
    assert record(root)["shards"] == NAMES[:2]
    before = stamps(root, NAMES[:2])
    shard_files.paths_of(root, "00000")[0].unlink()
    lines = build(shards / "{00002..00003}.tar")
    assert record(root)["shards"] == NAMES
    assert "counts" not in record(root)
    assert lines[1:] == [
        (
            "1 of 4 planned shards are not finished: 0 being built by another process, 1 missing, first '00000';"
            " the last launch to finish writes the counts"
        ),
        f"index: {root}",
    ]
    assert (len(opened(root)), opened(root).complete) == (11, False)
    build(shards)
    assert record(root)["counts"]["images"] == 14
    assert stamps(root, ["00001"])["00001"] == before["00001"]


def test_a_shard_in_other_hands_is_left_to_them(shards, build, tmp_path):
    root = tmp_path / "index"
    build(shards / "00000.tar")
    (root / "shards" / ".00001.npy.77.part").write_text("they write it")
    with Claims(root / ".claims").take("00001") as mine:
        assert mine
        lines = build(shards)
        assert shard_files.finished(root) == ["00000", "00002", "00003"]
        assert left_over(root) == [".00001.npy.77.part"]
    assert lines[0].startswith("7 images of 2 shards")
    assert lines[1].startswith(
        "1 of 4 planned shards are not finished: 1 being built by another process, 0 missing, first '00001'"
    )
    assert "counts" not in record(root)
    build(shards)  # they died
    assert opened(root).complete
    assert record(root)["counts"]["shards"] == 4
    assert left_over(root) == []


def test_a_shard_that_another_launch_finishes_meanwhile_is_not_built_again(
    shards, build, tmp_path, monkeypatch
):
    root, real, made = tmp_path / "index", shard_building.make_shard, []
    build(shards, root=tmp_path / "theirs")

    def make(build, name, bar):
        made.append(name)
        if name == "00000":  # of the two that are still to be made, another launch makes one
            shutil.copytree(
                tmp_path / "theirs" / "shards",
                root / "shards",
                ignore=lambda _, names: [n for n in names if "00002" not in n],
            )
        return real(build, name, bar)

    monkeypatch.setattr(shard_building, "make_shard", make)
    build(shards)
    assert made == ["00000", "00001", "00003"]
    assert contents(root) == contents(tmp_path / "theirs")


def test_partial_files_of_the_approximate_search_stay_while_another_process_trains_it(
    shards, build, tmp_path
):
    root = tmp_path / "index"
    build(shards / "00000.tar")
    parts = [root / f".ann.{kind}.77.part" for kind in ("faiss", "json")]
    for part in parts:
        part.write_text("half")
    with Claims(root / ".claims").take(search.CLAIM) as mine:
        assert mine
        build(shards)
        assert all(part.exists() for part in parts)
    os.utime(shards / "00000.tar", ns=(5, 5))
    build(shards)
    assert left_over(root) == []


def test_half_written_files_of_dead_processes_are_removed(shards, build, tmp_path):
    root = tmp_path / "index"
    (root / "shards").mkdir(parents=True)
    (root / ".index.json.9.part").write_text("{")
    build(shards / "00000.tar", root=tmp_path / "other")
    shutil.copytree(tmp_path / "other", root, dirs_exist_ok=True)
    for name in (".00001.npy.1.part", ".00001.parquet.1.part", ".00000.npy.22.part"):
        (root / "shards" / name).write_text("half")
    build(shards)
    assert left_over(root) == []
    assert opened(root).complete


def test_without_locks_every_process_builds_a_fixed_share(shards, build, tmp_path, monkeypatch):
    monkeypatch.setattr(Claims, "work", lambda self: False)
    root = tmp_path / "index"
    lines = build(shards)
    assert lines[0].startswith(
        f"{root}: this file system has no locks; each process builds a fixed share"
    )
    assert opened(root).complete
    os.utime(shards / "00003.tar", ns=(5, 5))
    assert "shard 00003 is rebuilt: its images have changed since" in build(shards)


@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_disk_error_ends_the_build_and_no_image_counts_as_bad(
    shards, build, tmp_path, monkeypatch, workers
):
    root, real, away = tmp_path / "index", tar_shards.read_shard, tmp_path / "away.tar"
    build(shards, root=tmp_path / "here")

    def gone_afterwards(path, **how):
        content = real(path, **how)
        if path.name == "00001.tar":
            path.rename(away)
        return content

    with monkeypatch.context() as patch:
        patch.setattr(tar_shards, "read_shard", gone_afterwards)
        with pytest.raises(UnreadError, match=r"/00001\.tar/000\.jpg: No such file or directory$"):
            build(shards, "--num_workers", workers, "--max_bad_images", "1")
    assert shard_files.finished(root) == ["00000"]
    away.rename(shards / "00001.tar")
    build(shards)
    assert contents(root) == contents(tmp_path / "here")


# Addresses ----------------------------------------------------------------------------------------


@pytest.fixture
def server(shards, monkeypatch):
    monkeypatch.setattr(downloads, "WAITS", ())
    with servers.serving(shards, monkeypatch) as running:
        yield running


def test_an_index_of_addresses_equals_that_of_the_files(shards, server, build, tmp_path):
    source = f"{server.address}/{{00000..00003}}.tar"
    build(shards, root=tmp_path / "here")
    lines = build(source)
    assert contents(tmp_path / "index") == contents(tmp_path / "here")
    assert record(tmp_path / "index")["counts"] == record(tmp_path / "here")["counts"]
    assert record(tmp_path / "index")["source"] == {
        "folder": server.address,
        "relative": server.address,
        "shards": True,
    }
    assert lines[0].startswith("14 images of 4 shards")
    assert left_over(tmp_path / "index") == []
    whole = [path for path, span in server.asked if span is None]
    assert sorted(whole) == [f"/{n}.tar" for n in NAMES]  # each comes once
    before = stamps(tmp_path / "index")
    os.utime(shards / "00002.tar", ns=(5, 5))
    assert build(source)[0] == "shard 00002 is rebuilt: its images have changed since"
    assert {n for n, stamp in stamps(tmp_path / "index").items() if stamp != before[n]} == {"00002"}
    assert [p for p, span in server.asked if span is None][4:] == ["/00002.tar"]


def test_a_broken_transfer_ends_with_a_line_and_the_next_build_continues(
    shards, server, build, tmp_path
):
    root, source = tmp_path / "index", f"{server.address}/{{00000..00003}}.tar"
    server.faults["/00002.tar"] = [servers.status(503)]
    with pytest.raises(
        UsageError,
        match=r"1 of 4 addresses cannot be read, first https://.*/00002.tar: answered 503",
    ):
        build(source)  # before anything is made
    assert not root.exists()
    answered = []

    def once(handler):
        answered.append(handler.headers.get("Range"))
        handler.send_response(206)
        handler.send_header("Content-Range", f"bytes 0-0/{(shards / '00002.tar').stat().st_size}")
        handler.send_header("Content-Length", "1")
        handler.end_headers()
        handler.wfile.write(b"0")

    server.faults["/00002.tar"] = [once, servers.cut(700)]
    with pytest.raises(
        DataError, match=r"^https://.*/00002.tar: cannot be read \(.*IncompleteRead"
    ):
        build(source)
    assert answered == ["bytes=0-0"]
    assert shard_files.finished(root) == NAMES[:2]
    assert left_over(root) == []
    (root / "shards" / ".00002.tar.77.part").write_text("of a killed build")
    assert build(source)[0].startswith("7 images of 2 shards")
    assert opened(root).complete
    assert left_over(root) == []


# Folders ------------------------------------------------------------------------------------------


def test_a_folder_is_indexed_in_shards_of_many_images(folder, build, tmp_path):
    build(folder)
    index = opened(tmp_path / "index")
    assert [(s.name, s.rows) for s in index.shards] == [("00000", 3), ("00001", 2), ("00002", 2)]
    keys = ["5.png", "6.png", "7.png", "8.png", "10.png", "deep/11.png", "deep/12.png"]
    assert [r["key"] for r in index.table(range(7))] == keys
    assert (index.table([0])[0]["offset"], index.table([0])[0]["width"]) == (None, 20)
    assert index.bad == [("9.png", "is not an image")]
    assert index.source["shards"] is False
    vectors = np.stack([naive((folder / key).read_bytes()) for key in keys])
    assert np.abs(index.take(range(7)) - vectors).max() < 5e-4


def test_a_folders_image_overwritten_by_one_of_its_size_is_read_again(folder, build, tmp_path):
    build(folder)
    before = (folder / "5.png").stat()
    picture = bytearray((folder / "5.png").read_bytes())
    (folder / "5.png").write_bytes(picture)
    os.utime(folder / "5.png", ns=(before.st_mtime_ns + 1, before.st_mtime_ns + 1))
    assert build(folder)[0] == "shard 00000 is rebuilt: its images have changed since"


def test_a_folder_that_grows_and_shrinks(folder, build, tmp_path):
    root, names = tmp_path / "index", ["00000", "00001", "00002"]
    build(folder)
    before = stamps(root, names)
    for i in range(13, 16):
        (folder / "deep" / f"{i}.png").write_bytes(tars.noise(i))
    lines = build(folder)
    assert "shard 00002 is rebuilt: its images have changed since" in lines
    assert [s.rows for s in opened(root).shards] == [3, 2, 3, 2]
    assert stamps(root, names[:2]) == {n: before[n] for n in names[:2]}
    shutil.rmtree(folder / "deep")
    lines = build(folder)
    assert lines[:2] == [
        f"shard 0000{i} is removed: the folder holds fewer images now" for i in (2, 3)
    ]
    assert record(root)["shards"] == names[:2]
    assert opened(root).complete
    assert len(opened(root)) == 5
    assert sorted(p.name for p in (root / "shards").iterdir()) == [
        f"{n}.{kind}" for n in names[:2] for kind in ("npy", "parquet")
    ]


# Damage -------------------------------------------------------------------------------------------


def test_finished_shards_without_a_tar_file_are_reported_and_stay(shards, build, tmp_path):
    build(shards)
    (shards / "00000.tar").unlink()
    (shards / "00002.tar").unlink()
    line = (
        "2 shards of the index are not named by --val_dir, and their tar files no longer exist,"
        " first '00000'"
    )
    assert build(shards)[0].startswith(line)
    assert len(opened(tmp_path / "index")) == 14  # what was computed stays
    assert not build(shards / "00001.tar")[0].startswith("3 shards")  # not named, but there


def test_a_damaged_shard_without_a_tar_file_is_no_error_in_later_builds(shards, build, tmp_path):
    (shards / "00003.tar").write_bytes((shards / "00003.tar").read_bytes()[:-9000])
    with pytest.raises(UsageError, match="1 of 4 tar files are damaged: '00003.tar'"):
        build(shards)
    (shards / "00003.tar").unlink()
    lines = build(shards)
    assert "their vectors stay in the index" in lines[0]
    # still reported, but no error
    assert any(line.startswith("1 of 4 tar files are damaged") for line in lines)
    for path in shard_files.paths_of(tmp_path / "index", "00003")[:1]:
        path.unlink()  # who wants it out of the index removes its vectors
    assert "removed from the plan" in build(shards)[0]
    assert record(tmp_path / "index")["counts"]["damaged_shards"] == []
    assert not shard_files.paths_of(tmp_path / "index", "00003")[1].exists()


def test_a_shard_that_was_never_built_and_lost_its_tar_file_leaves_the_plan(
    shards, server, build, tmp_path
):
    """Otherwise the index would never be complete."""
    for source, address in ((shards, shards), (tmp_path / "b", server.address)):
        if source != shards:
            shards.rename(source)
            server.root = source
        root = tmp_path / f"of {source.name}"
        build(f"{address}/{{00000..00003}}.tar", root=root)
        for name in ("00001", "00003"):
            shard_files.paths_of(root, name)[0].unlink()  # as of a killed build
        whole = (source / "00001.tar").read_bytes()
        (source / "00001.tar").unlink()
        lines = build(f"{address}/00000.tar", root=root)
        line = (
            "1 shards of the index are not named by --val_dir, and their tar files no longer exist,"
            " first '00001': they were never built and are removed from the plan"
        )
        assert lines[0] == line
        assert record(root)["shards"] == ["00000", "00002", "00003"]
        # 00003 is there and may be named another time
        assert "1 of 3 planned shards are not finished" in lines[1]
        lines = build(f"{address}/{{00002..00003}}.tar", root=root)
        assert record(root)["counts"]["shards"] == 3
        assert opened(root).complete
        (source / "00001.tar").write_bytes(whole)


# What is refused ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("9*.tar", "matches no file; use tar files"),
        ("{00000..00004}.tar", r"00004.tar' does not exist; use tar files"),
        (
            "http://example.org/{0..9}.tar",
            "is not an address that can be read; use 'https://HOST/FOLDER/",
        ),
        ("nowhere", "does not exist"),
    ],
)
def test_a_source_that_names_nothing_is_refused_before_anything_is_written(
    shards, build, tmp_path, source, message
):
    with pytest.raises(UsageError, match=f"--val_dir='.*{message}"):
        build(source if ":" in source else shards / source)
    assert not (tmp_path / "index").exists()


def test_features_that_are_not_finite_end_the_build_with_a_line(
    shards, build, tmp_path, monkeypatch
):
    def overflowing(opts, **where):
        return Extractor(
            lambda image: torch.tensor([float(image.width)]), lambda x: x / (x - 25), {}
        )

    monkeypatch.setattr(measurement, "build_descriptor", overflowing)
    with pytest.raises(
        DataError, match=r"not finite for 1 images, first '00000.tar/001.jpg'; half precision may"
    ):
        build(shards)
    assert shard_files.finished(tmp_path / "index") == []
    assert left_over(tmp_path / "index") == []


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("error", [OSError(5, "Input/output error", "d/x"), RuntimeError("a bug")])
def test_an_error_in_a_shard_ends_the_others_too(tmp_path, count, error):
    """All processes raise a disk error; any other error is raised as it is."""
    gathered = []

    class Processes(parallel.Processes):
        def gather(self, value):
            gathered.append(value)
            return [value]

    processes = Processes(
        SimpleNamespace(
            process_index=count - 1, num_processes=count, is_main_process=count == 1, device=None
        )
    )
    (tmp_path / ".claims").mkdir()
    build = shard_building.Build(tmp_path, None, None, None, {}, None, processes, "x")
    expected = DataError if isinstance(error, OSError) else type(error)
    with pytest.raises(expected) as raised, shard_building.end_together(build):
        raise error
    assert build.stop.exists() is (count > 1)  # the others see it; the main process removes it
    if expected is DataError:
        assert str(raised.value) == "d/x: Input/output error" + " (process 2 of 2)" * (count == 2)
        assert gathered == [str(raised.value)]
    else:
        assert raised.value is error
        assert gathered == []


def test_ctrl_c_ends_a_build_with_a_line_and_the_next_build_continues(
    shards, tmp_path, script, monkeypatch, capsys
):
    asked = [
        "--build_index",
        tmp_path / "index",
        "--val_dir",
        shards,
        "--pt_style",
        "pixel",
        *SEED_FLAGS,
    ]
    real, made = shard_building.make_shard, []

    def make(build, name, bar):
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(name)
        return real(build, name, bar)

    with monkeypatch.context() as patch:
        patch.setattr(shard_building, "make_shard", make)
        with pytest.raises(SystemExit) as ended:
            script("diff_retrieval", *asked)
    assert ended.value.code == 130
    assert (
        capsys.readouterr().err.splitlines()[-1]
        == "diff_retrieval.py: stopped; run the same command again to continue"
    )
    assert shard_files.finished(tmp_path / "index") == made
    script("diff_retrieval", *asked)
    assert opened(tmp_path / "index").complete
    assert left_over(tmp_path / "index") == []


def test_a_folder_that_cannot_be_created_is_a_usage_error(shards, build, tmp_path):
    with pytest.raises(
        UsageError, match=r"--build_index='/proc/x' cannot be (created \(No such file|written to)"
    ):
        build(shards, root=Path("/proc/x"))
    # as a lock of another user's, not to be opened
    (tmp_path / "index" / ".claims" / ".probe.lock").mkdir(parents=True)
    with pytest.raises(
        UsageError,
        match=r"--build_index='.*' cannot be created \(Is a directory: '.*/.probe.lock'\)",
    ):
        build(shards)


def test_a_process_ends_after_its_current_shard_when_another_met_an_error(
    shards, build, tmp_path, monkeypatch
):
    root, real = tmp_path / "index", shard_building.make_shard

    def make(build, name, bar):
        build.stop.touch()  # as the other one does
        return real(build, name, bar)

    monkeypatch.setattr(shard_building, "make_shard", make)
    build(shards)
    assert shard_files.finished(root) == ["00000"]
    assert left_over(root) == []


def test_a_dry_run_lists_what_would_be_written_and_writes_nothing(shards, build, tmp_path):
    root = tmp_path / "index"
    plan = json.loads("".join(build(shards, "--dry_run")))
    assert (plan["shards"], plan["finished"], plan["options"]["pt_style"]) == (4, 0, "pixel")
    assert plan["writes"][:3] == [
        str(root / p) for p in ("index.json", "shards/00000.npy", "shards/00000.parquet")
    ]
    assert len(plan["writes"]) == 9
    assert not root.exists()
    build(shards)
    shard_files.paths_of(root, "00001")[1].unlink()
    os.utime(shards / "00002.tar", ns=(5, 5))
    before = {p: p.stat().st_mtime_ns for p in root.rglob("*")}
    plan = json.loads("".join(build(shards, "--dry_run")))
    assert (plan["finished"], plan["writes"][1::2]) == (
        2,
        [str(shard_files.paths_of(root, n)[0]) for n in ("00001", "00002")],
    )
    assert {p: p.stat().st_mtime_ns for p in root.rglob("*")} == before


# Through the script -------------------------------------------------------------------------------


def test_the_script_builds_an_index_and_ends_with_a_line_when_it_cannot(
    shards, tmp_path, script, refused
):
    asked = [
        "--build_index",
        tmp_path / "index",
        "--val_dir",
        shards / "{00000..00003}.tar",
        "--pt_style",
        "pixel",
        *SEED_FLAGS,
    ]
    assert script("diff_retrieval", *asked).splitlines()[-1] == f"index: {tmp_path / 'index'}"
    assert opened(tmp_path / "index").complete
    tars.write(shards / "00002.tar", {"0.png": b"no image", "1.png": b"none"})
    line = refused("diff_retrieval", *asked)
    assert "2 of 14 images that cannot be read, first '00002.tar/0.png' (is not an image)" in line
    assert len(opened(tmp_path / "index")) == 12


def test_tar_shards_are_measured_without_an_index(shards, tmp_path, script):
    """A copy is found in its shard; a member that is skipped is in the record."""
    with tarfile.open(shards / "00002.tar") as archive:
        picture = archive.extractfile("001.jpg").read()
    (tmp_path / "g").mkdir()
    (tmp_path / "g" / "0.jpg").write_bytes(picture)
    tars.write(shards / "00003.tar", {"0.png": tars.noise(77), "../1.png": tars.noise(78)})
    script(
        "diff_retrieval",
        "--query_dir",
        tmp_path / "g",
        "--val_dir",
        shards,
        "--pt_style",
        "pixel",
        "--metrics",
        "similarity",
        "--cache_dir",
        "none",
        "--output_dir",
        tmp_path / "e",
        "--max_bad_images",
        "0.1",
        *SEED_FLAGS,
    )
    with open(tmp_path / "e" / "matches.csv", newline="") as file:
        best = next(csv.DictReader(file))
    assert (best["match"], float(best["score"])) == (
        "00002.tar/001.jpg",
        pytest.approx(1, abs=1e-6),
    )
    metrics = json.loads((tmp_path / "e" / "metrics.json").read_text())
    assert metrics["counts"]["training"] == 10
    assert "00003.tar/../1.png" in json.dumps(metrics["unreadable"])


@pytest.mark.parametrize("kind", ["tars", "folder"])
def test_files_that_are_left_out_are_counted_in_the_index(build, tmp_path, kind):
    source = tmp_path / "source"
    source.mkdir()
    members = {"0.png": tars.noise(0), "0.cls": b"3", "._0.png": b"x", "1.cls": b"4"}
    if kind == "tars":
        for name in ("0.tar", "1.tar"):
            tars.write(source / name, members)
    else:
        for name, content in members.items():
            (source / name).write_bytes(content)
    lines = build(source)
    counted = {".cls": 4, "hidden": 2} if kind == "tars" else {".cls": 2, "hidden": 1}
    assert record(tmp_path / "index")["counts"]["left_out"] == counted
    words = ", ".join(f"{count} {name}" for name, count in counted.items())
    assert any(line.endswith(f"; left out: {words}") for line in lines)
    assert any("4 files, 1 images; left out" in line for line in lines) is (kind == "folder")
