import json

import pytest
from PIL import Image

from utils.cli import flags
from utils.cli.train_options import TrainOptions
from utils.data import captions, image_sets
from utils.data.caption_edits import RandomTokens
from utils.runtime.errors import DataError, UsageError


@pytest.fixture
def folder(tmp_path):
    for name in ("cats/1.png", "cats/2.png", "dogs/1.png"):
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(path)
    return tmp_path / "data"


def write(path, data):
    path.write_text(json.dumps(data))
    return path


def read(path, folder):
    return captions.read_captions(path, image_sets.list_images("--instance_data_dir", folder))


def test_keys_relative_to_the_folder_to_the_file_and_absolute(folder, tmp_path):
    keys = ["cats/1.png", "data/cats/2.png", str(folder / "dogs" / "1.png")]
    path = write(tmp_path / "c.json", {k: [f"caption {i}", "other"] for i, k in enumerate(keys)})
    found, foreign = read(path, folder)
    assert {k: v[0] for k, v in found.items()} == {
        "cats/1.png": "caption 0",
        "cats/2.png": "caption 1",
        "dogs/1.png": "caption 2",
    }
    assert foreign == 0


def test_foreign_absolute_keys_match_by_their_longest_suffix(folder, tmp_path):
    path = write(
        tmp_path / "c.json",
        {f"/home/author/set/{k}": k for k in ("cats/1.png", "cats/2.png", "dogs/1.png")},
    )
    found, foreign = read(path, folder)
    # a plain string is a list of one
    assert found == {k: [k] for k in ("cats/1.png", "cats/2.png", "dogs/1.png")}
    assert foreign == 3


def test_an_ambiguous_foreign_key_is_an_error(folder, tmp_path):
    texts = {
        "/home/a/cats/1.png": "one",
        "/home/b/cats/1.png": "two",
        "/x/cats/2.png": "",
        "/x/dogs/1.png": "",
    }
    with pytest.raises(
        DataError,
        match="'/home/a/cats/1.png' and '/home/b/cats/1.png' both end like the image 'cats/1.png'",
    ):
        read(write(tmp_path / "c.json", texts), folder)


def test_a_name_that_two_images_share_is_an_error_where_one_has_no_other_key(folder, tmp_path):
    path = write(tmp_path / "c.json", {"/elsewhere/1.png": "which one?"})
    with pytest.raises(
        DataError, match="'/elsewhere/1.png' ends like 2 images, 'cats/1.png' and 'dogs/1.png'"
    ):
        read(path, folder)


def test_a_superset_of_foreign_keys_is_no_ambiguity(folder, tmp_path):
    keys = ("cats/1.png", "cats/2.png", "dogs/1.png", "birds/2.png", "birds/1.png")
    found, foreign = read(write(tmp_path / "c.json", {f"/home/a/set/{k}": k for k in keys}), folder)
    assert found == {k: [k] for k in keys[:3]}
    assert foreign == 3


def test_keys_may_climb_out_of_their_folder(folder, tmp_path):
    (tmp_path / "notes").mkdir()
    texts = {f"../data/{k}": k for k in ("cats/1.png", "cats/2.png", "dogs/1.png")}
    found, _ = read(write(tmp_path / "notes" / "c.json", texts), folder)
    assert found["dogs/1.png"] == ["dogs/1.png"]


def test_missing_captions_are_counted_and_the_first_is_named(folder, tmp_path):
    path = write(tmp_path / "c.json", {"cats/2.png": ["x"]})
    with pytest.raises(DataError, match="2 of 3 images have no caption, first 'cats/1.png'"):
        read(path, folder)


@pytest.mark.parametrize("value", [[], 3, [1], None])
def test_what_is_no_caption_is_named(folder, tmp_path, value):
    path = write(
        tmp_path / "c.json", dict.fromkeys(("cats/1.png", "cats/2.png", "dogs/1.png"), value)
    )
    with pytest.raises(DataError, match="'cats/1.png' has .*; use a caption or a list of captions"):
        read(path, folder)


def test_a_relative_key_matches_anywhere_only_as_a_whole_and_on_request(folder):
    keys = ["cats/1.png", "cats/2.png", "dogs/1.png"]
    found, _ = captions.match_keys(
        folder / "m.json", ["data/cats/1.png", "x/dogs/1.png"], folder, keys, anywhere=True
    )
    assert found == {"cats/1.png": "data/cats/1.png"}
    assert captions.match_keys(folder / "m.json", ["data/cats/1.png"], folder, keys) == ({}, 0)


def test_classes_are_folders_with_readable_names(folder):
    images = image_sets.list_images("--d", folder)
    assert captions.class_names(images) == ["cats", "dogs"]
    assert captions.class_of("n02979186/a.jpg") == "cassette player"
    assert captions.class_of("train/cats/1.png") == "cats"
    assert captions.class_of("1.png") is None
    (folder / "empty").mkdir()
    assert captions.empty_classes(images) == ["empty"]


