from types import SimpleNamespace

import pytest
from PIL import Image

from utils import generations, manifest
from utils.errors import DataError, UsageError
from utils.records import ImageJob

SETTINGS = {"seed": 1, "guidance_scale": 3.0}


def job(index, prompt="a red circle"):
    return ImageJob(index, 100 + index, prompt, prompt, None)


def test_published_names():
    def name(lam=0.0, augs=None, repeats=2):
        return generations.generation_name(SimpleNamespace(rand_noise_lam=lam, rand_augs=augs, rand_aug_repeats=repeats))

    assert name() == "gen_nomit"
    assert name(lam=0.1) == "gen_ginfer0.1"
    assert name(augs="rand_word_add", repeats=4) == "gen_auginfer_rand_word_add_4"
    assert name(lam=0.1, augs="rand_word_add") == "gen_ginfer0.1_auginfer_rand_word_add_2"


def test_an_interrupted_generation_continues_with_what_is_whole(tmp_path):
    folder = generations.Generation(tmp_path / "g")
    folder.begin(SETTINGS, [])
    rows = [folder.add(job(i), Image.new("RGB", (4, 4))) for i in range(3)]
    (folder.path / rows[1]["file"]).unlink()  # a line without its image is made again
    with open(folder.part_path, "a") as handle:
        handle.write('{"file": "generations/3.p')  # cut off in the middle of a line
    assert [r["index"] for r in folder.rows(SETTINGS)] == [0, 2]
    with pytest.raises(UsageError, match="--guidance_scale=7.5: .* holds a generation with 3.0"):
        folder.rows(SETTINGS | {"guidance_scale": 7.5})


def test_a_finished_generation_is_found_and_its_part_is_gone(tmp_path):
    folder = generations.Generation(tmp_path / "g")
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
        generations.Generation(tmp_path).rows(SETTINGS)


def test_a_generation_manifest_without_images_is_an_error(tmp_path):
    manifest.write_manifest(tmp_path / "manifest.json", "generation", images=[])
    with pytest.raises(DataError, match="lists no images"):
        generations.read_queries_manifest(tmp_path)


def test_an_incomplete_or_unfinished_manifest_is_named(tmp_path):
    manifest.write_manifest(tmp_path / "manifest.json", "generation", images=[{"file": "0.png", "prompt": "x"}])
    with pytest.raises(DataError, match="image 0 has no 'source_prompt'"):
        generations.read_queries_manifest(tmp_path)
    (tmp_path / "manifest.json").rename(tmp_path / "manifest.jsonl.part")
    with pytest.raises(DataError, match="is an unfinished generation; run its command again to finish it"):
        generations.read_queries_manifest(tmp_path)


def test_a_path_below_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="file' is a file; takes a new folder"):
        generations.Generation(tmp_path / "file").rows({})
