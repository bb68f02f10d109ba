import pytest

from utils.files import run_folder, whole_files
from utils.runtime.errors import DataError, UsageError


def test_a_folder_that_holds_a_run_is_refused(tmp_path):
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(UsageError, match="--output_dir=.*already holds a run"):
        run_folder.NewRun(tmp_path).require_new()
    assert run_folder.NewRun(tmp_path / "new").require_new()


def test_a_checkpoint_that_does_not_exist_lists_those_that_do(micro_run):
    run = run_folder.open_run("--modelpath", micro_run)
    assert run.checkpoints() == ["checkpoint", "checkpoint_2", "checkpoint_4"]
    assert run.checkpoint("--modelpath", 2) == micro_run / "checkpoint_2"
    with pytest.raises(
        UsageError,
        match=(
            "--iternum=3: the run has no checkpoint_3; it has: checkpoint, checkpoint_2,"
            " checkpoint_4"
        ),
    ):
        run.checkpoint("--modelpath", 3)


def test_a_record_of_a_newer_version_is_refused(tmp_path):
    whole_files.write_json(tmp_path / "run.json", {"kind": "run", "version": 9})
    with pytest.raises(DataError, match="version 9; this toolkit reads versions 1 to 1"):
        run_folder.open_run("--modelpath", tmp_path)


def test_a_path_below_a_file_is_refused_before_anything_is_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="file' is a file; use a new folder"):
        run_folder.NewRun(tmp_path / "file" / "run").require_new()
