import json

from utils.card import card_prompts
from utils.generation.prompt_files import read_prompts
from utils.generation.sampling import Prompt


def test_half_of_the_words_are_replaced_by_words_of_other_captions():
    prompts = [Prompt("a red circle on blue", "1"), Prompt("one big green square", "2")]
    first, second = card_prompts.with_words_replaced(prompts, seed=0)
    words = {word for prompt in prompts for word in prompt.text.split()}
    for old, new, changed in ((prompts[0], first, 3), (prompts[1], second, 2)):
        pairs = list(zip(old.text.split(), new.text.split(), strict=True))
        assert sum(a != b for a, b in pairs) == changed
        assert {b for _, b in pairs} <= words
        assert new.source_image == old.source_image
    assert card_prompts.with_words_replaced(prompts, seed=0) == [first, second]
    assert card_prompts.with_words_replaced([Prompt("word")], seed=0) == [Prompt("word")]


def test_a_file_of_prompts_is_read_back(tmp_path):
    for name, prompts in (
        ("captions", [Prompt("b", "2.png"), Prompt("a", "1.png")]),
        ("list", [Prompt("a"), Prompt("a")]),
    ):
        card_prompts.write(tmp_path / f"{name}.json", prompts)
        assert read_prompts(tmp_path / f"{name}.json") == prompts
    # two prompts of one picture do not fit into a captions file
    card_prompts.write(tmp_path / "both.json", [Prompt("a", "1"), Prompt("b", "1")])
    assert json.loads((tmp_path / "both.json").read_text()) == ["a", "b"]
