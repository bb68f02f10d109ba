import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.original_layout import original_state, save_as_one_file
from utils.models import families, fingerprints, loading, networks, single_files
from utils.models.pipeline_files import FileChoice
from utils.runtime.errors import DataError, UsageError

FLAG = "--modelpath"


@pytest.fixture
def one_file(micro_sd, tmp_path):
    """The pipeline of `micro_sd` in one file of the original layout."""
    pipeline = loading.load_pipeline(FLAG, str(micro_sd))
    return save_as_one_file(pipeline, tmp_path / "model.safetensors")


@pytest.fixture
def bare(micro_sd, tmp_path):
    """The configuration of that pipeline, without weights."""
    return shutil.copytree(
        micro_sd, tmp_path / "bare", ignore=shutil.ignore_patterns("*.safetensors")
    )


def loaded(path, config):
    return loading.load_pipeline(FLAG, str(path), choice=FileChoice(config=str(config)))


def test_a_model_in_one_file_is_the_same_model(one_file, bare, micro_sd):
    pipeline, folder = loaded(one_file, bare), loading.load_pipeline(FLAG, str(micro_sd))
    assert fingerprints.of_networks(networks.of_pipeline(pipeline)) == fingerprints.of_networks(
        networks.of_pipeline(folder)
    )
    for part in ("unet", "vae", "text_encoder"):
        one, other = (getattr(each, part).state_dict() for each in (pipeline, folder))
        assert all(torch.equal(one[name], other[name]) for name in other)
    name, configs = families.read(FLAG, str(one_file), choice=FileChoice(config=str(bare)))
    assert (name, configs.factor) == ("StableDiffusionPipeline", 2)


def test_a_checkpoint_in_torchs_format_is_read_as_tensors_alone(one_file, bare, tmp_path):
    state = load_file(one_file)
    torch.save({"state_dict": state, "global_step": 3}, tmp_path / "model.ckpt")
    pipeline = loaded(tmp_path / "model.ckpt", bare)
    first = state["model.diffusion_model.input_blocks.0.0.weight"]
    assert torch.equal(pipeline.unet.conv_in.weight, first)

    class Hostile:
        def __reduce__(self):
            return open, (str(tmp_path / "touched"), "w")

    torch.save({"state_dict": state, "callback": Hostile()}, tmp_path / "hostile.ckpt")
    with pytest.raises(DataError, match="hostile.ckpt: is a pickle that holds more than tensors"):
        loaded(tmp_path / "hostile.ckpt", bare)
    assert not (tmp_path / "touched").exists()


def test_offline_the_error_says_what_to_give(one_file):
    with pytest.raises(
        UsageError,
        match=r"one file of weights, and its configuration '.*stable-diffusion-v1-5' could not be"
        r" loaded from the local cache \(HF_HUB_OFFLINE is set\); give a pipeline folder of the"
        r" same architecture with --config",
    ):
        families.read(FLAG, str(one_file))


def test_what_does_not_fit_is_one_line(one_file, bare, tmp_path):
    state = load_file(one_file)
    without = {name: state[name] for name in state if "middle_block" not in name}
    save_file(without, tmp_path / "without.safetensors")
    with pytest.raises(DataError, match="46 of 206 names are missing, the first 'mid_block"):
        loaded(tmp_path / "without.safetensors", bare)
    name = "model.diffusion_model.out.0.weight"
    save_file(state | {name: state[name] * float("nan")}, tmp_path / "nan.safetensors")
    with pytest.raises(DataError, match="1 of 206 tensors hold values that are not finite"):
        loaded(tmp_path / "nan.safetensors", bare)
    save_file(state | {name: torch.zeros(5)}, tmp_path / "shape.safetensors")
    with pytest.raises(DataError, match="1 shapes differ, the first 'conv_norm_out.weight' .file"):
        loaded(tmp_path / "shape.safetensors", bare)
    text = [name for name in state if name.startswith("cond_stage") and "final_layer" in name]
    kept = {name: state[name] for name in state if name not in text}
    save_file(kept, tmp_path / "text.safetensors")
    with pytest.raises(DataError, match="2 of 20 names are missing, the first 'text_encoder.final"):
        loaded(tmp_path / "text.safetensors", bare)


def test_a_file_that_is_no_whole_model_is_refused(micro_sd, lora, tmp_path):
    with pytest.raises(UsageError, match=r"is not a whole model in one file.* go to --lora, a fol"):
        families.read(FLAG, str(next(lora.iterdir())))
    (tmp_path / "m.pth").write_bytes(b"")
    with pytest.raises(UsageError, match="is not opened; use a pipeline folder, a name on the hub"):
        families.read(FLAG, str(tmp_path / "m.pth"))
    (tmp_path / "m.safetensors").write_bytes(b"<html>")
    with pytest.raises(DataError, match=r"is not a whole \.safetensors file .*; copy it again"):
        families.read(FLAG, str(tmp_path / "m.safetensors"))
    with pytest.raises(
        UsageError, match="--config='x' is the configuration of a model in one file"
    ):
        families.read(FLAG, str(micro_sd), choice=FileChoice(config="x"))


def test_names_tell_a_whole_model_from_other_weights(one_file, lora, micro_parts):
    assert single_files.is_whole_model(one_file)
    assert not single_files.is_whole_model(next(lora.iterdir()))
    names = original_state(micro_parts().assemble())
    assert "model.diffusion_model.output_blocks.1.2.conv.weight" in names
