"""Scripts in processes of their own: several that work together, as torchrun starts them, or one."""

from __future__ import annotations

import contextlib
import multiprocessing.process
import os
import runpy
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.conftest import ROOT, shorten_previews
from tests.prepared import prepared_processes

CPU_ONLY = {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
PATIENCE = 240  # seconds until processes that wait for each other count as hung


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def torchrun(processes: int, script: str, *arguments: object) -> None:
    """Run a stage script in several processes on the CPU, with torchrun itself: it takes 20 s of a
    core, most of it to import the libraries. `launched` is for what the processes compute."""
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc_per_node",
        str(processes),
        "--master_port",
        str(free_port()),
        str(ROOT / script),
        *map(str, arguments),
    ]
    told = subprocess.run(command, env=os.environ | CPU_ONLY, capture_output=True, text=True)
    assert told.returncode == 0, told.stderr[-2000:]


def launched(processes: int, script: str, *arguments: object) -> None:
    """Run a stage script, or a module such as utils.captioning, in several processes on the CPU,
    with the variables that torchrun gives to its processes."""
    together = {
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
    }
    ranks = [{"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(processes)]
    runs = [(script, arguments, together | rank) for rank in ranks]
    for status, _, error in ended(runs):
        assert status == 0, error[-2000:]


def ended(
    runs: Sequence[tuple[str, Sequence[object], dict[str, str]]],
) -> list[tuple[int, str, str]]:
    """Run scripts at once to their ends, each given as (script, its arguments, variables of its
    environment). Returns: [(exit status, stdout, stderr)]. None is left behind."""
    with contextlib.ExitStack() as stack:
        started = [stack.enter_context(process(*run)) for run in runs]
        for child, _ in started:
            child.join(PATIENCE)
        return [
            (child.exitcode, *((folder / name).read_text() for name in ("stdout", "stderr")))
            for child, folder in started
        ]


@contextlib.contextmanager
def process(
    script: str, arguments: Sequence[object], variables: dict[str, str]
) -> Iterator[tuple[multiprocessing.process.BaseProcess, Path]]:
    """Start a script as the main module of a process that has imported the libraries. Yields: the
    process, and a folder with its stdout and stderr. It is killed at the end of the block."""
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | CPU_ONLY | variables
        given = (script, [str(a) for a in arguments], dict(environment), folder)
        child = prepared_processes().Process(target=_as_main, args=given)
        child.start()
        try:
            yield child, Path(folder)
        finally:
            child.kill()
            child.join()


def _as_main(script: str, arguments: list[str], environment: dict[str, str], folder: str) -> None:
    """What a process that was forked does, so that the script finds what a new one finds."""
    for number, name in ((1, "stdout"), (2, "stderr")):
        with open(Path(folder) / name, "w") as out:
            os.dup2(out.fileno(), number)
    # pytest's are files of the process that it runs in
    sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
    os.environ.clear()
    os.environ.update(environment)
    multiprocessing.process._parent_process = None  # a script is nobody's worker
    if script == "diff_train.py":
        shorten_previews(pytest.MonkeyPatch())
    if script.endswith(".py"):
        sys.argv = [str(ROOT / script), *arguments]
        runpy.run_path(sys.argv[0], run_name="__main__")
    else:
        sys.argv = [script, *arguments]
        runpy.run_module(script, run_name="__main__", alter_sys=True)
