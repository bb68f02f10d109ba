import json
import os
from types import SimpleNamespace

import pytest
from PIL import Image

from utils import manifest, runs
from utils.errors import DataError, UsageError
from utils.records import ImageJob

SETTINGS = {"seed": 1, "guidance_scale": 3.0}


def job(index, prompt="a red circle"):
    return ImageJob(index, 100 + index, prompt, prompt, None)


def test_a_folder_that_holds_a_run_is_refused(tmp_path):
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(UsageError, match="--output_dir=.*already holds a run"):
        runs.NewRun(tmp_path).require_new()
    assert runs.NewRun(tmp_path / "new").require_new()


def test_published_names():
    def name(lam=0.0, augs=None, repeats=2):
        return runs.generation_name(SimpleNamespace(rand_noise_lam=lam, rand_augs=augs, rand_aug_repeats=repeats))

    assert name() == "gen_nomit"
    assert name(lam=0.1) == "gen_ginfer0.1"
    assert name(augs="rand_word_add", repeats=4) == "gen_auginfer_rand_word_add_4"
    assert name(lam=0.1, augs="rand_word_add") == "gen_ginfer0.1_auginfer_rand_word_add_2"


def test_a_checkpoint_that_does_not_exist_lists_those_that_do(micro_run):
    run = runs.open_run("--modelpath", micro_run)
    assert run.checkpoints() == ["checkpoint", "checkpoint_2", "checkpoint_4"]
    assert run.checkpoint("--modelpath", 2) == micro_run / "checkpoint_2"
    with pytest.raises(
        UsageError, match="--iternum=3: the run has no checkpoint_3; it has: checkpoint, checkpoint_2, checkpoint_4"
    ):
        run.checkpoint("--modelpath", 3)


def test_a_record_of_a_newer_version_is_refused(tmp_path):
    manifest.write_json(tmp_path / "run.json", {"kind": "run", "version": 9})
    with pytest.raises(DataError, match="version 9; this toolkit reads versions 1 to 1"):
        runs.open_run("--modelpath", tmp_path)


def test_an_interrupted_generation_continues_with_what_is_whole(tmp_path):
    folder = runs.Generation(tmp_path / "g")
    folder.begin(SETTINGS, [])
    rows = [folder.add(job(i), Image.new("RGB", (4, 4))) for i in range(3)]
    (folder.path / rows[1]["file"]).unlink()  # a line without its image is made again
    with open(folder.part_path, "a") as handle:
        handle.write('{"file": "generations/3.p')  # cut off in the middle of a line
    assert [r["index"] for r in folder.rows(SETTINGS)] == [0, 2]
    with pytest.raises(UsageError, match="--guidance_scale=7.5: .* holds a generation with 3.0"):
        folder.rows(SETTINGS | {"guidance_scale": 7.5})


def test_a_finished_generation_is_found_and_its_part_is_gone(tmp_path):
    folder = runs.Generation(tmp_path / "g")
    folder.begin(SETTINGS, [])
    rows = [folder.add(job(i, "two\nlines\\"), Image.new("RGB", (4, 4))) for i in (1, 0)]
    folder.finish(rows, settings=SETTINGS)
    assert [r["index"] for r in folder.rows(SETTINGS)] == [0, 1]
    assert folder.prompts_path.read_text() == "two\\nlines\\\\\n" * 2
    assert not folder.part_path.exists()
    with pytest.raises(UsageError, match="--seed=2"):
        folder.rows(SETTINGS | {"seed": 2})


def test_images_of_somebody_else_are_not_overwritten(tmp_path):
    (tmp_path / "generations").mkdir()
    with pytest.raises(UsageError, match="holds generations without a manifest of ours"):
        runs.Generation(tmp_path).rows(SETTINGS)


def test_an_evaluation_replaces_its_own_kind_only_and_keeps_the_old_one_on_failure(tmp_path):
    folder = runs.Evaluation(tmp_path / "e")
    for number in (1, 2):
        with folder.require_ours().writing() as part:
            manifest.write_manifest(part / "metrics.json", "evaluation", number=number)
    assert manifest.read_json(folder.path / "metrics.json")["number"] == 2

    def fail():
        with folder.writing() as part:
            (part / "metrics.json").write_text("3")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fail()
    assert manifest.read_json(folder.path / "metrics.json")["number"] == 2
    assert [p.name for p in tmp_path.iterdir()] == ["e"]
    (folder.path / "thesis.docx").write_text("")
    with pytest.raises(UsageError, match="holds 'thesis.docx', which no evaluation wrote"):
        folder.require_ours()


def test_a_generation_manifest_without_images_is_an_error(tmp_path):
    manifest.write_manifest(tmp_path / "manifest.json", "generation", images=[])
    with pytest.raises(DataError, match="lists no images"):
        runs.read_queries_manifest(tmp_path)


def test_a_folder_is_saved_whole_or_not_at_all(tmp_path):
    def half(part):
        part.mkdir()
        (part / "unet").write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        runs.save_folder(half, tmp_path / "checkpoint_1")
    assert list(tmp_path.iterdir()) == []


def test_the_environment_names_versions_and_machine():
    found = runs.environment()
    assert {"torch", "diffusers"} <= set(found["versions"])
    assert json.dumps(found)


def test_folders_of_our_names_but_not_of_ours_are_left_alone(tmp_path):
    (tmp_path / "gallery").mkdir()
    (tmp_path / "gallery" / "holiday.png").write_text("")
    with pytest.raises(UsageError, match="holds 'gallery/holiday.png', which no evaluation wrote"):
        runs.Evaluation(tmp_path).require_ours()
    (tmp_path / "gallery" / "holiday.png").rename(tmp_path / "metrics.json")
    with pytest.raises(DataError, match="metrics.json: is not JSON"):
        runs.Evaluation(tmp_path).require_ours()
    (tmp_path / "metrics.json").write_text("[1]")
    with pytest.raises(UsageError, match="holds 'metrics.json', which no evaluation wrote"):
        runs.Evaluation(tmp_path).require_ours()


def test_a_path_below_a_file_is_refused_before_anything_is_made(tmp_path):
    (tmp_path / "file").write_text("")
    for refuse in (runs.NewRun(tmp_path / "file" / "run").require_new, lambda: runs.Generation(tmp_path / "file").rows({})):
        with pytest.raises(UsageError, match="file' is a file; takes a new folder"):
            refuse()


def test_an_incomplete_or_unfinished_manifest_is_named(tmp_path):
    manifest.write_manifest(tmp_path / "manifest.json", "generation", images=[{"file": "0.png", "prompt": "x"}])
    with pytest.raises(DataError, match="image 0 has no 'source_prompt'"):
        runs.read_queries_manifest(tmp_path)
    (tmp_path / "manifest.json").rename(tmp_path / "manifest.jsonl.part")
    with pytest.raises(DataError, match="is an unfinished generation; run its command again to finish it"):
        runs.read_queries_manifest(tmp_path)


def test_a_checkpoint_that_cannot_be_put_in_place_leaves_the_one_before(tmp_path, monkeypatch):
    path = tmp_path / "checkpoint"
    path.mkdir()
    (path / "old").write_text("x")
    replace = os.replace

    def fails(source, target):
        if str(source).endswith(".part"):
            raise OSError("no")
        return replace(source, target)

    monkeypatch.setattr(os, "replace", fails)
    with pytest.raises(OSError, match="no"):
        runs.save_folder(lambda part: part.mkdir(), path)
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint"]
    assert (path / "old").exists()
