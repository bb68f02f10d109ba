"""An evaluation against an index: the numbers of the folder that the index was made of, and what an
index cannot tell."""

import csv
import io
import json
import tarfile
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from tests import servers
from tests.indices import image_index, index_of
from utils.cli import flags
from utils.cli.retrieval_options import RetrievalOptions
from utils.data import image_sets, tar_shards
from utils.files import downloads
from utils.index import index_evaluation, search, shard_files, vector_index
from utils.runtime import parallel

# one candidate: aligning ten takes most of the time of such a test, and other tests are about it
FLAGS = ("--pt_style", "pixel", "--num_candidates", 1, "--report_to", "none", "--num_workers", 0)


@pytest.fixture
def generated(tmp_path, scenes_dir):
    """Three "generations": two scenes with noise, one unrelated; their manifest names sources, as a
    generation does."""
    train = sorted((scenes_dir / "train").rglob("*.png"))
    folder = tmp_path / "generated"
    (folder / "generations").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in (0, 1):
        pixels = np.asarray(Image.open(train[i])).astype(int) + rng.integers(-12, 13, (32, 32, 3))
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(
            folder / f"generations/{i}.png"
        )
    Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(
        folder / "generations/2.png"
    )
    keys = [p.relative_to(scenes_dir / "train").as_posix() for p in train]
    rows = [
        {
            "file": f"generations/{i}.png",
            "index": i,
            "seed": i,
            "prompt": f"p{i}",
            "source_prompt": f"p{i}",
            "source_image": k,
        }
        for i, k in enumerate((keys[0], keys[5], keys[7]))
    ]
    (folder / "manifest.json").write_text(
        json.dumps(
            {"kind": "generation", "version": 1, "run": None, "settings": {}, "images": rows}
        )
    )
    return folder


@pytest.fixture
def index(tmp_path, scenes_dir):
    """An index of the scenes in three shards."""
    images = image_sets.list_images("--val_dir", scenes_dir / "train")
    texts = {key: [f"caption of {key}"] for key in images.keys}
    return image_index(tmp_path / "index", images, texts, names=("00000", "00001", "00002"))


@pytest.fixture
def measure(script, tmp_path):
    """measure(queries, --val_dir, *flags) -> (folder, metrics.json); what was printed stands in
    measure.printed."""

    def run(folder, val, *flags):
        out = tmp_path / f"evaluation-{len(list(tmp_path.glob('evaluation-*')))}"
        run.printed = script(
            "diff_retrieval",
            "--query_dir",
            folder,
            "--val_dir",
            val,
            "--output_dir",
            out,
            *FLAGS,
            *flags,
        )
        return out, json.loads((out / "metrics.json").read_text())

    return run


def matches(folder):
    with open(folder / "matches.csv", newline="") as handle:
        return list(csv.DictReader(handle))


def test_an_index_gives_the_numbers_of_its_folder(measure, generated, index, scenes_dir):
    names = ("--metrics", "similarity,complexity")
    of_folder, numbers = measure(generated, scenes_dir / "train", *names)
    of_index, found = measure(generated, index.root, *names)
    for key, value in numbers.items():
        if isinstance(value, float):
            # vectors are stored in half precision
            assert found[key] == pytest.approx(value, abs=2e-3), key
    expected, rows = matches(of_folder), matches(of_index)
    assert [(r["query"], r["rank"], r["match"], r["source_image"]) for r in rows] == [
        (r["query"], r["rank"], r["match"], r["source_image"]) for r in expected
    ]
    assert [float(r["source_score"]) for r in rows] == pytest.approx(
        [float(r["source_score"]) for r in expected], abs=1e-3
    )
    assert [r["entropy"] for r in rows] == [r["entropy"] for r in expected]
    assert found["source_matched"] == numbers["source_matched"] == 1 / 3
    assert found["counts"]["training"] == 12
    assert found["settings"]["index_shards"] == [3, 3]
    assert found["settings"]["search"] == "exact"


