import shutil

import pytest
import torch

from utils.models import loading
from utils.runtime.errors import UsageError

FLAG = "--pretrained_model_name_or_path"


def test_parts_come_in_float32_even_from_a_half_precision_folder(tmp_path, micro_parts):
    pipeline = loading.assemble(micro_parts())
    pipeline.to(torch.float16).save_pretrained(tmp_path / "half")
    parts = loading.load_parts(FLAG, str(tmp_path / "half"))
    assert {
        p.dtype for m in (parts.unet, parts.vae, parts.text_encoder) for p in m.parameters()
    } == {torch.float32}


def test_the_noise_scheduler_has_the_pipelines_betas_and_prediction(micro_parts):
    parts = micro_parts("v_prediction")
    assert parts.noise_scheduler.config.prediction_type == "v_prediction"
    torch.testing.assert_close(parts.noise_scheduler.alphas_cumprod, parts.scheduler.alphas_cumprod)
    assert parts.vae_factor == 2


def test_saved_and_loaded_parts_are_equal(tmp_path, micro_parts):
    parts = micro_parts()
    loading.assemble(parts).save_pretrained(tmp_path / "m")
    again = loading.load_parts(FLAG, str(tmp_path / "m"))
    for name in ("unet", "vae", "text_encoder"):
        for a, b in zip(
            getattr(parts, name).parameters(), getattr(again, name).parameters(), strict=True
        ):
            assert torch.equal(a, b)
    assert again.tokenizer("a red circle").input_ids == parts.tokenizer("a red circle").input_ids


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


def test_embeddings_are_cut_and_padded_to_the_tokenizers_length(micro_parts):
    parts = micro_parts()
    with torch.no_grad():
        embeddings = loading.embed(
            parts.tokenizer, parts.text_encoder, ["a", "b " * 100], device="cpu"
        )
    assert tuple(embeddings.shape) == (2, 32, 16)


def test_from_scratch_is_the_same_architecture_and_other_weights(micro_parts):
    import torch

    unet = micro_parts().unet
    state = torch.get_rng_state()
    one, same, other = (loading.from_scratch(unet, seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert dict(one.config) == dict(unet.config)
    first = [next(u.parameters()) for u in (unet, one, same, other)]
    assert torch.equal(first[1], first[2])
    assert not torch.equal(first[1], first[3])
    assert not torch.equal(first[0], first[1])
