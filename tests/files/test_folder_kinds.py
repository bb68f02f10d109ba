import json

import pytest

from utils.files import folder_kinds, whole_files
from utils.runtime.errors import UsageError


def made(folder, record, kind, **fields):
    """A folder with a record, as the stage that makes this kind writes it."""
    folder.mkdir(parents=True, exist_ok=True)
    whole_files.write_manifest(folder / record, kind, **fields)
    return folder


@pytest.fixture
def run(tmp_path):
    return made(tmp_path / "run", "run.json", "run", places={"instance_data_dir": "../pictures"})


@pytest.mark.parametrize(("record", "kind"), folder_kinds.RECORDS.items())
def test_a_folder_is_told_by_its_record(tmp_path, record, kind):
    assert folder_kinds.kind_of(made(tmp_path / "x", record, kind)) == kind


def test_records_of_other_programs_state_no_kind(tmp_path):
    for name in folder_kinds.RECORDS:
        (tmp_path / name).write_text(json.dumps({"kind": "something", "version": 1}))
    assert folder_kinds.kind_of(tmp_path) is None
    folder_kinds.require_pictures("--query_dir", tmp_path)
    assert folder_kinds.kind_of(tmp_path / "absent") is None


def test_previews_are_told_by_the_run_that_they_belong_to(run, tmp_path):
    (run / "generations").mkdir()
    assert folder_kinds.kind_of(run / "generations") == "previews"
    other = made(tmp_path / "gen", "manifest.json", "generation") / "generations"
    other.mkdir()
    assert folder_kinds.kind_of(other) is None


@pytest.mark.parametrize("part", ["", "generations"])
def test_of_a_run_the_generations_to_measure_are_listed(run, part):
    (run / "generations").mkdir()
    for name in ("gen_b", "gen_a", "deeper/gen_c"):
        made(run / "inferences" / name, "manifest.json", "generation")
    with pytest.raises(UsageError) as refused:
        folder_kinds.require_pictures("--query_dir", run / part)
    listed = ", ".join(f"{run}/inferences/{name}" for name in ("deeper/gen_c", "gen_a", "gen_b"))
    assert f"measure one of: {listed}" in str(refused.value)


def test_of_many_generations_the_first_are_listed(run):
    for n in range(7):
        made(run / "inferences" / f"gen_{n}", "manifest.json", "generation")
    with pytest.raises(UsageError, match=r"inferences/gen_4 and 2 more$"):
        folder_kinds.require_pictures("--query_dir", run)


def test_a_run_that_generated_nothing_says_what_to_do(run):
    with pytest.raises(UsageError, match="give a folder that diff_inference.py wrote$"):
        folder_kinds.require_pictures("--query_dir", run)


@pytest.mark.parametrize("flag", ["--val_dir", "--instance_data_dir"])
def test_for_training_the_pictures_of_a_run_are_named(run, tmp_path, flag):
    with pytest.raises(UsageError, match=f"{flag}=.*is a training run.*: {tmp_path / 'pictures'}$"):
        folder_kinds.require_pictures(flag, run)


def test_for_training_the_pictures_of_an_index_are_named(tmp_path):
    index = made(tmp_path / "i", "index.json", "index", source={"folder": "/data/pictures"})
    with pytest.raises(UsageError, match="is an index.*: /data/pictures$"):
        folder_kinds.require_pictures("--instance_data_dir", index)


@pytest.mark.parametrize("flag", ["--innocent_dir", "--base_dir"])
def test_for_innocents_pictures_that_nobody_copied_are_asked_for(run, flag):
    with pytest.raises(UsageError, match=f"{flag}=.*give pictures that nobody copied"):
        folder_kinds.require_pictures(flag, run)


def test_a_generation_is_a_folder_of_pictures_and_said_where_it_is_to_be_trained_on(tmp_path):
    generation = made(tmp_path / "gen", "manifest.json", "generation")
    folder_kinds.require_pictures("--val_dir", generation)
    line = folder_kinds.training_note("--val_dir", generation)
    assert line.startswith(f"--val_dir={str(generation)!r} is a generation: ")
    assert folder_kinds.training_note("--val_dir", tmp_path) is None