def test_the_table_names_what_the_index_knows_of_a_match(measure, generated, index):
    folder, _ = measure(generated, index.root)
    table = pq.read_table(folder / "matches.parquet").to_pylist()
    expected = matches(folder)
    assert [(r["query"], r["rank"], r["match"]) for r in table] == [
        (r["query"], int(r["rank"]) if r["rank"] else None, r["match"]) for r in expected
    ]
    scores = [float(r["score"]) if r["score"] else None for r in expected]
    assert [r["score"] for r in table] == scores
    assert {r["match_caption"] for r in table} == {f"caption of {r['match']}" for r in table}
    assert {(r["match_width"], r["match_height"], r["match_url"]) for r in table} == {
        (32, 32, None)
    }
    page = (folder / "report.html").read_text()
    assert f"caption of {table[0]['match']}" in page
    assert {"index", "index_rows"}.isdisjoint(json.loads((folder / "metrics.json").read_text()))


def test_what_takes_all_training_images_is_left_out_or_refused_by_name(
    measure, generated, index, refused
):
    _, found = measure(generated, index.root)
    assert set(found["left_out"]) >= {"background", "fid", "fd", "kid", "prdc", "mq"}
    assert "an index holds one descriptor an image" in found["left_out"]["fid"]
    assert not [k for k in found if k.startswith(("bg_", "fd_", "mq_", "kid", "precision"))]
    line = refused(
        "diff_retrieval",
        "--query_dir",
        generated,
        "--val_dir",
        index.root,
        "--metrics",
        "similarity,kid",
        *FLAGS,
    )
    assert "--metrics='kid' cannot be computed: an index holds one descriptor an image" in line


def write_tars(folder, scenes_dir):
    """The scenes in two tar shards, with captions."""
    folder.mkdir()
    train = sorted((scenes_dir / "train").rglob("*.png"))
    for shard, part in (("00000.tar", train[:7]), ("00001.tar", train[7:])):
        with tarfile.open(folder / shard, "w") as archive:
            for i, path in enumerate(part):
                for name, content in (
                    (f"{i:04d}.png", path.read_bytes()),
                    (f"{i:04d}.txt", f"scene {i}".encode()),
                ):
                    info = tarfile.TarInfo(name)
                    info.size = len(content)
                    archive.addfile(info, io.BytesIO(content))
    return tar_shards.list_shards("--val_dir", str(folder))


def test_pictures_of_matches_are_read_from_their_shards(measure, generated, scenes_dir, tmp_path):
    images, texts = write_tars(tmp_path / "tars", scenes_dir)
    index = image_index(tmp_path / "index", images, texts)
    folder, found = measure(generated, index.root)
    best = [r for r in matches(folder) if r["rank"] == "1"]
    assert [r["match"] for r in best[:2]] == ["00000.tar/0000.png", "00000.tar/0001.png"]
    expected, _ = measure(generated, scenes_dir / "train", "--metrics", "similarity,complexity")
    pages = [
        np.asarray(Image.open(f / "gallery" / "page_01.png"))[:, 170:280]
        for f in (folder, expected)
    ]
    assert pages[0].std() > 40  # the first match of each row is drawn, not grey paper
    assert "cc_ent" in found
    (tmp_path / "tars").rename(tmp_path / "gone")
    _, without = measure(generated, index.root)
    assert "complexity" in without["left_out"]
    assert without["sim_mean"] == found["sim_mean"]


def test_pictures_of_matches_are_read_from_behind_an_address(
    measure, generated, scenes_dir, tmp_path, monkeypatch
):
    images, texts = write_tars(tmp_path / "tars", scenes_dir)
    here, _ = measure(generated, image_index(tmp_path / "here", images, texts).root)
    with servers.serving(tmp_path / "tars", monkeypatch) as server:
        index = image_index(tmp_path / "index", images, texts, folder=server.address)
        folder, found = measure(generated, index.root)
        assert matches(folder) == matches(here)
        page = "gallery/page_01.png"
        assert (folder / page).read_bytes() == (here / page).read_bytes()
        assert "cc_ent" in found
        assert server.asked
        assert all(span for _path, span in server.asked)  # no shard comes whole
    monkeypatch.setattr(downloads, "WAITS", ())
    _, without = measure(generated, index.root)  # the server is gone
    assert "complexity" in without["left_out"]
    assert without["sim_mean"] == found["sim_mean"]


