"""Scripts in several processes, as torchrun starts them."""

import os
import socket
import subprocess
import sys

from tests.conftest import ROOT


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def torchrun(processes, script, *arguments):
    """Run a stage script, or a module such as utils.captioning, in several processes on the CPU."""
    named = [str(ROOT / script)] if script.endswith(".py") else ["--module", script]
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc_per_node",
        str(processes),
        "--master_port",
        str(free_port()),
        *named,
        *map(str, arguments),
    ]
    own = {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    environment = os.environ | own
    told = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert told.returncode == 0, told.stderr[-2000:]
