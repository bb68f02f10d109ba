from collections import Counter

import numpy as np
import pytest

from tests.conftest import ROOT
from utils.data import caption_edits as edits
from utils.data.encoder_window import Window
from utils.models import loading

SHAPES = ("circle", "square", "triangle", "star")


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
    places = Counter(
        edits.insert_words("a b c", lambda: "X", rng, times=1).split().index("X")
        for _ in range(4000)
    )
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


# 48 tokens reach the text encoder of tiny-sd, 46 of them words
@pytest.fixture(scope="module")
def tiny_tokens():
    tokenizer = loading.load_tokenizer("--m", str(ROOT / "assets" / "tiny-sd"))
    assert tokenizer.model_max_length == 48
    return edits.RandomTokens(tokenizer, Window(tokenizer, tokenizer.model_max_length))


LONG = " ".join(f"a {colour} {shape}" for colour in ("red", "blue") for shape in SHAPES)
EDITS = {
    **{name: (edit, 2) for name, edit in edits.PROMPT_EDITS.items()},
    **{f"{name} once": (edit, 1) for name, edit in edits.PROMPT_EDITS.items()},
}


@pytest.mark.parametrize(("edit", "times"), EDITS.values(), ids=EDITS)
@pytest.mark.parametrize("repeats", [2, 6])
def test_every_edit_of_a_long_prompt_changes_what_the_encoder_reads(
    edit, times, repeats, tiny_tokens
):
    prompt, window = " ".join([LONG] * repeats), tiny_tokens.window
    assert not window.holds(prompt)
    before = window.kept(prompt)
    for i in range(60):
        edited = edit(prompt, np.random.default_rng(i), tiny_tokens, times=times)
        assert len(edited.split(" ")) == len(prompt.split(" ")) + times
        assert window.kept(edited) != before


def test_words_inserted_into_a_long_prompt_are_all_read_and_their_places_uniform(tiny_tokens):
    window, words = tiny_tokens.window, ["a"] * 100
    places = Counter()
    for i in range(2000):
        edited = edits.insert_words(
            " ".join(words), lambda: "7", np.random.default_rng(i), times=2, window=window
        )
        found = [at for at, word in enumerate(edited.split(" ")) if word == "7"]
        assert len(found) == 2
        assert found[1] < 46
        places.update(found)
    assert sorted(places) == list(range(46))
    assert max(places.values()) < 2 * min(places.values())


@pytest.mark.parametrize("name", edits.PROMPT_EDITS)
def test_an_edit_whose_words_are_all_read_is_the_published_one_to_the_bit(name, tiny_tokens):
    published, edit = edits.RandomTokens(tiny_tokens._tokenizer), edits.PROMPT_EDITS[name]
    for i in range(50):
        prompt = " ".join(LONG.split(" ")[: 3 + i % 12])
        expected = edit(prompt, np.random.default_rng(i), published, times=2)
        assert edit(prompt, np.random.default_rng(i), tiny_tokens, times=2) == expected


def test_a_prompt_that_only_just_fits_is_edited_where_it_is_read(tiny_tokens):
    window = tiny_tokens.window
    prompt = " ".join(["a", "red"] * 23)
    assert len(window.kept(prompt)) == 47  # the start and 46 words: the window is full
    assert window.holds(prompt)
    for i in range(100):
        edited = edits.add_numbers(prompt, np.random.default_rng(i), tiny_tokens, times=1)
        assert window.kept(edited) != window.kept(prompt)


def test_a_long_caption_repeats_words_that_are_read(tiny_tokens):
    prompt = " ".join(["red"] * 50 + ["blue"] * 50)
    for i in range(50):
        edited = edits.repeat_words(prompt, np.random.default_rng(i), tiny_tokens, times=2)
        assert edited.split(" ").count("blue") == 50
