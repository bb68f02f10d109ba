"""Continuing an existing index: which shards are rebuilt, what is recovered, what is refused."""

import json
import os
import re
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests import tars
from tests.index.index_builds import NAMES, contents, opened, record, stamps
from utils.index import shard_files, vector_index
from utils.retrieval import measurement
from utils.retrieval.descriptors.network import Extractor
from utils.runtime.errors import DataError, UsageError


def _replace_tar(shards, root):
    tars.write(shards / "00001.tar", {"000.png": tars.noise(99)})


def _other_descriptor(shards, root):
    shard_files.write_shard(
        root,
        "00001",
        np.zeros((1, 4)),
        [{"key": "00001.tar/x", "bytes": 1}],
        descriptor={"pt_style": "sscd"},
        change_stamp={},
    )


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (_replace_tar, "its images have changed since"),
        (
            lambda shards, root: os.utime(shards / "00001.tar", ns=(5, 5)),
            "its images have changed since",
        ),
        (
            lambda shards, root: shard_files.paths_of(root, "00001")[1].unlink(),
            "its Parquet '00001.parquet' is missing",
        ),
        (
            lambda shards, root: os.truncate(shard_files.paths_of(root, "00001")[0], 2000),
            r"is truncated, 2000 bytes of \d+",
        ),
        (
            lambda shards, root: os.truncate(shard_files.paths_of(root, "00001")[0], 0),
            "is not a .npy of vectors",
        ),
        (
            lambda shards, root: os.truncate(shard_files.paths_of(root, "00001")[1], 99),
            "cannot be read",
        ),
        (_other_descriptor, "was computed with another descriptor .pt_style 'sscd', not 'pixel'"),
    ],
)
def test_a_shard_that_is_damaged_or_of_other_images_is_made_anew(
    shards, build, tmp_path, damage, why
):
    root = tmp_path / "index"
    build(shards)
    before, was = stamps(root), contents(root)
    damage(shards, root)
    lines = build(shards)
    assert len([line for line in lines if "rebuilt" in line]) == 1
    assert re.match(rf"shard 00001 is rebuilt: {why}", lines[0]), lines[0]
    assert {n for n, stamp in stamps(root).items() if stamp != before[n]} == {"00001"}
    if damage is _replace_tar:
        assert [r["key"] for r in opened(root).table([3, 4])] == [
            "00001.tar/000.png",
            "00002.tar/000.jpg",
        ]
    else:
        assert contents(root) == was
    assert opened(root).complete


@pytest.mark.parametrize("kind", ["tars", "folder"])
def test_a_lost_index_json_is_rebuilt_from_the_shards(shards, folder, build, tmp_path, kind):
    root, source = tmp_path / "index", shards if kind == "tars" else folder
    build(source)
    was = record(root)
    names, before = was["shards"], stamps(root, was["shards"])
    (root / "index.json").write_text("{")
    assert vector_index.is_index(root)
    advice = "is not JSON .*; remove it, and --build_index rebuilds it from the shards"
    for call in (lambda: build(source), lambda: opened(root)):
        with pytest.raises(DataError, match=advice):
            call()
    (root / "index.json").unlink()
    shard_files.paths_of(root, names[1])[1].write_bytes(b"damaged too")
    (root / "ann.faiss").write_bytes(b"")  # what else an index may hold
    lines = build(source)
    assert lines[0] == f"index.json is missing: it is rebuilt from {len(names) - 1} shards"
    assert lines[1].startswith(f"shard {names[1]} is rebuilt: cannot be read")
    now = record(root)
    assert now["counts"] == was["counts"]
    assert (now["shards"], now["descriptor"], now["source"]) == (
        names,
        was["descriptor"],
        was["source"],
    )
    assert {n for n, stamp in stamps(root, names).items() if stamp != before[n]} == {names[1]}


def test_a_lost_index_json_is_not_rebuilt_from_shards_of_another_index(shards, build, tmp_path):
    root = tmp_path / "index"
    build(shards)
    (root / "index.json").unlink()
    before = contents(root)
    shutil.copytree(shards, tmp_path / "other")
    for name in NAMES:
        tars.write(tmp_path / "other" / f"{name}.tar", {"0.png": tars.noise(1)})
    with pytest.raises(
        UsageError,
        match=r"--build_index='.*' holds no index.json, and its shards are of other images than --val_dir",
    ):
        build(tmp_path / "other")
    assert contents(root) == before
    _other_descriptor(shards, root)
    with pytest.raises(
        UsageError,
        match=r"holds no index.json, and its shards are of several descriptors; use a new folder",
    ):
        build(shards)
    for name in NAMES:
        shard_files.paths_of(root, name)[1].unlink()
    with pytest.raises(UsageError, match=r"holds 'shards', which no index wrote"):
        build(shards)


