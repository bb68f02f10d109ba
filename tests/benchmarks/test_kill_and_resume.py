"""The script that kills and resumes a training run, with one kill of each kind."""

import json
import shutil
import subprocess
import sys

from benchmarks.commands import flag_strings
from tests.conftest import ROOT


def test_killed_runs_end_with_the_weights_of_the_one_left_alone(micro_sd, tmp_path):
    # previews take half of the timesteps: with fifty steps they are most of these nine trainings
    model = shutil.copytree(micro_sd, tmp_path / "model")
    scheduler = model / "scheduler" / "scheduler_config.json"
    scheduler.write_text(json.dumps(json.loads(scheduler.read_text()) | {"num_train_timesteps": 8}))
    script = str(ROOT / "benchmarks" / "kill_and_resume.py")
    moments = "any,average,state,checkpoint"
    flags = flag_strings({"--model": model, "--side": 16, "--moments": moments})
    command = [sys.executable, script, *flags]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    lines = done.stdout.strip().splitlines()
    assert lines[-1] == "4 of 4 equal"
    assert len({line.split()[-1] for line in lines[1:-1]}) == 1
