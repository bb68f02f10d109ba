import os
import re
import socket
import sys
from types import SimpleNamespace

import pytest
import torch

from utils.runtime import devices, parallel
from utils.runtime.errors import DataError, UsageError


def test_dtypes(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert [devices.dtype_of(p) for p in ("no", "fp16", "bf16")] == [
        torch.float32,
        torch.float16,
        torch.bfloat16,
    ]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(
        UsageError,
        match="--mixed_precision='fp16' needs a GPU; without one it takes one of: no, bf16",
    ):
        devices.dtype_of("fp16")


MEASURING = {"world_size": -1, "rank": -1, "dist_url": None, "backend": None, "gpu": None}


def test_one_process_that_measures_opens_nothing(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.delenv("RANK", raising=False)
    # as published
    for given in ({}, {"world_size": 1, "rank": 0, "dist_url": "tcp://localhost:10001"}):
        with parallel.measuring(**(MEASURING | given)) as alone:
            assert (alone.index, alone.count, alone.main) == (0, 1, True)
    assert "MASTER_PORT" not in os.environ


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"gpu": 3}, "--gpu=3: this machine has 0 GPUs"),
        ({"backend": "nccl"}, "--dist-backend='nccl' needs GPUs; without takes gloo"),
        (
            {"world_size": 2, "rank": 0, "dist_url": "tcp://localhost"},
            "--dist-url='tcp://localhost' is not accepted; takes tcp://host:port",
        ),
        ({"world_size": 2, "rank": 0, "dist_url": "tcp://localhost:port"}, "takes tcp://host:port"),
    ],
)
def test_processes_that_cannot_be_are_one_line(monkeypatch, given, message):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.delenv("RANK", raising=False)
    with (
        pytest.raises(UsageError, match=re.escape(message)),
        parallel.measuring(**(MEASURING | given)),
    ):
        pass


def test_one_that_waits_in_vain_for_the_others_says_so(monkeypatch):
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "")  # so that what is set here is undone
        monkeypatch.delenv(name)
    monkeypatch.setattr(parallel, "MEETING_MINUTES", 0.01)
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    given = {"world_size": 2, "rank": 0, "dist_url": f"tcp://127.0.0.1:{port}"}
    with (
        pytest.raises(UsageError, match=r"2 processes did not meet there within 0\.01 minutes"),
        parallel.measuring(**(MEASURING | given)),
    ):
        pass


def test_an_error_of_another_process_ends_this_one(monkeypatch):
    several = parallel.Processes(parallel.Alone(torch.device("cpu")))
    monkeypatch.setattr(several, "gather", lambda value: [value, "--x=1 is wrong"])
    with pytest.raises(UsageError, match="--x=1 is wrong"), several.together():
        pass
    with pytest.raises(DataError, match="my own"), several.together():
        raise DataError("my own")
    monkeypatch.setattr(several, "gather", lambda value: [value, None])
    with several.together():
        pass


def test_a_node_starts_a_process_a_gpu_unless_a_launcher_did(monkeypatch):
    from torch.distributed import run

    started = []
    monkeypatch.setattr(run, "main", started.append)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(sys, "argv", ["diff_retrieval.py"])
    opts = SimpleNamespace(world_size=3, rank=1, dist_url="tcp://head:10001")
    monkeypatch.setenv("RANK", "0")
    assert parallel.start_on_this_node(opts, ["--x"]) is False
    monkeypatch.delenv("RANK")
    assert parallel.start_on_this_node(opts, ["--x"]) is True
    ((*command, script, flag),) = started
    assert (script, flag) == ("diff_retrieval.py", "--x")
    assert dict(zip(command[::2], command[1::2], strict=True)) == {
        "--nnodes": "3",
        "--node_rank": "1",
        "--nproc_per_node": "4",
        "--master_addr": "head",
        "--master_port": "10001",
    }


def test_shared_seed_keeps_what_is_given_and_draws_otherwise():
    parallel.accelerator(mixed_precision="no")
    assert parallel.shared_seed(12) == 12
    drawn = {parallel.shared_seed(None) for _ in range(4)}
    assert len(drawn) > 1
    assert all(0 <= s < 2**31 for s in drawn)


def test_peak_memory_is_in_bytes():
    found = devices.peak_memory(torch.device("cpu"))
    assert found["host"] > 50 * 2**20  # torch alone
    assert found["device"] is None


@pytest.mark.parametrize(
    ("processes", "shards", "expected"),
    [
        (1, 4, [(0, 1, 0, 1)]),
        (2, 3, [(0, 2, 0, 1), (1, 2, 0, 1)]),
        (4, 2, [(0, 2, 0, 2), (0, 2, 1, 2), (1, 2, 0, 2), (1, 2, 1, 2)]),
        (2, 1, [(0, 1, 0, 2), (0, 1, 1, 2)]),
        (1, 1, [(0, 1, 0, 1)]),
    ],
)
def test_teams(processes, shards, expected, monkeypatch):
    monkeypatch.setattr(torch.distributed, "new_group", lambda ranks: tuple(ranks))
    made = [
        parallel.team(SimpleNamespace(num_processes=processes, process_index=i), shards)
        for i in range(processes)
    ]
    assert [(t.number, t.count, t.rank, t.size) for t in made] == expected
    if shards == 2 and processes == 4:
        assert [t.group for t in made] == [(0, 1), (0, 1), (2, 3), (2, 3)]


def test_more_processes_than_shards_come_in_multiples():
    with pytest.raises(
        UsageError,
        match="--clients_num=2 with 3 processes: takes at most 2 processes, or a multiple of it",
    ):
        parallel.team(SimpleNamespace(num_processes=3, process_index=0), 2)


def test_one_process_agrees_with_itself_and_copies_to_the_host():
    alone = parallel.Processes(
        SimpleNamespace(
            num_processes=1, process_index=0, device=torch.device("cpu"), is_main_process=True
        )
    )
    assert (alone.any(True), alone.any(False)) == (True, False)
    assert alone.rows(torch.tensor([1.0, 2.0])).tolist() == [[1, 2]]
    assert (alone.share({"a": 1}), alone.gather([3]), alone.gather_rows(torch.eye(2)).tolist()) == (
        {"a": 1},
        [[3]],
        [[1, 0], [0, 1]],
    )
    tensor = torch.ones(2)
    host = devices.to_host(tensor)
    tensor.zero_()
    assert host.tolist() == [1, 1]
    assert parallel.Team().gather(tensor) is tensor
