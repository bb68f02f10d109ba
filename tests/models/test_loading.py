import shutil

import pytest
import torch

from utils.models import loading
from utils.runtime.errors import UsageError

FLAG = "--pretrained_model_name_or_path"


def test_a_safety_checker_is_never_loaded(tmp_path, micro_sd):
    import json

    copy = shutil.copytree(micro_sd, tmp_path / "m")
    index = json.loads((copy / "model_index.json").read_text())
    index |= {
        "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
        "requires_safety_checker": True,
    }
    # its folder does not exist: loading it would fail
    (copy / "model_index.json").write_text(json.dumps(index))
    pipeline = loading.load_pipeline(FLAG, str(copy))
    assert pipeline.safety_checker is None
    assert pipeline.unet.dtype == torch.float32


def test_an_unreachable_name_says_what_was_tried():
    with pytest.raises(
        UsageError,
        match=r"='nobody/no-model' is not a local folder and could not be loaded from the local cache",
    ):
        loading.load_pipeline(FLAG, "nobody/no-model")
