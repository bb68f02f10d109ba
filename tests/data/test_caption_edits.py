from collections import Counter

import numpy as np
import pytest

from utils.data import caption_edits as edits


class Digits:
    """A tokenizer of ten ids, two of them special."""

    all_special_ids = [0, 9]

    def __len__(self):
        return 10

    def decode(self, ids, **kwargs):
        return " ".join(f"t{i}" for i in ids)


class Scripted:
    """A generator that answers integers() from a list, to follow an edit by hand."""

    def __init__(self, *values):
        self.values = list(values)

    def integers(self, limit, size=None):
        if size is not None:
            return [self.integers(limit) for _ in range(size)]
        value = self.values.pop(0)
        assert 0 <= value < limit
        return value

    def random(self):
        return self.values.pop(0)


@pytest.fixture
def tokens():
    return edits.RandomTokens(Digits())


def test_random_ids_are_uniform_without_special_ones(tokens):
    drawn = Counter(tokens.draw_ids(8000, np.random.default_rng(0)))
    assert sorted(drawn) == [1, 2, 3, 4, 5, 6, 7, 8]
    assert max(abs(n - 1000) for n in drawn.values()) < 5 * np.sqrt(1000)


def test_word_addition_by_hand(tokens):
    # token 5 before word 1, then token 2 after all four words
    assert edits.add_tokens("a b c", Scripted(4, 1, 1, 4), tokens, times=2) == "a t5 b c t2"


def test_repetition_takes_words_of_the_original_caption(tokens):
    # "c" at the front; then word 2 of the *original* is still "c", though the edited one has "b"
    # there
    assert edits.repeat_words("a b c", Scripted(2, 0, 2, 4), tokens, times=2) == "c a b c c"


def test_numbers_are_below_100_000(tokens):
    assert edits.add_numbers("a b", Scripted(99_999, 2), tokens, times=1) == "a b 99999"
    rng = np.random.default_rng(1)
    found = [
        int(edits.add_numbers("x", rng, tokens, times=1).replace("x", "").strip())
        for _ in range(300)
    ]
    assert 0 <= min(found) < 10_000
    assert 90_000 < max(found) < 100_000


def test_insertion_is_uniform_over_all_positions():
    rng = np.random.default_rng(0)
    places = Counter(edits.insert_word("a b c", "X", rng).split().index("X") for _ in range(4000))
    assert sorted(places) == [0, 1, 2, 3]
    assert max(abs(n - 1000) for n in places.values()) < 5 * np.sqrt(1000)


def test_replacement_is_four_tokens(tokens):
    assert (
        edits.TRAIN_EDITS["randrepl"]("own", ["own"], Scripted(0.0, 0, 1, 2, 3), tokens, 0.5)
        == "t1 t2 t3 t4"
    )


@pytest.mark.parametrize("name", ["randrepl", "randwordadd", "wordrepeat"])
def test_train_edits_apply_with_their_probability(name, tokens):
    rng = np.random.default_rng(0)
    changed = [
        edits.TRAIN_EDITS[name]("a b c", ["a b c"], rng, tokens, 0.1) != "a b c"
        for _ in range(2000)
    ]
    assert np.mean(changed) == pytest.approx(0.1, abs=0.035)
    assert edits.TRAIN_EDITS[name]("a b c", ["a b c"], rng, tokens, 0.0) == "a b c"
    words = [
        len(edits.TRAIN_EDITS[name]("a b c", ["a b c"], rng, tokens, 1.0).split())
        for _ in range(20)
    ]
    assert set(words) == {4 if name == "randrepl" else 5}


def test_all_captions_ignores_the_probability_and_is_uniform(tokens):
    rng = np.random.default_rng(0)
    drawn = Counter(
        edits.TRAIN_EDITS["allcaps"]("a", ["a", "b", "c"], rng, tokens, 0.0) for _ in range(3000)
    )
    assert sorted(drawn) == ["a", "b", "c"]
    assert max(abs(n - 1000) for n in drawn.values()) < 5 * np.sqrt(1000)


def test_edits_of_a_real_tokenizer_are_known_ids(micro_parts):
    tokenizer = micro_parts().tokenizer
    drawn = edits.RandomTokens(tokenizer)
    assert not set(drawn.ids) & set(tokenizer.all_special_ids)
    assert len(drawn.ids) == len(tokenizer) - 2
