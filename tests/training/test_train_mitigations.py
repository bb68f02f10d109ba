import numpy as np
import torch

from tests.training.conftest import MITIGATIONS_OFF
from utils.data import duplication
from utils.training import train_mitigations


def hooks(tokenizer, style="nodup", **changes):
    return train_mitigations.train_hooks(
        train_mitigations.chosen(MITIGATIONS_OFF | changes),
        choice=duplication.DUPLICATIONS[style],
        tokenizer=tokenizer,
    )


def test_without_mitigation_nothing_is_edited(micro_parts):
    plain = hooks(micro_parts().tokenizer)
    assert plain.choose_caption(["own", "other"], True, np.random.default_rng(0)) == "own"
    e = torch.randn(2, 3, 4)
    assert plain.edit_embeddings(e, None, ()) is e


def test_a_duplicated_image_draws_its_caption_and_then_the_mitigation_applies(micro_parts):
    both = hooks(
        micro_parts().tokenizer, style="dup_image", trainspecial="wordrepeat", trainspecial_prob=1.0
    )
    drawn = [
        both.choose_caption(["own one", "other two"], True, np.random.default_rng(i))
        for i in range(40)
    ]
    assert any("other" in d for d in drawn)
    assert any("own" in d for d in drawn)
    assert all(len(d.split()) == 4 for d in drawn)
    plain = [
        both.choose_caption(["own one", "other two"], False, np.random.default_rng(i))
        for i in range(40)
    ]
    assert not any("other" in d for d in plain)


def test_embeddings_are_mixed_and_then_noised(micro_parts):
    e, partner, noise = torch.tensor([[[4.0]]]), torch.tensor([[[8.0]]]), torch.tensor([[[10.0]]])
    both = hooks(micro_parts().tokenizer, rand_noise_lam=0.1, mixup_noise_lam=0.5)
    found = both.edit_embeddings(e, partner, (0.75, noise))
    torch.testing.assert_close(found, torch.tensor([[[6.0]]]))  # 0.75 * 4 + 0.25 * 8 + 0.1 * 10
