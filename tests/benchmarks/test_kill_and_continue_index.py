"""The script that kills and continues the build of an index, with one kill in each of two rounds: a
single process, and two processes of torchrun."""

import subprocess
import sys

from tests.conftest import ROOT


def test_killed_builds_end_with_the_index_of_an_uninterrupted_build():
    script = str(ROOT / "benchmarks" / "kill_and_continue_index.py")
    flags = "--shards 5 --images 6 --kills 1 --processes 1,2"
    command = [sys.executable, script, *flags.split()]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    lines = done.stdout.strip().splitlines()
    assert lines[-3:] == ["round 1: all files equal", "round 2: all files equal", "7 of 7 right"]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[2:-3]]
    assert [row[:2] for row in rows] == [["0", "1"], ["1", "1"], ["1", "1"], ["2", "2"], ["2", "2"]]
    assert ["uninterrupted" in row[2] for row in rows] == [True, False, True, False, True]
    assert int(rows[2][6]) < 5  # the launch that continued did not begin all of them