def test_a_folder_with_only_partial_shards_is_continued(shards, build, tmp_path):
    root = tmp_path / "index"
    (root / "shards").mkdir(parents=True)
    (root / "shards" / ".00000.npy.77.part").write_text("of a killed build")
    build(shards)
    assert opened(root).complete


def test_an_index_below_a_link_is_still_of_its_images_when_both_are_moved(shards, build, tmp_path):
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "deep" / "er")
    build(shards, root=tmp_path / "link" / "index")
    (tmp_path / "away").mkdir()
    for name in ("shards", "deep"):
        (tmp_path / name).rename(tmp_path / "away" / name)
    there = tmp_path / "away" / "deep" / "er" / "index"
    assert opened(there).images([0]).open(0).size
    assert build(tmp_path / "away" / "shards", root=there)[0].startswith("4 shards: 14 images")


def test_an_index_json_without_a_field_is_a_data_error(shards, build, tmp_path):
    root = tmp_path / "index"
    build(shards)
    whole = record(root)
    for lacks in ("descriptor", "source", "shards"):
        (root / "index.json").write_text(json.dumps({k: v for k, v in whole.items() if k != lacks}))
        with pytest.raises(
            DataError,
            match=rf"index.json: has no valid '{lacks}'; remove it, and --build_index",
        ):
            build(shards)


@pytest.mark.parametrize(
    "facts",
    [
        b"{}",
        b"[]",
        b"7",
        b'{"descriptor": [], "made_of": {}, "bad": [], "fingerprint": ""}',
        b'{"descriptor": {}, "made_of": {}, "bad": [["x"]], "fingerprint": ""}',
    ],
)
def test_a_shard_with_foreign_facts_is_rebuilt(shards, build, tmp_path, facts):
    root = tmp_path / "index"
    build(shards)
    table = pq.read_table(shard_files.paths_of(root, "00001")[1])
    pq.write_table(
        table.replace_schema_metadata({shard_files.FACTS: facts}),
        shard_files.paths_of(root, "00001")[1],
    )
    with pytest.raises(
        DataError,
        match=(
            r"00001.parquet: cannot be read \(its metadata has no valid '\w+'\); run --build_index"
        ),
    ):
        opened(root)
    assert build(shards)[0].startswith("shard 00001 is rebuilt: cannot be read")
    assert opened(root).complete


def test_a_folder_that_is_not_ours_is_left_as_it_is(shards, build, tmp_path):
    for content in ("mine.txt", "shards"):
        foreign = tmp_path / f"foreign-{content}"
        foreign.mkdir()
        (foreign / content).write_text("mine")
        with pytest.raises(
            UsageError, match=rf"--build_index='.*' holds '{content}', which no index wrote"
        ):
            build(shards, root=foreign)
        assert [p.name for p in foreign.iterdir()] == [content]
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="is a file; use a new folder"):
        build(shards, root=tmp_path / "file")
    (tmp_path / "generation").mkdir()
    (tmp_path / "generation" / "index.json").write_text('{"kind": "generation", "version": 1}')
    with pytest.raises(DataError, match="holds 'generation'; a manifest of kind 'index' is needed"):
        build(shards, root=tmp_path / "generation")


def test_an_index_of_other_images_is_refused(shards, build, folder, tmp_path):
    build(shards)
    shutil.copytree(shards, tmp_path / "elsewhere")
    for source in (tmp_path / "elsewhere", folder):
        with pytest.raises(
            UsageError,
            match=r"--val_dir='.*': the index in .* is of the tar shards in '.*shards'; use",
        ):
            build(source)
    # moved together they are the same
    (tmp_path / "away").mkdir()
    for name in ("shards", "index"):
        (tmp_path / name).rename(tmp_path / "away" / name)
    assert build(tmp_path / "away" / "shards", root=tmp_path / "away" / "index")[0].startswith(
        "4 shards: 14 images"
    )