def test_shards_themselves_are_measured_too(measure, generated, scenes_dir, tmp_path):
    write_tars(tmp_path / "tars", scenes_dir)
    folder, found = measure(
        generated,
        tmp_path / "tars",
        "--metrics",
        "similarity,background,fd",
        "--mixed_precision",
        "no",
    )
    _, of_folder = measure(generated, scenes_dir / "train", "--metrics", "similarity,background,fd")
    for key in ("sim_mean", "bg_mean", "fd_tf_efficientnet_lite0"):
        assert found[key] == pytest.approx(of_folder[key], rel=1e-4), key
    assert matches(folder)[0]["match"] == "00000.tar/0000.png"


def test_an_approximate_search_gives_what_an_exact_one_does_on_few_images(
    measure, generated, index, monkeypatch
):
    exact, _ = measure(generated, index.root)
    folder, found = measure(generated, index.root, "--ann")
    assert "12 vectors are searched exactly: --ann needs 10000 or more" in measure.printed
    assert matches(folder) == matches(exact)
    assert found["settings"]["search"] == "exact"
    called = []
    monkeypatch.setattr(search, "approximate", lambda index, **_: called.append(1) or Wrong())
    _, found = measure(generated, index.root, "--ann")
    assert called == [1]
    assert found["settings"]["search"] == "approximate"
    assert found["sim_mean"] == pytest.approx(0.25)


class Wrong:
    settings, kept = {"search": "approximate"}, True

    def search(self, query, k):
        return np.full((len(query), 1), 0.25, np.float32), np.zeros((len(query), 1), np.int64)


def test_an_index_that_is_still_built_is_searched_as_far_as_it_is(measure, generated, index):
    shard_files.paths_of(index.root, "00001")[0].unlink()
    _, found = measure(generated, index.root)
    assert "is not complete: 2 of 3 shards (8 images) are searched" in measure.printed
    assert found["counts"]["training"] == 8
    assert found["settings"]["index_shards"] == [2, 3]


def test_duplicated_images_of_a_run_are_known_by_key(
    measure, micro_run, scenes_dir, tmp_path, script
):
    out = tmp_path / "made"
    script(
        "diff_inference",
        "--modelpath",
        micro_run,
        "-nb",
        6,
        "--num_inference_steps",
        2,
        "--savepath",
        out,
        "--report_to",
        "none",
    )
    index = image_index(
        tmp_path / "index",
        image_sets.list_images("--val_dir", scenes_dir / "train"),
        names=("0", "1"),
    )
    folder, found = measure(
        out, index.root, "--run", micro_run, "--metrics", "similarity,duplication"
    )
    _, expected = measure(
        out, scenes_dir / "train", "--run", micro_run, "--metrics", "similarity,duplication"
    )
    assert found["counts"]["duplicated"] == expected["counts"]["duplicated"] == 3
    for key in ("sim_dup", "sim_nodup", "copy_share_dup_n", "copy_share_nodup_n", "source_matched"):
        if key in expected:
            assert found[key] == pytest.approx(expected[key], abs=1e-3), key
    assert [r["duplicated"] for r in matches(folder)]
    shard_files.paths_of(index.root, "1")[0].unlink()
    _, found = measure(out, index.root, "--run", micro_run)
    assert "are not in the index; duplication is skipped" in measure.printed
    assert "duplication" in found["left_out"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ("--pt_style", "sscd"),
            "--pt_style='sscd': the index .* was made with pt_style 'pixel', not 'sscd'",
        ),
        (
            ("--similarity_metric", "splitloss", "--num_loss_chunks", 2),
            "does not go with an index; use dotproduct",
        ),
        (("--sim_save_path", "OUT"), "--sim_save_path=.* does not go with an index"),
        (("--val_captions", "c.json"), "--val_captions='c.json' does not go with an index"),
        (("--einsum_chunks", 30), "--einsum_chunks=30 does not go with an index"),
        (("--metrics", "duplication"), "--metrics='duplication' cannot be computed"),
    ],
)
def test_what_does_not_go_with_an_index(refused, generated, index, tmp_path, flags, message):
    given = [str(tmp_path / "m.npy") if f == "OUT" else f for f in flags]
    line = refused(
        "diff_retrieval", "--query_dir", generated, "--val_dir", index.root, *FLAGS, *given
    )
    import re

    assert re.search(message, line), line


