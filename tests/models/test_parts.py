import pytest
import torch

from tests.pipelines import MINIATURES
from utils.models import parts as model_parts

FLAG = "--pretrained_model_name_or_path"


def test_parts_come_in_float32_even_from_a_half_precision_folder(tmp_path, micro_parts):
    pipeline = micro_parts().assemble()
    pipeline.to(torch.float16).save_pretrained(tmp_path / "half")
    parts = model_parts.load_parts(FLAG, str(tmp_path / "half"))
    assert {p.dtype for m in parts.networks.values() for p in m.parameters()} == {torch.float32}


def test_saved_and_loaded_parts_are_equal(tmp_path, micro_parts):
    parts = micro_parts()
    parts.assemble().save_pretrained(tmp_path / "m")
    again = model_parts.load_parts(FLAG, str(tmp_path / "m"))
    for name in ("unet", "vae", "text_encoder"):
        for a, b in zip(
            parts.networks[name].parameters(), again.networks[name].parameters(), strict=True
        ):
            assert torch.equal(a, b)
    assert again.tokenizer("a red circle").input_ids == parts.tokenizer("a red circle").input_ids


def test_from_scratch_is_the_same_architecture_and_other_weights(micro_parts):
    unet = micro_parts().denoiser
    state = torch.get_rng_state()
    one, same, other = (model_parts.from_scratch(unet, seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert dict(one.config) == dict(unet.config)
    first = [next(u.parameters()) for u in (unet, one, same, other)]
    assert torch.equal(first[1], first[2])
    assert not torch.equal(first[1], first[3])
    assert not torch.equal(first[0], first[1])


@pytest.mark.parametrize("name", MINIATURES)
def test_the_parts_of_every_family_make_the_pipeline_again(name):
    pipeline = MINIATURES[name]()
    parts = model_parts.Parts(pipeline)
    again = parts.assemble()
    assert type(again) is type(pipeline)
    assert again.scheduler is not pipeline.scheduler
    assert dict(again.scheduler.config) == dict(pipeline.scheduler.config)
    for part, network in parts.networks.items():
        assert getattr(again, part) is network
    numbers = [n for n in ("", "_2", "_3") if hasattr(pipeline, f"text_encoder{n}")]
    assert list(parts.encoders) == [f"text_encoder{n}" for n in numbers]
    assert list(parts.tokenizers) == list(parts.encoders)
    for setting in ("force_zeros_for_empty_prompt",):
        assert again.config.get(setting) == pipeline.config.get(setting)
