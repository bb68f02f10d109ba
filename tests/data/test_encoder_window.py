import pytest

from tests.conftest import ROOT
from utils.data.encoder_window import Window, too_long
from utils.models import loading


class Letters:
    """A tokenizer with a token for each letter, and one at each end."""

    def __call__(self, text, *, truncation, verbose):
        class Encoded:
            input_ids = [0, *map(ord, text.replace(" ", "")), 1]

        return Encoded


def test_what_is_read_by_hand():
    window = Window(Letters(), 6)
    assert window.holds("abcd")
    assert window.holds("ab c d")  # six letters with the spaces, but four tokens
    assert not window.holds("abcde")
    assert window.kept("abcdef") == [0, *b"abcd"]
    assert window.leading(["ab", "c", "de", "f"]) == 2
    assert window.leading(["ab", "c", "de", "f"], beside=["xy"]) == 1
    assert window.leading(["abcde"]) == 0
    assert too_long(window, ["abcde", "a", "abcde", "abcdef"]) == ["abcde", "abcdef"]


@pytest.mark.parametrize("text", ["é" * 46, "猫" * 20, "a" * 47, "a " * 46, "a " * 47, "a-b " * 16])
def test_a_text_is_read_whole_if_truncation_takes_nothing_away(text):
    tokenizer = loading.load_tokenizer("--m", str(ROOT / "assets" / "tiny-sd"))
    window = Window(tokenizer, tokenizer.model_max_length)
    cut = tokenizer(text, truncation=True, max_length=48).input_ids
    assert window.holds(text) == (len(tokenizer(text).input_ids) == len(cut))
    assert window.kept(text)[:10] == cut[: len(cut) - 1][:10]
