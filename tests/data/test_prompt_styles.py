import pytest
from PIL import Image

from utils.cli import flags
from utils.cli.train_options import TrainOptions
from utils.data import image_sets, prompt_styles
from utils.data.caption_edits import RandomTokens
from utils.runtime.errors import DataError, UsageError


@pytest.fixture
def folder(tmp_path):
    for name in ("cats/1.png", "cats/2.png", "dogs/1.png"):
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(path)
    return tmp_path / "data"


def test_classes_are_folders_with_readable_names(folder):
    images = image_sets.list_images("--d", folder)
    assert prompt_styles.class_names(images) == ["cats", "dogs"]
    assert prompt_styles.class_of("n02979186/a.jpg") == "cassette player"
    assert prompt_styles.class_of("train/cats/1.png") == "cats"
    assert prompt_styles.class_of("1.png") is None
    (folder / "empty").mkdir()
    assert prompt_styles.empty_classes(images) == ["empty"]


def test_prompt_styles(folder, micro_parts):
    images = image_sets.list_images("--d", folder)
    texts = {k: [f"own {k}", "other"] for k in images.keys}

    def resolved(style, **kwargs):
        return prompt_styles.resolve_prompts(style, images, **kwargs)

    assert set(map(tuple, resolved("nolevel").values())) == {("An image",)}
    assert set(map(tuple, resolved("nolevel", prompt="sks cat").values())) == {("sks cat",)}
    assert resolved("classlevel", prompt="sks cat") == resolved("classlevel")
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
    fewer = prompt_styles.resolve_prompts(
        "instancelevel_random", images.take([2]), tokenizer=tokenizer, seed=1
    )
    assert fewer["dogs/1.png"] == drawn["dogs/1.png"]


def test_random_ids_from_a_file_are_json_integers_and_nothing_else(micro_parts):
    tokenizer = micro_parts().tokenizer
    tokens = RandomTokens(tokenizer)
    assert prompt_styles.parse_ids("[3, 4, 5, 6]", tokens) == [3, 4, 5, 6]
    for text in ("a photo of a cat", "__import__('os').getcwd()", "[1.5]", "[]", "{}", "[true]"):
        with pytest.raises(DataError, match="needs lists of token ids, not the caption"):
            prompt_styles.parse_ids(text, tokens)
    with pytest.raises(DataError, match="has the id 999999, which the tokenizer does not have"):
        prompt_styles.parse_ids("[1, 999999]", tokens)
    with pytest.raises(DataError, match="which the tokenizer does not have"):
        prompt_styles.parse_ids(f"[{tokenizer.eos_token_id}]", tokens)


def test_classlevel_without_class_folders_is_an_error(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "1.png")
    images = image_sets.list_images("--d", tmp_path)
    with pytest.raises(
        UsageError,
        match="--class_prompt='classlevel' needs a folder for each class; 1 images .* first '1.png'",
    ):
        prompt_styles.resolve_prompts("classlevel", images)


def parse_training(argv):
    return flags.parse(TrainOptions, argv, description=None)


def test_a_new_prompt_style_is_a_function_and_a_line(folder, monkeypatch):
    def last(images, texts, tokens, seed):
        return {k: texts[k][-1:] for k in images.keys}

    style = prompt_styles.PromptStyle(last, uses_captions=True, needs_captions=True)
    monkeypatch.setitem(prompt_styles.PROMPT_STYLES, "last", style)
    images = image_sets.list_images("--d", folder)
    texts = {k: ["own", f"last of {k}"] for k in images.keys}
    resolved = prompt_styles.resolve_prompts("last", images, captions=texts)
    assert resolved["dogs/1.png"] == ["last of dogs/1.png"]
    needed = ["--pretrained_model_name_or_path", "m", "--instance_data_dir", str(folder)]
    with pytest.raises(UsageError, match="--class_prompt='last' needs --instance_prompt_loc"):
        parse_training([*needed, "--class_prompt", "last"])
    opts = parse_training([*needed, "--class_prompt", "last", "--instance_prompt_loc", "c.json"])
    assert opts.class_prompt == "last"
