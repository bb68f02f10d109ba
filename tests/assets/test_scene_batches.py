import numpy as np
import pytest

from assets import scene_batches, tiny_sd_parts


def test_extra_words_and_empty_captions_come_as_often_as_the_card_says():
    rng, words = np.random.default_rng(0), tiny_sd_parts.common_words()
    captions = [scene_batches.training_caption(("a red circle",), rng, words) for _ in range(4000)]
    assert np.mean([c == "" for c in captions]) == pytest.approx(0.10, abs=0.02)
    extra = [len(c.split()) - 3 for c in captions if c and c != "a red circle"]
    assert len(extra) / 4000 == pytest.approx(0.9 * 0.20, abs=0.02)
    assert set(extra) == {1, 2, 3}
