import os
import re
import socket
import subprocess
import sys

import pytest
import torch

from tests.conftest import ROOT
from utils.runtime import launching
from utils.runtime.errors import UsageError

MEASURING = {"world_size": -1, "rank": -1, "dist_url": None, "backend": None, "gpu": None}


def test_one_process_that_measures_opens_nothing(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.delenv("RANK", raising=False)
    # as published
    for given in ({}, {"world_size": 1, "rank": 0, "dist_url": "tcp://localhost:10001"}):
        with launching.measuring(**(MEASURING | given)) as alone:
            assert (alone.index, alone.count, alone.main) == (0, 1, True)
    assert "MASTER_PORT" not in os.environ


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"gpu": 3}, "--gpu=3: this machine has 0 GPUs; they are numbered from 0"),
        ({"backend": "nccl"}, "--dist-backend='nccl' needs GPUs; without GPUs use gloo"),
        (
            {"world_size": 2, "rank": 0, "dist_url": "tcp://localhost"},
            "--dist-url='tcp://localhost' is not accepted; use tcp://host:port",
        ),
        ({"world_size": 2, "rank": 0, "dist_url": "tcp://localhost:port"}, "use tcp://host:port"),
    ],
)
def test_processes_that_cannot_be_are_one_line(monkeypatch, given, message):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.delenv("RANK", raising=False)
    with (
        pytest.raises(UsageError, match=re.escape(message)),
        launching.measuring(**(MEASURING | given)),
    ):
        pass


def test_one_that_waits_in_vain_for_the_others_says_so(monkeypatch):
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "")  # so that what is set here is undone
        monkeypatch.delenv(name)
    monkeypatch.setattr(launching, "MEETING_MINUTES", 0.01)
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    given = {"world_size": 2, "rank": 0, "dist_url": f"tcp://127.0.0.1:{port}"}
    with (
        pytest.raises(UsageError, match=r"2 processes did not meet there within 0\.01 minutes"),
        launching.measuring(**(MEASURING | given)),
    ):
        pass


def test_a_node_starts_a_process_a_gpu_unless_a_launcher_did(monkeypatch):
    from torch.distributed import run

    started = []
    monkeypatch.setattr(run, "main", started.append)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(sys, "argv", ["diff_retrieval.py"])
    node = {"world_size": 3, "rank": 1, "dist_url": "tcp://head:10001", "arguments": ["--x"]}
    monkeypatch.setenv("RANK", "0")
    assert launching.start_on_this_node(**node) is False
    monkeypatch.delenv("RANK")
    assert launching.start_on_this_node(**node) is True
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
    launching.accelerator(mixed_precision="no")
    assert launching.shared_seed(12) == 12
    drawn = {launching.shared_seed(None) for _ in range(4)}
    assert len(drawn) > 1
    assert all(0 <= s < 2**31 for s in drawn)


def test_one_process_shares_with_nobody_and_loads_no_library_for_it():
    code = (
        "import sys; from utils.runtime import launching; found = launching.sharing();"
        " print(found.index, found.count, found.main, 'accelerate' in sys.modules)"
    )
    shown = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert shown.stdout == "0 1 True False\n", shown.stderr
