import json

import pytest

from utils.files import generation_models, whole_files
from utils.files.generation_folder import Generation

BASE = {"modelpath": "hub/base", "lora": None}


def generation(folder, settings, **fields):
    folder.mkdir(parents=True)
    whole_files.write_manifest(
        folder / "manifest.json", "generation", settings=settings, images=[], **fields
    )
    return folder


@pytest.fixture
def same(tmp_path):
    """same((settings, fields), (settings, fields)) -> whether one model made both."""

    def told(one, other):
        made = []
        for settings, fields in (one, other):
            folder = tmp_path / f"g{len(list(tmp_path.iterdir()))}"
            made.append(generation_models.made_by(generation(folder, settings, **fields)))
        return made[0].is_model_of(made[1])

    return told


def test_two_generations_of_one_run_are_of_one_model_whatever_their_checkpoint(same):
    of_run = {"modelpath": "1f" * 8, "iternum": None}
    earlier = of_run | {"iternum": 5, "lora": "another"}
    assert same((of_run, {"run": "../run"}), (earlier, {"run": "../../run"}))
    other = {"modelpath": "2e" * 8}
    assert not same((of_run, {"run": "../run"}), (other, {"run": "../run"}))
    assert not same((of_run, {"run": "../run"}), (BASE, {"run": None}))


def test_a_base_model_with_lora_weights_is_another_model_than_without(same):
    assert same((BASE, {}), (dict(BASE), {}))
    assert not same((BASE | {"lora": "5a"}, {}), (BASE, {}))
    assert not same((BASE | {"unet": "5a"}, {}), (BASE, {}))


def test_equal_weights_are_one_model_wherever_they_lie(same):
    weights = {"model": {"fingerprints": {"unet": "aa", "vae": "bb"}}}
    moved = {"modelpath": "/elsewhere"}
    assert same((BASE, weights), (moved, weights))
    assert not same((BASE, weights), (moved, {"model": {"fingerprints": {"unet": "cc"}}}))
    assert not same((BASE, {}), (moved, {}))


def test_a_folder_of_pictures_names_no_model(tmp_path):
    (tmp_path / "manifest.json").write_text(json.dumps({"images": []}))  # of another program
    assert generation_models.made_by(tmp_path) is None
    assert generation_models.all_made_by(tmp_path / "absent") == []


def test_the_images_alone_an_unfinished_generation_and_folders_above_name_it_too(tmp_path):
    finished = generation(tmp_path / "all" / "a", BASE, run="../run")
    (finished / "generations").mkdir()
    assert generation_models.made_by(finished / "generations").run == "../run"
    Generation(tmp_path / "b").begin(BASE)
    assert generation_models.made_by(tmp_path / "b").model == "hub/base"
    (above,) = generation_models.all_made_by(tmp_path / "all")
    assert (above.model, above.words) == ("hub/base", "the run ../run")
