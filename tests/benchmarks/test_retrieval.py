"""The retrieval benchmark: its images, its sides at a small size, and its failure when their scores
differ."""

import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from benchmarks import retrieval
from tests.conftest import ROOT

pytest.importorskip("skimage")


def rows_of(printed):
    """{first cell: the others} of the Markdown table in what was printed."""
    cells = [
        [c.strip() for c in line.strip("|").split("|")]
        for line in printed.splitlines()
        if line.startswith("| ")
    ]
    return {first: others for first, *others in cells[1:]}


def test_every_side_is_measured_and_their_scores_agree():
    script = str(ROOT / "benchmarks" / "retrieval.py")
    flags = "--queries 4 --training 12 --rounds 1 --warm_ups 0 -j 0 --threads 1"
    command = [sys.executable, script, *flags.split()]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    rows = rows_of(done.stdout)
    assert set(rows) == {"published", "ours", "ours, cached"}
    assert all(float(seconds) > 0 and int(memory) > 50 for seconds, _, memory in rows.values())
    for ratio in ("published / ours", "ours / ours, cached"):
        assert float(re.search(rf"^{ratio}: (.+)$", done.stdout, re.M)[1]) > 0
    assert (
        float(re.search(r"difference of a best score: (.+)$", done.stdout, re.M)[1])
        <= retrieval.TOLERANCE
    )


def test_scores_that_differ_are_an_error(monkeypatch, capsys):
    turns = {side: [(1.0, 2**20)] for side in retrieval.SIDES}
    monkeypatch.setattr(retrieval, "take_turns", lambda args, data: (turns, 2e-4))
    for name in ("write_images", "write_network"):
        monkeypatch.setattr(retrieval, name, lambda *args, **kwargs: None)
    with pytest.raises(SystemExit, match="best scores differ by 0.0002") as stopped:
        retrieval.main([])
    assert stopped.value.code
    assert set(rows_of(capsys.readouterr().out)) == set(retrieval.SIDES)


def test_cached_scores_are_compared_with_published_ones_of_the_same_folder(monkeypatch, tmp_path):
    """Every turn gives the right scores except for the last one, which is cached."""

    def fake(command, **_):
        out = tmp_path / command[-1].rpartition("/")[2]
        out.mkdir()
        folder = int(command[command.index("--query_dir") + 1][-1])
        np.save(
            out / "similarity.npy",
            np.float32([folder, folder + (0.25 if out.name == "ours, cached-2" else 0)]),
        )
        return 1.0 + len(list(tmp_path.iterdir())), 0

    monkeypatch.setattr(retrieval, "measured", fake)
    args = retrieval.argparse.Namespace(rounds=2, warm_ups=1, workers=0, threads=1)
    turns, difference = retrieval.take_turns(args, tmp_path)
    assert difference == 0.25
    assert turns["published"] == [(5.0, 0), (8.0, 0)]  # the first turns, 2 to 4, only warmed up


def test_every_other_query_is_a_noisy_copy(tmp_path):
    retrieval.write_images(tmp_path, queries=6, training=10)
    pixels = {
        name: [np.asarray(Image.open(p), float) for p in sorted((tmp_path / name).iterdir())]
        for name in ("train", "queries0", "queries1")
    }
    assert [len(images) for images in pixels.values()] == [10, 6, 6]
    assert {image.shape for images in pixels.values() for image in images} == {(256, 256, 3)}
    for name in ("queries0", "queries1"):
        nearest = [min(np.abs(q - t).mean() for t in pixels["train"]) for q in pixels[name]]
        assert all(2 < distance < 10 for distance in nearest[::2])
    assert np.abs(pixels["queries0"][1] - pixels["queries1"][1]).mean() > 10


def test_a_turn_that_fails_says_why(tmp_path):
    command = [sys.executable, "-c", "import sys; print('what went wrong'); sys.exit(3)"]
    with pytest.raises(SystemExit, match=r"ended with status 3:\s+what went wrong"):
        retrieval.measured(command, threads=1, log=tmp_path / "log")


def test_memory_counts_workers(tmp_path):
    worker = "import time; held = bytearray(b'1') * 2**26; time.sleep(1)"
    command = [
        sys.executable,
        "-c",
        f'import subprocess, sys; subprocess.run([sys.executable, "-c", "{worker}"])',
    ]
    seconds, peak = retrieval.measured(command, threads=1, log=tmp_path / "log")
    assert 1 < seconds < 30
    assert 2**26 < peak < 2**28


def test_reading_is_compared_with_bare_decoding(capsys):
    flags = "--decoding --queries 1 --training 12 --rounds 1 -j 0 --threads 1"
    retrieval.main(flags.split())
    out = capsys.readouterr().out
    rows = rows_of(out)
    assert set(rows) == {"bare decoding", "ours, to the network", "ours, through it"}
    assert all(float(rate) > 0 for rate, _ in rows.values())
    ratios = re.search(r"^ours / bare decoding: (.+) to the network, (.+) through it$", out, re.M)
    assert float(ratios[1]) > 0
    assert float(ratios[2]) > 0
