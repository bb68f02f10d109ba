import os
import resource
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from tests.conftest import ROOT
from utils.files import resume_states
from utils.runtime.errors import TrainingError, UsageError

ALONE = SimpleNamespace(index=0, count=1, main=True, any=bool, wait=lambda: None)


def save(folder, position, limit=1, value=1.0):
    resume_states.save_state(
        folder,
        position,
        {"w": torch.full((3,), value)},
        {"seconds": 1.5},
        processes=ALONE,
        limit=limit,
    )


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def test_a_state_comes_back_and_replaces_the_older(tmp_path):
    save(tmp_path, 9, value=2.0)
    save(tmp_path, 10, value=3.0)
    assert names(tmp_path) == ["state_10"]
    state = resume_states.find_state(tmp_path, "latest")
    assert (state.position, state.info["seconds"]) == (10, 1.5)
    assert state.tensors(0)["w"].tolist() == [3, 3, 3]


def test_as_many_are_kept_as_asked_newest_by_number(tmp_path):
    for position in (2, 9, 10):
        save(tmp_path, position, limit=2)
    assert names(tmp_path) == ["state_10", "state_9"]
    assert resume_states.find_state(tmp_path, "state_9").position == 9
    assert resume_states.find_state(tmp_path, str(tmp_path / "state_9")).position == 9
    with pytest.raises(
        UsageError,
        match=(
            "--resume_from_checkpoint='state_3' is not a state of .*choose latest or one of: state_9,"
            " state_10"
        ),
    ):
        resume_states.find_state(tmp_path, "state_3")


def test_latest_without_a_state_is_the_beginning(tmp_path):
    assert resume_states.find_state(tmp_path, "latest") is None
    with pytest.raises(UsageError, match="one of: none yet"):
        resume_states.find_state(tmp_path, "state_1")


def test_what_a_killed_process_left_is_not_a_state_and_is_cleared(tmp_path):
    save(tmp_path, 4)
    for name in (".state_8.part", ".state_2.old", ".mine"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "process_0.safetensors").write_bytes(b"half")
    (tmp_path / "state_9").mkdir()  # no state.json: nobody of ours wrote this
    assert [s.position for s in resume_states.list_states(tmp_path)] == [4]
    (tmp_path / ".checkpoint.77.part").mkdir()
    # killed between two renames: the good one is put back
    (tmp_path / ".checkpoint.78.old").mkdir()
    (tmp_path / ".checkpoint_3.79.old").mkdir()
    (tmp_path / "checkpoint_3").mkdir()
    resume_states.clean(tmp_path)
    assert names(tmp_path) == [".mine", "checkpoint", "checkpoint_3", "state_4", "state_9"]


def test_states_of_a_past_that_is_taken_back_are_removed(tmp_path):
    for position in (2, 4, 6):
        save(tmp_path, position, limit=9)
    resume_states.clean(tmp_path, after=4)
    assert names(tmp_path) == ["state_2", "state_4"]
    save(tmp_path, 4, limit=9, value=7.0)  # the same position again: the new one counts
    assert resume_states.find_state(tmp_path, "latest").tensors(0)["w"].tolist() == [7, 7, 7]


FULL = """
import resource, signal, sys
sys.path.insert(0, {root!r})
from tests.files.test_resume_states import save
from utils.runtime.errors import TrainingError
import torch
from utils.files import resume_states
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
from pathlib import Path
from tests.files.test_resume_states import ALONE
try:
    resume_states.save_state(Path({folder!r}), 8, {{"w": torch.zeros(50_000)}}, {{"seconds": 1}}, processes=ALONE, limit=1)
except TrainingError as error:
    print(error)
"""


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_FSIZE"), reason="needs a limit on file sizes")
def test_a_full_disk_leaves_the_previous_state(tmp_path):
    """The kernel refuses what goes beyond 20 kB, as a full disk would."""
    save(tmp_path, 4)
    script = FULL.format(root=str(ROOT), folder=str(tmp_path))
    told = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=dict(os.environ),
    )
    assert "the state of step 8 could not be written" in told.stdout, told.stderr
    assert "complete states: state_4. Free some disk space and continue" in told.stdout
    assert names(tmp_path) == ["state_4"]
    assert resume_states.find_state(tmp_path, "latest").tensors(0)["w"].tolist() == [1, 1, 1]


def test_a_state_whose_folder_cannot_be_made_is_not_blamed_on_the_disks_room(tmp_path):
    (tmp_path / "run").write_text("a file where the folder was")
    with pytest.raises(TrainingError) as error:
        save(tmp_path / "run", 4)
    assert "Not a directory" in str(error.value)
    assert "Remove the cause and continue" in str(error.value)
    assert "disk space" not in str(error.value)


def test_one_process_that_cannot_write_stops_all(tmp_path):
    other = SimpleNamespace(index=0, count=2, main=True, any=lambda flag: True, wait=lambda: None)
    with pytest.raises(TrainingError, match="by another process"):
        resume_states.save_state(tmp_path, 3, {"w": torch.ones(1)}, {}, processes=other, limit=1)
    assert names(tmp_path) == []


def test_a_truncated_file_is_named(tmp_path):
    save(tmp_path, 4)
    path = tmp_path / "state_4" / "process_0.safetensors"
    path.write_bytes(path.read_bytes()[:10])
    with pytest.raises(UsageError, match="process_0.safetensors cannot be read"):
        resume_states.find_state(tmp_path, "latest").tensors(0)


def test_one_flipped_bit_of_a_state_is_found_and_named(tmp_path):
    save(tmp_path, 4)
    path = tmp_path / "state_4" / "process_0.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(UsageError, match="process_0.safetensors differs from its checksum"):
        resume_states.find_state(tmp_path, "latest").tensors(0)


def test_a_state_of_an_earlier_version_without_a_checksum_is_read(tmp_path):
    save(tmp_path, 4)
    (tmp_path / "state_4" / "process_0.safetensors.sha256").unlink()
    assert resume_states.find_state(tmp_path, "latest").tensors(0)["w"].tolist() == [1, 1, 1]