def test_prompt_styles(folder, micro_parts):
    images = image_sets.list_images("--d", folder)
    texts = {k: [f"own {k}", "other"] for k in images.keys}

    def resolved(style, **kwargs):
        return captions.resolve_prompts(style, images, **kwargs)

    assert set(map(tuple, resolved("nolevel").values())) == {("An image",)}
    assert resolved("classlevel")["dogs/1.png"] == ["An image of dogs"]
    for style in ("instancelevel_blip", "instancelevel_ogcap"):
        assert resolved(style, captions=texts) == texts
    tokenizer = micro_parts().tokenizer
    drawn = resolved("instancelevel_random", tokenizer=tokenizer, seed=1)
    assert {len(v) for v in drawn.values()} == {10}
    assert len({c for v in drawn.values() for c in v}) == 30
    assert drawn == resolved("instancelevel_random", tokenizer=tokenizer, seed=1)
    assert drawn != resolved("instancelevel_random", tokenizer=tokenizer, seed=2)
    # an image keeps its captions when others leave
    fewer = captions.resolve_prompts(
        "instancelevel_random", images.take([2]), tokenizer=tokenizer, seed=1
    )
    assert fewer["dogs/1.png"] == drawn["dogs/1.png"]


def test_random_ids_from_a_file_are_json_integers_and_nothing_else(micro_parts):
    tokenizer = micro_parts().tokenizer
    tokens = RandomTokens(tokenizer)
    assert captions.parse_ids("[3, 4, 5, 6]", tokens) == [3, 4, 5, 6]
    for text in ("a photo of a cat", "__import__('os').getcwd()", "[1.5]", "[]", "{}", "[true]"):
        with pytest.raises(DataError, match="needs lists of token ids, not the caption"):
            captions.parse_ids(text, tokens)
    with pytest.raises(DataError, match="has the id 999999, which the tokenizer does not have"):
        captions.parse_ids("[1, 999999]", tokens)
    with pytest.raises(DataError, match="which the tokenizer does not have"):
        captions.parse_ids(f"[{tokenizer.eos_token_id}]", tokens)


def test_classlevel_without_class_folders_is_an_error(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "1.png")
    images = image_sets.list_images("--d", tmp_path)
    with pytest.raises(
        UsageError,
        match="--class_prompt='classlevel' needs a folder for each class; 1 images .* first '1.png'",
    ):
        captions.resolve_prompts("classlevel", images)


def test_captions_of_a_metadata_jsonl(scenes_dir, tmp_path):
    images = image_sets.list_images("--d", scenes_dir / "train")
    path = tmp_path / "metadata.jsonl"
    rows = [
        {
            "file_name": k,
            "text" if i % 2 else "caption": [f"own {i}", "other"] if i == 3 else f"own {i}",
        }
        for i, k in enumerate(images.keys)
    ]
    path.write_text("\n".join(json.dumps(r) for r in rows) + "\n\n")
    found, _ = captions.read_captions(path, images)
    assert [found[k][0] for k in images.keys] == [f"own {i}" for i in range(12)]
    assert found[images.keys[3]] == ["own 3", "other"]
    rows[1]["text"] = "a line\u2028in two"
    path.write_text("\n".join(json.dumps(r, ensure_ascii=False) for r in rows), encoding="utf-8")
    assert captions.read_captions(path, images)[0][images.keys[1]] == ["a line\u2028in two"]
    path.write_text(json.dumps(rows[0]) + '\n{"file_name": "x.png"}\n')
    with pytest.raises(
        DataError, match="line 2 is .*use an object with file_name and text or caption"
    ):
        captions.read_captions(path, images)


def test_a_new_prompt_style_is_a_function_and_a_line(folder, monkeypatch):
    def last(images, texts, tokens, seed):
        return {k: texts[k][-1:] for k in images.keys}

    style = captions.PromptStyle(last, uses_captions=True, needs_captions=True)
    monkeypatch.setitem(captions.PROMPT_STYLES, "last", style)
    images = image_sets.list_images("--d", folder)
    texts = {k: ["own", f"last of {k}"] for k in images.keys}
    resolved = captions.resolve_prompts("last", images, captions=texts)
    assert resolved["dogs/1.png"] == ["last of dogs/1.png"]
    needed = ["--pretrained_model_name_or_path", "m", "--instance_data_dir", str(folder)]
    with pytest.raises(UsageError, match="--class_prompt='last' needs --instance_prompt_loc"):
        parse_training([*needed, "--class_prompt", "last"])
    opts = parse_training([*needed, "--class_prompt", "last", "--instance_prompt_loc", "c.json"])
    assert opts.class_prompt == "last"


def parse_training(argv):
    return flags.parse(TrainOptions, argv, description=None)


def test_every_captions_file_is_read_by_one_function(tmp_path):
    path = write(tmp_path / "c.json", {"a.png": ["own", "other"], "b.png": "only"})
    lines = tmp_path / "metadata.jsonl"
    lines.write_text(
        '{"file_name": "a.png", "text": ["own", "other"]}\n{"file_name": "b.png", "text": "only"}'
    )
    assert captions.read_file(path) == captions.read_file(lines)
    (tmp_path / "empty.jsonl").write_text("\n")
    for empty in (tmp_path / "empty.jsonl", write(tmp_path / "list.json", ["a"])):
        with pytest.raises(DataError, match="holds no captions"):
            captions.read_file(empty)
