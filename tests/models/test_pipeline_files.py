import subprocess
import sys

import pytest

from tests.conftest import ROOT
from utils.models import pipeline_files
from utils.runtime.errors import DataError, UsageError

FLAG = "--modelpath"


def test_wrong_sources_say_what_to_pass(tmp_path):
    with pytest.raises(
        UsageError, match="is not a pipeline folder: it has no model_index.json; use a folder"
    ):
        pipeline_files.require_pipeline(FLAG, str(tmp_path))
    with pytest.raises(
        UsageError, match="does not exist; use a folder as written by diffusers' save_pretrained"
    ):
        pipeline_files.require_pipeline(FLAG, "/no/such/folder")


def test_configurations_are_read_without_weights(micro_sd):
    configs = pipeline_files.read_configs(
        FLAG, str(micro_sd), pipeline_files.read_index(FLAG, str(micro_sd)), denoiser="unet"
    )
    assert (configs.index["_class_name"], configs.factor, configs.patch) == (
        "StableDiffusionPipeline",
        2,
        1,
    )
    assert configs.denoiser["cross_attention_dim"] == 16
    with pytest.raises(UsageError, match="is not complete"):
        pipeline_files.read_configs(FLAG, str(micro_sd), {}, denoiser="scheduler_of_nobody")


def test_a_configuration_that_is_no_json_is_named(tmp_path):
    (tmp_path / "model_index.json").write_text("{")
    with pytest.raises(DataError, match="model_index.json: is not JSON"):
        pipeline_files.read_index(FLAG, tmp_path)


def test_reading_configurations_imports_no_library_of_models(micro_sd):
    code = (
        "import sys; from utils.models import pipeline_files as files;"
        f" files.read_configs('--m', {str(micro_sd)!r}, {{}}, denoiser='unet');"
        " print([n for n in ('torch', 'diffusers', 'transformers') if n in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert found.stdout == "[]\n", found.stderr
