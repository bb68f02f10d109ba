"""The script that kills the building of an index, with one kill in each of two rounds: one process,
and two of torchrun."""

import subprocess
import sys

from tests.conftest import ROOT


def test_killed_builds_go_on_to_the_index_of_the_one_left_alone():
    command = [
        sys.executable,
        str(ROOT / "benchmarks" / "kill_and_continue_index.py"),
        "--shards",
        "5",
        "--images",
        "6",
        "--kills",
        "1",
        "--processes",
        "1,2",
    ]
    told = subprocess.run(command, capture_output=True, text=True)
    assert told.returncode == 0, told.stdout + told.stderr[-2000:]
    lines = told.stdout.strip().splitlines()
    assert lines[-3:] == ["round 1: all files equal", "round 2: all files equal", "7 of 7 right"]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[2:-3]]
    assert [row[:2] for row in rows] == [["0", "1"], ["1", "1"], ["1", "1"], ["2", "2"], ["2", "2"]]
    assert ["left alone" in row[2] for row in rows] == [True, False, True, False, True]
    assert int(rows[2][6]) < 5  # the launch that went on did not begin all of them
