import json
import os
import subprocess
import sys
import time
from concurrent.futures import BrokenExecutor, ThreadPoolExecutor

import psutil
import pytest

from benchmarks.study import running
from tests.conftest import ROOT


def test_tasks_start_when_what_they_wait_for_is_done_and_never_after_it_failed():
    order = []

    def work(name):
        order.append(name)
        if name == "broken":
            raise ValueError("no")
        return name.upper()

    tasks = {
        "late": (("early",), work, ("late",)),
        "broken": ((), work, ("broken",)),
        "early": ((), work, ("early",)),
        "after broken": (("broken",), work, ("after broken",)),
        "last": (("late", "early"), work, ("last",)),
    }
    with ThreadPoolExecutor(1) as pool:
        results = dict(running.run_graph(pool, tasks, workers=1))
    assert order == ["broken", "early", "late", "last"]
    assert isinstance(results.pop("broken"), ValueError)
    assert results == {"early": "EARLY", "late": "LATE", "last": "LAST"}


def test_nothing_is_started_once_the_budget_is_spent():
    done = []
    tasks = {n: ((), done.append, (n,)) for n in range(5)}
    with ThreadPoolExecutor(2) as pool:
        assert (
            len(list(running.run_graph(pool, tasks, workers=2, may_start=lambda: len(done) < 2)))
            < 5
        )
    assert 2 <= len(done) < 5


def test_a_command_runs_once_with_a_log_and_says_how_it_ended(tmp_path):
    folder = tmp_path / "scenes"
    command = ["-m", "utils.data.scenes", "--out", folder, "--count", 1, "--seed", 1]
    running.run_command(folder / "captions.json", command)
    written = (folder / "captions.json").stat().st_mtime_ns
    assert "1 scenes in" in (tmp_path / "scenes.log").read_text()
    running.run_command(folder / "captions.json", command)
    assert (folder / "captions.json").stat().st_mtime_ns == written
    with pytest.raises(RuntimeError, match=r"(?s)--count 0.*ended with 2: .*--count='0'.*bad.log"):
        running.run_command(
            tmp_path / "bad" / "captions.json",
            ["-m", "utils.data.scenes", "--out", tmp_path / "bad", "--count", 0],
        )


def test_what_was_drawn_half_is_set_aside_not_deleted(tmp_path, capsys):
    for number in (1, 2):
        (tmp_path / "scenes").mkdir()
        (tmp_path / "scenes" / "mine.png").write_text("")
        running.run_command(
            tmp_path / "scenes" / "captions.json",
            ["-m", "utils.data.scenes", "--out", tmp_path / "scenes", "--count", 1],
        )
        assert (tmp_path / f"scenes-interrupted-{number}" / "mine.png").exists()
        (tmp_path / "scenes").rename(tmp_path / f"kept-{number}")


def test_devices_are_those_that_are_ours(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,GPU-8a")
    assert running.devices() == ["cuda:5", "cuda:GPU-8a"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert running.devices() == ["cuda:0", "cuda:1"]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(running.os, "sched_getaffinity", lambda _: {3, 4, 9})
    assert running.devices() == ["cpu:0", "cpu:1", "cpu:2"]


def test_a_record_is_done_when_it_says_so(tmp_path):
    record = tmp_path / "run.json"
    assert not running.is_done(record)
    for finished in (False, True):
        record.write_text(json.dumps({"finished": finished}))
        assert running.is_done(record) is finished
    (tmp_path / "captions.json").write_text("{}")
    assert running.is_done(tmp_path / "captions.json")


def test_a_killed_worker_ends_what_is_left_with_a_word():
    tasks = {
        "killed": ((), os._exit, (9,)),
        "early": ((), os.getpid, ()),
        "late": ((), os.getpid, ()),
        "last": ((), os.getpid, ()),
    }
    with running.pool(["cpu:0"]) as pool:
        results = list(running.run_graph(pool, tasks, workers=1))
    assert [name for name, _ in results] == ["killed", "early"]
    assert all(isinstance(result, BrokenExecutor) for _, result in results)


def test_workers_end_with_their_parent(tmp_path):
    program = """
import os, sys
from benchmarks.study import running
if __name__ == "__main__":
    pool = running.pool(["cpu:0"])
    print(pool.submit(os.getpid).result(), flush=True)
    os.kill(os.getpid(), 9)
"""
    (tmp_path / "parent.py").write_text(program)
    # into a file: a worker that stays would hold a pipe open
    with open(tmp_path / "printed.txt", "w") as printed:
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        subprocess.run(
            [sys.executable, str(tmp_path / "parent.py")],
            stdout=printed,
            stderr=printed,
            env=environment,
        )
    worker = int((tmp_path / "printed.txt").read_text().splitlines()[0])
    for _ in range(200):
        if not psutil.pid_exists(worker) or psutil.Process(worker).status() == psutil.STATUS_ZOMBIE:
            return
        time.sleep(0.05)
    psutil.Process(worker).kill()
    pytest.fail("the worker waits for work that never comes")


def test_a_worker_takes_a_device_of_its_own(monkeypatch):
    import queue

    names = queue.Queue()
    names.put("cuda:3")
    names.put("cpu:1")
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(running.sys, "path", running.sys.path[:])
    monkeypatch.setenv("TQDM_DISABLE", "0")
    running._start(names)
    assert running.os.environ["CUDA_VISIBLE_DEVICES"] == "3"
    assert running.os.environ["OMP_NUM_THREADS"] == "8"
    running._start(names)
    assert running.os.environ["OMP_NUM_THREADS"] == "1"
