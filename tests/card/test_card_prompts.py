import json

from utils.card import card_prompts
from utils.generation.prompt_files import read_prompts
from utils.generation.sampling import Prompt

CAPTIONS = {f"{i}.png": f"caption {i}" for i in range(20)}
MANY = [f"{i}.png" for i in range(4)]


def test_captions_are_drawn_by_turns_from_duplicated_and_other_pictures():
    prompts = card_prompts.drawn(CAPTIONS, MANY, most=10, seed=0)
    assert [each.source_image in MANY for each in prompts] == [True, False] * 4 + [False] * 2
    assert all(each.text == CAPTIONS[each.source_image] for each in prompts)
    assert len({each.source_image for each in prompts}) == 10
    assert card_prompts.drawn(CAPTIONS, MANY, most=6, seed=0) == prompts[:6]
    assert card_prompts.drawn(CAPTIONS, MANY, most=10, seed=1) != prompts


def test_all_captions_are_used_where_there_are_few():
    assert len(card_prompts.drawn(CAPTIONS, MANY, most=64, seed=0)) == 20
    assert len(card_prompts.drawn(CAPTIONS, (), most=64, seed=0)) == 20


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
