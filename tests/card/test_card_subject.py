import json
import shutil

import pytest

from tests.original_layout import save_as_one_file
from utils.card import card_subject
from utils.models.pipeline_files import FileChoice
from utils.runtime.errors import UsageError


def test_a_run_knows_its_base_model_data_captions_duplicates_and_held_out_pictures(
    small_run, micro_sd, scenes_dir
):
    model = card_subject.model_of(str(small_run), None)
    assert model.words == ("--modelpath", str(small_run))
    assert model.base == ("--modelpath", str(micro_sd))
    assert model.checkpoints == [2]  # that of step 4 is the last one
    data = card_subject.data_of(model, None, None)
    assert data.source == str(scenes_dir / "train")
    assert len(data.images) == 12
    assert len(data.captions) == 10
    assert len(data.heldout) == 2
    assert set(data.captions) | set(data.heldout) == set(data.images.keys)
    assert len(data.duplicated) == 2  # floor(0.25 * 10)
    assert data.duplicated < set(data.captions)


def test_a_run_without_duplication_drew_no_picture_more_often_on_purpose(small_run, tmp_path):
    run = shutil.copytree(small_run, tmp_path / "run")
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(record | {"counterfactual": True}))
    train = card_subject.data_of(card_subject.model_of(str(small_run), None), None, None).source
    data = card_subject.data_of(card_subject.model_of(str(run), None), train, None)
    assert record["duplicated"]
    assert data.duplicated == frozenset()


def test_pictures_of_another_folder_are_those_of_the_run(small_run, scenes_dir, tmp_path):
    moved = shutil.copytree(scenes_dir / "train", tmp_path / "moved" / "train")
    model = card_subject.model_of(str(small_run), None)
    here, there = (card_subject.data_of(model, place, None) for place in (None, str(moved)))
    assert here.captions == there.captions
    assert here.duplicated == there.duplicated


def test_a_folder_a_name_and_lora_weights_are_told_apart(micro_sd, lora):
    folder = card_subject.model_of(str(micro_sd), None)
    assert folder.words == ("--modelpath", str(micro_sd))
    assert folder.base is None
    named = card_subject.model_of("owner/model", None)
    assert named.words == ("--pretrained_model_name_or_path", "owner/model")
    weights = card_subject.model_of(str(lora), str(micro_sd))
    assert weights.words == ("--modelpath", str(micro_sd), "--lora", str(lora))
    assert weights.base == ("--modelpath", str(micro_sd))
    file = next(lora.glob("*.safetensors"))
    assert card_subject.model_of(str(file), str(micro_sd)).words[-1] == str(file)
    # a name that cannot be read as a pipeline, with a base model, is taken for LoRA weights
    assert card_subject.model_of("owner/lora", str(micro_sd)).words[-1] == "owner/lora"


def test_one_file_is_a_model_and_flags_of_its_files_reach_the_commands(
    micro_sd, micro_parts, lora, tmp_path
):
    file = str(save_as_one_file(micro_parts().assemble(), tmp_path / "m.safetensors"))
    configured = FileChoice(config=str(micro_sd))
    model = card_subject.model_of(file, file, configured)
    assert model.words == model.base == ("--modelpath", file, "--config", str(micro_sd))
    added = card_subject.model_of(str(lora), file, configured)
    assert added.words == (*model.words, "--lora", str(lora))
    folder, unet = ("--modelpath", str(micro_sd)), str(micro_sd / "unet")
    other = card_subject.model_of(str(micro_sd), None, FileChoice(variant="fp16", unet=unet))
    assert other.words == (*folder, "--variant", "fp16", "--unet", unet)
    assert other.base == folder


def test_captions_come_from_a_file_or_from_the_folder(micro_sd, scenes_dir, tmp_path):
    model = card_subject.model_of(str(micro_sd), None)
    given = card_subject.data_of(
        model, str(scenes_dir / "train"), str(scenes_dir / "captions.json")
    )
    assert len(given.captions) == 12
    assert card_subject.data_of(model, str(scenes_dir / "train"), None).captions == {}
    folder = shutil.copytree(scenes_dir / "train", tmp_path / "train")
    key = given.images.keys[0]
    (folder / "metadata.jsonl").write_text(f'{{"file_name": "{key}", "text": "a text"}}\n')
    assert card_subject.data_of(model, str(folder), None).captions == {key: "a text"}


def test_prompts_of_other_pictures_are_refused(small_run, scenes_dir):
    data = card_subject.data_of(card_subject.model_of(str(small_run), None), None, None)
    caption = next(iter(data.captions.values()))
    for named in ({"p": "elsewhere.png"}, {"not a caption": None}):
        with pytest.raises(UsageError, match="--prompts='f': none of "):
            card_subject.require_pictures_of("--prompts", "f", named, data)
    card_subject.require_pictures_of("--prompts", "f", {caption: None, "another": None}, data)
    card_subject.require_pictures_of("--prompts", "f", {"p": data.images.keys[0]}, data)