def test_a_preset_that_differs_is_told_before_weights_are_looked_for(refused, generated, index):
    data = json.loads((index.root / "index.json").read_text())
    del data["checksum"]  # as an index of an earlier version has none
    descriptor = {
        "pt_style": "sscd",
        "arch": "resnet50",
        "preset": "dcr-search",
        "weights_sha256": "ab" * 32,
    }
    (index.root / "index.json").write_text(json.dumps(data | {"descriptor": descriptor}))
    rows = index.table(range(12))
    for name, span in (("00000", slice(0, 4)), ("00001", slice(4, 8)), ("00002", slice(8, 12))):
        vectors = np.eye(4, 16, dtype=np.float32)
        shard_files.write_shard(
            index.root, name, vectors, rows[span], descriptor=descriptor, change_stamp={}
        )
    line = refused(
        "diff_retrieval", "--query_dir", generated, "--val_dir", index.root, "--report_to", "none"
    )
    assert "--preset='dcr': the index" in line
    assert (
        "was made with preset 'dcr-search', not 'dcr'; use the same value, or another index" in line
    )


def test_ann_and_dedup_take_an_index(refused, generated, scenes_dir, tmp_path):
    line = refused(
        "diff_retrieval",
        "--query_dir",
        generated,
        "--val_dir",
        scenes_dir / "train",
        "--ann",
        *FLAGS,
    )
    assert "--ann needs an index, and --val_dir=" in line
    of_pixels = ("--pt_style", "pixel", "--report_to", "none")
    line = refused("diff_retrieval", "--val_dir", scenes_dir / "train", "--dedup", *of_pixels)
    assert "--dedup needs an index, and --val_dir=" in line


def test_a_dry_run_counts_and_writes_nothing(script, generated, index):
    before = sorted(p.as_posix() for p in index.root.rglob("*"))
    told = json.loads(
        script(
            "diff_retrieval", "--query_dir", generated, "--val_dir", index.root, *FLAGS, "--dry_run"
        )
    )
    assert (told["generated"], told["training"]) == (3, 12)
    assert sorted(p.as_posix() for p in index.root.rglob("*")) == before
    assert not (generated / "evaluations").exists()
    assert not any("ann." in path for path in told["writes"])


def test_a_dry_run_names_the_lists_that_would_be_made(script, generated, index, monkeypatch):
    asked = ["--query_dir", generated, "--val_dir", index.root, *FLAGS, "--ann"]
    monkeypatch.setattr(search, "LEAST_ANN", 10)
    lists = [str(index.root / name) for name in ("ann.faiss", "ann.json")]
    assert json.loads(script("diff_retrieval", *asked, "--dry_run"))["writes"][-2:] == lists
    monkeypatch.setattr(search, "LEAST_ANN", 13)  # so few are searched exactly
    assert lists[0] not in json.loads(script("diff_retrieval", *asked, "--dry_run"))["writes"]


# Several processes --------------------------------------------------------------------------------


class OfTwo(parallel.Processes):
    """Process `index` of two that are threads."""

    def __init__(self, number, meeting, told):
        super().__init__(parallel.Alone(torch.device("cpu")))
        self.index, self.count, self.main, self.meeting, self.told = (
            number,
            2,
            number == 0,
            meeting,
            told,
        )

    def gather(self, value):
        self.told[self.index] = value
        self.meeting.wait()
        found = list(self.told)
        self.meeting.wait()
        return found

    def share(self, value):
        return self.gather(value)[0]


