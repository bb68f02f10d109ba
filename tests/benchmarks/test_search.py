"""The search benchmark at a small size: its sides, the index it keeps, and its failure when the sides
disagree."""

import json
import re

import numpy as np
import pytest

from benchmarks import search
from benchmarks.commands import flag_strings
from utils.index import vector_index

SMALL = {
    "--vectors": 12000,
    "--dimensions": 32,
    "--queries": 40,
    "--shards": 7,
    "--rounds": 2,
    "--threads": 1,
}


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """run(*flags) -> (status, output): run the benchmark with all sides in this process.

    run.wrong: the side that shall return other rows."""

    def process(what, folder, *, rounds, threads):
        search.use_threads(threads)
        measure = search.take_turns if what == search.TURNS else search.measure
        result = measure(what, folder, rounds)
        if what == run.wrong:
            np.save(folder / f"{what}.npy", np.load(folder / f"{what}.npy")[:, ::-1])
        return json.loads(json.dumps(result))

    def run(*more):
        with pytest.raises(SystemExit) as ended:
            search.main([*flag_strings(SMALL | {"--folder": tmp_path}), *more])
        return ended.value.code, capsys.readouterr().out

    run.wrong = None
    monkeypatch.setattr(search, "run_process", process)
    return run


def test_every_side_is_measured_and_finds_the_planted_copies(run, tmp_path):
    status, printed = run()
    assert status == 0
    assert "12000 vectors of 32 dimensions in 7 shards, 40 queries, k = 10, 1 threads" in printed
    cells = {
        c[1]: c[2:]
        for c in ([c.strip() for c in line.split("|")] for line in printed.splitlines())
        if len(c) > 6
    }
    for side in search.SIDES:
        seconds, _range, memory, planted_first, of_ten = cells[side][:5]
        assert float(seconds) > 0
        assert int(memory) >= 0
        assert float(planted_first) > 0.9
        assert float(of_ten) > 0.5
    assert float(cells["exact"][4]) == float(cells["flat"][4]) == 1
    for ratio in ("exact / flat", "exact / approximate", "flat / approximate"):
        assert float(re.search(rf"^{ratio} ([\d.]+) ", printed, re.M)[1]) > 0
    queries, planted = np.load(tmp_path / "queries.npy"), np.load(tmp_path / "planted.npy")
    index = vector_index.open_index("--val_dir", tmp_path / "index")
    cosines = np.einsum("qd,qd->q", queries, index.take(planted))
    assert search.FARTHEST - 1e-3 < cosines.min() < cosines.max() < search.NEAREST + 1e-3


def test_a_process_of_its_own_returns_what_it_measured(run, tmp_path, monkeypatch):
    run()
    monkeypatch.undo()
    costs = search.run_process("exact", tmp_path, rounds=1, threads=1)
    assert set(costs) == {"opening", "loading", "memory"}
    assert costs["memory"] > 0
    with pytest.raises(SystemExit, match="(?s)exact: .*No such file"):
        search.run_process("exact", tmp_path / "absent", rounds=1, threads=1)


def test_sides_that_disagree_are_an_error(run):
    run.wrong = "exact"
    assert run()[0] == 1


def test_an_index_of_the_same_sizes_is_kept_and_others_are_replaced(run, tmp_path):
    run()
    built = (tmp_path / "index" / "ann.faiss").stat().st_mtime_ns
    run()
    assert (tmp_path / "index" / "ann.faiss").stat().st_mtime_ns == built
    assert "30 queries" in run("--queries", "30")[1]
    assert len(np.load(tmp_path / "planted.npy")) == 30
    assert (tmp_path / "index" / "ann.faiss").stat().st_mtime_ns != built


def test_an_index_that_it_did_not_write_is_not_replaced(run, tmp_path):
    vector_index.write_index(
        tmp_path / "index",
        descriptor={"pt_style": "sscd"},
        source={"folder": "x", "shards": True},
        planned=["0"],
    )
    before = (tmp_path / "index" / "index.json").read_bytes()
    status, _ = run()
    assert "holds an 'index' that this benchmark did not make" in status
    assert (tmp_path / "index" / "index.json").read_bytes() == before