@pytest.mark.parametrize(
    ("theirs", "ours", "message"),
    [
        (
            {"preset": "dcr-search"},
            (),
            "--preset='dcr': the index .* was made with preset 'dcr-search'",
        ),
        (
            {"arch": "resnet50_im"},
            (),
            "--arch='resnet50': the index .* was made with arch 'resnet50_im'",
        ),
        ({"pt_style": "dino"}, (), "--pt_style='sscd': the index .* was made with pt_style 'dino'"),
        (
            {"multiscale": True},
            (),
            "--multiscale=False: the index .* was made with multiscale True",
        ),
        (
            {"layer": 3},
            ("--pt_style", "dino"),
            "--pt_style='dino': the index .* was made with pt_style 'sscd'",
        ),
    ],
)
def test_an_index_of_another_descriptor_is_refused_before_its_network_loads(
    shards, build, tmp_path, theirs, ours, message
):
    descriptor = {
        "pt_style": "sscd",
        "arch": "resnet50",
        "preset": "dcr",
        "multiscale": False,
        "weights_sha256": "a",
    }
    source = {"folder": str(shards), "shards": True}
    vector_index.write_index(
        tmp_path / "index", descriptor=descriptor | theirs, source=source, planned=NAMES
    )
    before = (tmp_path / "index" / "index.json").read_bytes()
    with pytest.raises(UsageError, match=message):
        build(shards, *(ours or ("--pt_style", "sscd")))
    assert (tmp_path / "index" / "index.json").read_bytes() == before


def test_an_index_of_other_weights_is_refused(shards, build, tmp_path, monkeypatch):
    made = measurement.build_descriptor
    weights = iter(("a", "b"))

    def descriptor(opts, **where):
        of_pixels = made(opts, **where)
        return Extractor(
            of_pixels.transform,
            of_pixels.network,
            of_pixels.record | {"weights_sha256": next(weights)},
        )

    monkeypatch.setattr(measurement, "build_descriptor", descriptor)
    build(shards)
    before = stamps(tmp_path / "index")
    with pytest.raises(
        UsageError, match="--weights=None: the index .* was made with weights_sha256 'a', not 'b'"
    ):
        build(shards)
    assert stamps(tmp_path / "index") == before


def test_of_two_launches_with_different_descriptors_one_is_refused(
    shards, build, tmp_path, monkeypatch
):
    """The other began the index while this one loaded its network."""
    made = measurement.build_descriptor

    def slowly(opts, **where):
        source = {"folder": str(shards), "shards": True}
        vector_index.write_index(
            tmp_path / "index",
            descriptor={"pt_style": "pixel", "cells": 8},
            source=source,
            planned=NAMES,
        )
        return made(opts, **where)

    monkeypatch.setattr(measurement, "build_descriptor", slowly)
    with pytest.raises(UsageError, match="--pt_style='pixel': the index .* was made with cells 8"):
        build(shards)
    assert shard_files.finished(tmp_path / "index") == []


def _rewrite(paths, make):
    """Other content under the same names, sizes and times."""
    for n, path in enumerate(paths):
        size, times = path.stat().st_size, path.stat().st_mtime_ns
        make(path, n)
        assert path.stat().st_size == size
        os.utime(path, ns=(times, times))


@pytest.mark.parametrize("kind", ["tars", "folder"])
def test_other_images_of_equal_names_sizes_and_times_are_indexed_anew(build, tmp_path, kind):
    source = tmp_path / "source"
    source.mkdir()

    def make(path, shade):
        picture = tars.noise(shade, form="BMP")
        if kind == "folder":
            path.write_bytes(picture)
        else:
            tars.write(path, {"0.png": picture})

    paths = [source / (f"0000{i}.tar" if kind == "tars" else f"{i}.png") for i in range(3)]
    for i, path in enumerate(paths):
        make(path, i)
    root = tmp_path / "index"
    build(source)
    before = opened(root)
    vectors, stamp = before.take(np.arange(3)), before.change_stamp
    _rewrite(paths, lambda path, n: make(path, n + 10))
    lines = build(source)
    assert [line for line in lines if "rebuilt: its images have changed since" in line]
    after = opened(root)
    assert after.fingerprint == before.fingerprint
    assert after.change_stamp != stamp
    assert after.content_fingerprint != before.content_fingerprint
    assert not np.array_equal(after.take(np.arange(3)), vectors)


@pytest.mark.parametrize("kind", ["tars", "folder"])
def test_an_index_without_stamps_of_content_is_continued(shards, folder, build, tmp_path, kind):
    """As versions before 0.3 wrote it."""
    source, root = shards if kind == "tars" else folder, tmp_path / "index"
    more = ("--max_bad_images", "0.2")
    build(source, *more)
    for name in shard_files.finished(root):
        path = shard_files.paths_of(root, name)[1]
        table = pq.read_table(path)
        facts = json.loads(table.schema.metadata[shard_files.FACTS])
        del facts["made_of"]["content"]
        pq.write_table(table.replace_schema_metadata({shard_files.FACTS: json.dumps(facts)}), path)
    assert opened(root).content_fingerprint is None
    before = stamps(root, shard_files.finished(root))
    assert not [line for line in build(source, *more) if "rebuilt" in line]
    assert stamps(root, shard_files.finished(root)) == before
    index = opened(root)
    assert not index.images(range(len(index))).changed