@pytest.mark.parametrize("kept", [True, False])
def test_two_processes_search_approximately_what_one_does(tmp_path, monkeypatch, kept):
    """Each a part of the queries; where the lists cannot be kept, the one that has them all."""
    monkeypatch.setattr(search, "LEAST_ANN", 1000)
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((3000, 16), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    index, query = index_of(tmp_path / "index", vectors), np.ascontiguousarray(vectors[::600])
    trained, searched, made, real = [], [], search._trained, search.Approximate.search

    def counted(searcher, some, k):
        searched.append(len(some))
        return real(searcher, some, k)

    def read_only(*_):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(search, "_trained", lambda *a, **k: trained.append(1) or made(*a, **k))
    monkeypatch.setattr(search.Approximate, "search", counted)
    if not kept:
        monkeypatch.setattr(search, "_write", read_only)
    meeting, told = threading.Barrier(2, timeout=60), [None, None]
    with ThreadPoolExecutor(2) as pool:
        found = list(
            pool.map(
                lambda number: index_evaluation.IndexSearch(
                    index, True, (), OfTwo(number, meeting, told), lambda line: None
                ).matches(query, 4),
                range(2),
            )
        )
    assert trained == [1]
    assert sorted(searched) == ([2, 3] if kept else [5])
    alone = search.approximate(index, say=lambda line: None)
    scores, rows = alone.search(query, 4)
    for one in found:
        assert np.array_equal(one.rows, rows)
        assert np.array_equal(one.scores, scores)
        assert one.settings == alone.settings
    assert rows[:, 0].tolist() == list(range(0, 3000, 600))


@pytest.mark.parametrize("mode", ["--query_dir", "--dedup"])
def test_other_processes_take_the_index_that_the_main_one_opened(
    mode, generated, index, monkeypatch
):
    """It may grow between two looks, and rows are counted through the shards that are there."""
    import diff_retrieval

    class SharedError(Exception):
        """What the main process holds has come."""

    class Second(parallel.Processes):
        def __init__(self):
            self.index, self.count, self.main, self.device = 1, 2, False, torch.device("cpu")

        def gather(self, value):
            return [value]

        def share(self, value):
            raise SharedError

    def opened(*_, **__):
        raise AssertionError("opened by a process that is not the main one")

    monkeypatch.setattr(vector_index, "open_index", opened)
    flags_given = ["--val_dir", str(index.root), "--pt_style", "pixel"]
    flags_given += ["--query_dir", str(generated)] if mode == "--query_dir" else ["--dedup"]
    opts = flags.parse(RetrievalOptions, flags_given, description="")
    with pytest.raises(SharedError):
        diff_retrieval.measure(opts, Second())


def test_held_out_images_of_a_run_are_no_matches_in_an_index(
    measure, generated, index, micro_run, scenes_dir, tmp_path
):
    run, texts = tmp_path / "run", json.loads((micro_run / "captions.json").read_text())
    record = json.loads((micro_run / "run.json").read_text())
    keys = sorted(texts)
    held = [keys[0], keys[7], keys[9]]  # two training images of prompts among them
    record |= {"holdout": held, "duplicated": []}
    run.mkdir()
    (run / "run.json").write_text(json.dumps(record))
    (run / "captions.json").write_text(
        json.dumps({k: v for k, v in texts.items() if k not in held})
    )
    flags = ("--run", run, "--metrics", "similarity", "--num_matches", 20)
    of_index, found = measure(generated, index.root, *flags)
    line = "3 of 12 images in --val_dir were held out; they are innocents, not training images"
    assert line in measure.printed
    of_folder, expected = measure(generated, scenes_dir / "train", *flags)
    assert line in measure.printed
    rows = matches(of_index)
    assert [(r["query"], r["rank"], r["match"], r["source_image"]) for r in rows] == [
        (r["query"], r["rank"], r["match"], r["source_image"]) for r in matches(of_folder)
    ]
    assert {r["match"] for r in rows} == set(keys) - set(held)
    assert found["sim_mean"] == pytest.approx(expected["sim_mean"], abs=2e-3)


def test_the_matches_without_some_rows_are_the_next_best():
    result = index_evaluation.SearchResult(
        np.array([[0.9, 0.8, 0.7, 0.6], [0.5, 0.4, 0.3, 0.2]], np.float32),
        np.array([[4, 2, 1, 0], [0, 1, 3, 2]]),
        {},
    )
    left = index_evaluation.without_rows(result, (2, 0), 2)
    assert left.rows.tolist() == [[4, 1], [1, 3]]
    assert left.scores.tolist() == np.float32([[0.9, 0.7], [0.4, 0.3]]).tolist()
    assert index_evaluation.without_rows(result, (), 2) is result
