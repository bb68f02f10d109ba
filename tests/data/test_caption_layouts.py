import json

import pytest
from PIL import Image

from utils.data import caption_files, caption_layouts, image_sets
from utils.runtime.errors import DataError

BESIDE = "a text (.txt or .caption) beside each image"


@pytest.fixture
def folder(tmp_path):
    """Three images without captions, one in a folder below."""
    for name in ("photo.2024.00.png", "photo.2024.01.png", "cats/1.png"):
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(path)
    return tmp_path / "data"


def listed(folder):
    return image_sets.list_images("--instance_data_dir", folder)


def write_texts(folder, **texts):
    """Texts beside the images; a name holds __ for a dot."""
    for name, text in texts.items():
        (folder / name.replace("__", ".")).write_text(text)


def test_a_folder_without_captions_has_no_layout(folder):
    write_texts(folder, readme__txt="about", photo__txt="no image has this stem")
    assert caption_layouts.find(listed(folder)) is None
    assert caption_layouts.may_hold(folder)  # by the name of readme.txt
    assert not caption_layouts.may_hold(folder / "cats")
    assert not caption_layouts.may_hold(folder / "none")


def test_a_text_beside_an_image_is_read_and_each_line_that_is_not_blank_is_a_caption(folder):
    write_texts(
        folder,
        photo__2024__00__txt="\ufeffa red cat\r\n\r\n two cats \r\n\r\n",
        photo__2024__01__CAPTION="a dog",
    )
    write_texts(folder / "cats", **{"1__txt": "one"})
    found = caption_layouts.find(listed(folder))
    assert found.captions == {
        "cats/1.png": ["one"],
        "photo.2024.00.png": ["a red cat", "two cats"],
        "photo.2024.01.png": ["a dog"],
    }
    assert found.line == f"captions of 3 of 3 images are read from {BESIDE}"


def test_images_without_a_text_are_counted_and_named(folder):
    write_texts(folder, photo__2024__00__txt="a cat", photo__2024__01__txt=" \n\n")
    found = caption_layouts.find(listed(folder))
    assert (
        found.line == f"captions of 1 of 3 images are read from {BESIDE}; 1 texts hold no caption"
    )
    with pytest.raises(DataError) as error:
        caption_files.require_all(folder, found.captions, listed(folder), within=found.layout)
    assert str(error.value) == (
        f"{folder}: 2 of 3 images have no caption in {BESIDE}, first 'cats/1.png',"
        " 'photo.2024.01.png'"
    )


def test_a_txt_goes_before_a_caption_and_two_files_of_one_kind_are_refused(folder):
    write_texts(folder, photo__2024__00__txt="tags", photo__2024__00__caption="a sentence")
    found = caption_layouts.find(listed(folder))
    assert found.captions == {"photo.2024.00.png": ["tags"]}
    assert found.line.endswith("; 1 images have .txt and .caption, and .txt is read")
    write_texts(folder, photo__2024__00__TXT="other tags")
    with pytest.raises(DataError, match=r"and 'photo.2024.00.txt' are both texts of 'photo"):
        caption_layouts.find(listed(folder))


def test_captions_json_in_the_folder_is_read_before_texts_and_the_line_says_so(folder):
    (folder / "captions.json").write_text(json.dumps({"cats/1.png": ["a", "b"], "other.png": "c"}))
    write_texts(folder, photo__2024__00__txt="a cat")
    found = caption_layouts.find(listed(folder))
    assert (found.captions, found.layout) == ({"cats/1.png": ["a", "b"]}, "captions.json")
    assert found.line == (
        "captions of 1 of 3 images are read from captions.json; not from"
        f" {BESIDE} (1 files), because captions.json goes first"
    )
    (folder / "metadata.jsonl").write_text('{"file_name": "cats/1.png", "text": "d"}\n')
    found = caption_layouts.find(listed(folder))
    assert found.captions == {"cats/1.png": ["d"]}
    assert "not from captions.json (1 files) and a text" in found.line


def test_where_captions_are_welcome_and_not_needed_a_line_says_why_they_cannot_be_used(folder):
    lines = []
    assert caption_layouts.find_or_say(listed(folder), lines.append) == {}
    assert lines == []
    (folder / "captions.json").write_text("[" * 200_000)
    assert caption_layouts.find_or_say(listed(folder), lines.append) == {}
    assert lines == [
        f"captions beside the images are not used: {folder}/captions.json: is nested too deeply"
    ]


def test_empty_captions_are_counted():
    lines = []
    caption_layouts.say_empty([["a"], ["", "b", " "], [""]], lines.append)
    caption_layouts.say_empty([["a"]], lines.append)
    assert lines == [
        "3 captions of 2 images are empty; they stand for the empty prompt, as caption dropout"
        " uses it"
    ]
