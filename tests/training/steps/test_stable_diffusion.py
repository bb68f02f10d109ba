import pytest
import torch

from tests.pipelines import embed
from utils.runtime.errors import UsageError
from utils.training import steps


def test_prompts_are_cut_and_padded_to_the_tokenizers_length(micro_parts):
    parts = micro_parts()
    step, prompts = steps.of(parts), ["a", "b " * 100]
    ids = step.token_ids(parts, prompts)
    assert {name: tuple(each.shape) for name, each in ids.items()} == {"text_encoder": (2, 32)}
    with torch.no_grad():
        text = step.text(parts.encoders, ids)
        assert torch.equal(text["tokens"], embed(parts, prompts))
    assert {name: tuple(each.shape[1:]) for name, each in text.items()} == step.text_shapes(parts)


def test_a_model_that_predicts_images_is_refused(micro_parts):
    parts = micro_parts("sample")
    with pytest.raises(UsageError, match="--m='x' predicts 'sample'; training needs one of: eps"):
        steps.of(parts).require_trainable("--m", "x", parts)
    for kind in ("epsilon", "v_prediction"):
        parts = micro_parts(kind)
        steps.of(parts).require_trainable("--m", "x", parts)
