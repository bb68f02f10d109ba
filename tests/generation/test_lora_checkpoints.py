"""diff_inference.py and the card on LoRA checkpoints: the base model and the adapter, or a reason."""

import json
import os
import shutil

import numpy as np
import pytest
import torch

from tests import adapted, pipelines
from tests.test_diff_inference import images_of, infer, manifest_of  # noqa: F401
from utils.card import card_subject
from utils.files import adapter_folder
from utils.generation import model_source
from utils.models import fingerprints, loading
from utils.models import lora as lora_weights
from utils.models.pipeline_files import NO_CHOICE, FileChoice
from utils.runtime.errors import UsageError

FLAGS = ("--prompt", "a red circle", "--resolution", 16)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """The folder of a miniature."""
    folder = tmp_path_factory.mktemp("base") / "sd"
    pipelines.miniature("SD 1").save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, base):
    pipeline = adapted.trained("SD 1", adapted.SHAPE)
    return adapted.checkpoint(tmp_path_factory.mktemp("lora") / "checkpoint", base, pipeline)


def test_a_checkpoint_is_the_base_model_with_the_adapter(infer, base, checkpoint):  # noqa: F811
    folder = infer(*FLAGS, model=checkpoint)
    file = infer(*FLAGS, model=checkpoint / adapter_folder.WEIGHTS)
    added = infer(*FLAGS, "--lora", checkpoint, model=base)
    plain = infer(*FLAGS, model=base)
    shown = [images_of(each)[0] for each in (folder, file, added, plain)]
    assert np.array_equal(shown[0], shown[1])
    assert np.array_equal(shown[0], shown[2])
    assert not np.array_equal(shown[0], shown[3])
    named = [manifest_of(each)["settings"]["modelpath"] for each in (folder, file, plain)]
    assert named[0] == named[1] == lora_weights.lora_id(str(checkpoint))
    assert named[0] != named[2]
    model = manifest_of(folder)["model"]
    assert model["source"] == str(base)
    assert model["adapter"] == str(checkpoint)


def test_other_adapters_of_one_base_are_other_models(checkpoint, base, tmp_path):
    pipeline = adapted.trained("SD 1", adapted.SHAPE)
    with torch.no_grad():
        for network in adapted.adapted_parts(pipeline).values():
            for name, tensor in network.named_parameters():
                if "lora_" in name:
                    tensor.add_(0.01)
    other = adapted.checkpoint(tmp_path / "other", base, pipeline)
    found = [_find(str(each)).identity for each in (checkpoint, other)]
    assert found[0] != found[1]


def _find(path, base_model=None, choice=NO_CHOICE):
    return model_source.find_model(
        path, iternum=None, base_model=base_model, default_model="owner/default", choice=choice
    )


def test_a_base_that_is_gone_is_named_with_the_flag_for_another(
    infer,  # noqa: F811
    refused,
    checkpoint,
    base,
    tmp_path,
):
    moved = shutil.copytree(checkpoint, tmp_path / "checkpoint")
    record = json.loads((moved / adapter_folder.RECORD).read_text())
    record["base"] |= {"source": "/nowhere/sd", "place": "../gone"}
    (moved / adapter_folder.RECORD).write_text(json.dumps(record))
    line = refused("diff_inference", "--modelpath", moved, *FLAGS, "--savepath", tmp_path / "g")
    assert "'/nowhere/sd', is not there" in line
    assert "--pretrained_model_name_or_path" in line
    folder = infer(*FLAGS, "--pretrained_model_name_or_path", base, model=moved)
    assert np.array_equal(images_of(folder)[0], images_of(infer(*FLAGS, model=checkpoint))[0])


def test_a_base_that_moved_together_with_the_checkpoint_is_found(base, checkpoint, tmp_path):
    shutil.copytree(base, tmp_path / "base" / "sd")
    moved = tmp_path / "lora" / "checkpoint"
    shutil.copytree(checkpoint, moved)
    record = json.loads((moved / adapter_folder.RECORD).read_text())
    record["base"] |= {"source": "/nowhere/sd", "place": os.path.join("..", "..", "base", "sd")}
    (moved / adapter_folder.RECORD).write_text(json.dumps(record))
    assert _find(str(moved)).source == str(tmp_path / "base" / "sd")


def test_other_weights_and_another_class_are_refused(refused, checkpoint, tmp_path):
    pipeline = pipelines.miniature("SD 1")
    with torch.no_grad():
        pipeline.unet.conv_out.weight[0, 0, 0, 0] += 0.01
    pipeline.save_pretrained(tmp_path / "sd")
    other = ("--pretrained_model_name_or_path", tmp_path / "sd", "--savepath", tmp_path / "g")
    line = refused("diff_inference", "--modelpath", checkpoint, *FLAGS, *other)
    assert "was trained on other weights: unet of" in line
    assert "--pretrained_model_name_or_path" in line
    with pytest.raises(UsageError, match="is a FluxPipeline, .* trained on a StableDiffusionPi"):
        model_source.require_class(_find(str(checkpoint), "owner/x"), "FluxPipeline")


def test_a_base_is_known_in_every_precision_that_both_sides_know(base):
    plain = loading.load_pipeline("--x", str(base))
    half = {
        d: loading.load_pipeline("--x", str(base), dtype=d) for d in (torch.float16, torch.bfloat16)
    }
    whole = fingerprints.in_precisions(plain.unet)
    assert set(whole) == {"float32", "float16", "bfloat16"}
    for dtype, pipeline in half.items():
        known = fingerprints.in_precisions(pipeline.unet)
        name = str(dtype).removeprefix("torch.")
        assert known == {name: whole[name]}
    recorded = adapter_folder.Base(
        "x",
        "StableDiffusionPipeline",
        {"unet": fingerprints.in_precisions(half[torch.float16].unet)},
    )
    said = []
    lora_weights.require_base("--modelpath", "x", recorded, plain, said.append)
    assert said == []
    lora_weights.require_base("--modelpath", "x", recorded, half[torch.bfloat16], said.append)
    assert "is not known: that one was read in float16, this one in torch.bfloat16" in said[0]


def test_two_models_are_still_refused(refused, micro_sd, tmp_path):
    both = ("--modelpath", micro_sd, "--pretrained_model_name_or_path", micro_sd)
    line = refused("diff_inference", *both, *FLAGS, "--savepath", tmp_path / "g")
    assert "both name a model; give one" in line


def test_the_files_of_the_base_are_those_of_training_unless_flags_say_others(checkpoint, tmp_path):
    moved = shutil.copytree(checkpoint, tmp_path / "checkpoint")
    record = json.loads((moved / adapter_folder.RECORD).read_text())
    record["base"] |= {"source": "owner/sd", "place": None, "files": {"variant": "fp16"}}
    (moved / adapter_folder.RECORD).write_text(json.dumps(record))
    assert _find(str(moved)).choice == FileChoice(variant="fp16")
    other = _find(str(moved), choice=FileChoice(variant="ema"))
    assert (other.source, other.choice.variant) == ("owner/sd", "ema")
    assert _find(str(moved), "owner/x").choice == NO_CHOICE


def test_the_card_of_a_checkpoint_compares_it_with_its_base(checkpoint, base, micro_sd):
    model = card_subject.model_of(str(checkpoint), None)
    assert model.words == ("--modelpath", str(checkpoint))
    assert model.base == ("--modelpath", str(base))
    other = card_subject.model_of(str(checkpoint), str(micro_sd))
    assert other.words[2:] == ("--pretrained_model_name_or_path", str(micro_sd))
    assert other.base == ("--modelpath", str(micro_sd))
