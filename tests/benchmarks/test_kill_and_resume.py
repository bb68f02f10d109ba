"""The script that kills a run ten times, at four moments of a smaller one, with SIGKILL."""

import subprocess
import sys

from tests.conftest import ROOT


def test_killed_runs_end_with_the_weights_of_the_one_left_alone(micro_sd):
    command = [
        sys.executable,
        str(ROOT / "benchmarks" / "kill_and_resume.py"),
        "--model",
        str(micro_sd),
        "--side",
        "16",
        "--moments",
        "any,average,state,checkpoint",
    ]
    told = subprocess.run(command, capture_output=True, text=True)
    assert told.returncode == 0, told.stdout + told.stderr[-2000:]
    lines = told.stdout.strip().splitlines()
    assert lines[-1] == "4 of 4 equal"
    assert len({line.split()[-1] for line in lines[1:-1]}) == 1
