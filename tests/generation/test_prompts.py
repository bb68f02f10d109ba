import json

import pytest

from utils.generation import prompts
from utils.generation.model_source import ModelSource
from utils.generation.prompt_files import read_prompts
from utils.runtime.errors import DataError

CAPTIONS = {f"{i}.png": f"caption {i}" for i in range(20)}
MANY = [f"{i}.png" for i in range(4)]


def test_draws_are_uniform_over_classes_or_images_and_repeat():
    resolved = {
        f"{c}/{i}.png": [f"An image of {c}"] for c, n in (("cat", 9), ("dog", 1)) for i in range(n)
    }
    drawn = prompts.draw_prompts(resolved, "classlevel", count=400, seed=0)
    share = sum(p.text == "An image of dog" for p in drawn) / 400
    assert 0.4 < share < 0.6  # over classes, though nine of ten images are cats
    assert all(p.source_image is None for p in drawn)
    captions = {k: [k] for k in resolved}
    drawn = prompts.draw_prompts(captions, "instancelevel_blip", count=400, seed=0)
    assert 0.02 < sum(p.text.startswith("dog") for p in drawn) / 400 < 0.2
    assert all(p.source_image == p.text for p in drawn)
    assert prompts.draw_prompts(captions, "instancelevel_blip", count=7, seed=0) == drawn[:7]


def test_captions_are_drawn_by_turns_from_duplicated_and_other_pictures():
    drawn = prompts.drawn_evenly(CAPTIONS, MANY, most=10, seed=0)
    assert [each.source_image in MANY for each in drawn] == [True, False] * 4 + [False] * 2
    assert all(each.text == CAPTIONS[each.source_image] for each in drawn)
    assert len({each.source_image for each in drawn}) == 10
    assert prompts.drawn_evenly(CAPTIONS, MANY, most=6, seed=0) == drawn[:6]
    assert prompts.drawn_evenly(CAPTIONS, MANY, most=10, seed=1) != drawn


def test_all_captions_are_used_where_there_are_few():
    assert len(prompts.drawn_evenly(CAPTIONS, MANY, most=64, seed=0)) == 20
    assert len(prompts.drawn_evenly(CAPTIONS, (), most=64, seed=0)) == 20


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("p.json", "[]"),
        ("p.json", "[1]"),
        ("p.json", "3"),
        ("p.json", '{"a": []}'),
        ("p.json", '{"a": 3}'),
        ("p.json", '{"info": {}, "images": [{}]}'),
        ("p.txt", " \n"),
        ("p.jsonl", "{}\n"),
        ("p.jsonl", "nonsense\n"),
    ],
)
def test_files_without_prompts_are_errors(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match="p.json|p.txt|p.jsonl"):
        read_prompts(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("p.txt", "a café\r\n\r\na dog\r\n\r\n"),
        ("p.json", '["a café", "a dog"]'),
        ("p.jsonl", '{"prompt": "a café"}\r\n\r\n{"prompt": "a dog"}\r\n'),
        ("p.json", '{"0.png": "a café", "1.png": ["a dog", "it"]}'),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_prompts_are_read_however_an_editor_saved_them(tmp_path, name, text, encoding):
    (tmp_path / name).write_bytes(text.encode(encoding))
    assert [prompt.text for prompt in prompts.read_prompts(tmp_path / name)] == ["a café", "a dog"]


@pytest.mark.parametrize("name", ["p.txt", "p.json", "p.jsonl"])
def test_prompts_that_cannot_be_decoded_are_named_with_line_and_byte(tmp_path, name):
    (tmp_path / name).write_bytes(b'\n["caf\xe9"]\n')
    with pytest.raises(DataError, match=rf"{name}: is not UTF-8 text at line 2, byte 6 \(0xe9\)"):
        prompts.read_prompts(tmp_path / name)


@pytest.mark.parametrize("name", ["p.json", "p.jsonl"])
def test_prompts_that_are_nested_too_deeply_are_one_line(tmp_path, name):
    (tmp_path / name).write_text("[" * 200_000)
    with pytest.raises(DataError, match="is nested too deeply$"):
        prompts.read_prompts(tmp_path / name)


def test_a_captions_file_keeps_its_keys_and_strings_count_as_lists(tmp_path):
    (tmp_path / "c.json").write_text(json.dumps({"a/1.png": ["first", "second"], "b.png": "only"}))
    read = read_prompts(tmp_path / "c.json")
    assert [(p.source_image, p.text) for p in read] == [("a/1.png", "first"), ("b.png", "only")]


def test_a_metadata_jsonl_gives_prompts_and_captions_to_draw_from(tmp_path):
    path = tmp_path / "metadata.jsonl"
    path.write_text(
        '{"file_name": "a/1.png", "text": ["first", "second"]}\n{"file_name": "b.png", "text": "x"}\n'
    )
    read = read_prompts(path)
    assert [(p.source_image, p.text) for p in read] == [("a/1.png", "first"), ("b.png", "x")]
    request = prompts.PromptRequest(count=20, style="instancelevel_blip", captions=str(path))
    model = ModelSource("--modelpath", "unused")
    drawn, style = prompts.choose_prompts(request, model, say=pytest.fail)
    assert style == "instancelevel_blip"
    assert {(p.source_image, p.text) for p in drawn} == {("a/1.png", "first"), ("b.png", "x")}


def test_four_thousand_of_a_captions_file_of_ten_thousand(tmp_path):
    """As the second project evaluates: prompts in the file's order, each with its image."""
    (tmp_path / "c.json").write_text(
        json.dumps({f"{i}.png": [f"caption {i}", "other"] for i in range(10_000)})
    )
    request = prompts.PromptRequest(file=str(tmp_path / "c.json"), count=4000)
    model = ModelSource("--modelpath", "unused")
    read, style = prompts.choose_prompts(request, model, say=pytest.fail)
    assert style is None
    assert [(p.text, p.source_image) for p in read] == [
        (f"caption {i}", f"{i}.png") for i in range(4000)
    ]
