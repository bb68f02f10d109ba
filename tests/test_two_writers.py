"""A second command that writes into a folder in use is refused at once, by name, in every stage."""

import importlib

import pytest

from tests.card.conftest import SMALL
from tests.conftest import SEED_FLAGS
from utils.files import locks
from utils.training import training_stage


@pytest.fixture
def commands(micro_sd, micro_run, scenes_dir):
    """{stage: (flag of its folder, script, the other words of a command line)}"""
    photos = scenes_dir / "train"
    measuring = ("--val_dir", photos, "--pt_style", "pixel", "--report_to", "none")
    return {
        "training": (
            "--output_dir",
            "diff_train",
            *("--pretrained_model_name_or_path", micro_sd, "--instance_data_dir", photos),
            *("--resolution", 16, "--max_train_steps", 1, *SEED_FLAGS),
        ),
        "generation": ("--savepath", "diff_inference", "--modelpath", micro_run, "--prompt", "a"),
        "evaluation": ("--output_dir", "diff_retrieval", "--query_dir", photos, *measuring),
        "card": ("--output_dir", "diff_retrieval", "--modelpath", micro_run, *SMALL),
        "scenes": ("--out", "utils.data.scenes", "--count", 1),
    }


@pytest.mark.parametrize("stage", ["training", "generation", "evaluation", "card", "scenes"])
def test_a_second_writer_into_a_folder_is_refused_at_once(stage, commands, refused, tmp_path):
    flag, script, *words = commands[stage]
    folder = tmp_path / "out"
    with locks.lock_folder_on_this_machine(folder):
        line = refused(script, *words, flag, folder)
    assert f"{flag}={str(folder)!r} is being written by another command (process " in line
    assert not folder.exists()


def test_near_duplicates_are_not_written_twice_at_once(commands, refused, script, tmp_path):
    _, name, _, photos, *words = commands["evaluation"]
    build = ("--build_index", tmp_path / "index", *words)
    script(name, *build)
    with locks.lock_folder_on_this_machine(tmp_path / "groups"):
        line = refused(name, *build, "--dedup", "--output_dir", tmp_path / "groups")
    assert "groups' is being written by another command" in line


def test_a_run_holds_its_folder_until_its_end(commands, monkeypatch, refused, tmp_path):
    flag, script, *words = commands["training"]
    asked = [*words, flag, tmp_path / "run"]
    lines = []

    def report(*_):
        lines.append(refused(script, *asked))

    monkeypatch.setattr(training_stage, "report", report)
    importlib.import_module(script).main([str(word) for word in asked])
    (line,) = lines
    assert "is being written by another command" in line
    # the run has ended: what is there now is said instead
    assert "already holds a run" in refused(script, *asked)


def test_a_dry_run_needs_no_lock(commands, script, tmp_path):
    flag, name, *words = commands["training"]
    with locks.lock_folder_on_this_machine(tmp_path / "run"):
        assert "writes" in script(name, *words, flag, tmp_path / "run", "--dry_run")
