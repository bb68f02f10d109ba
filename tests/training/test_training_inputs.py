import json

import pytest

from tests import tars
from utils.data.field_names import USUAL
from utils.runtime.errors import DataError, UsageError
from utils.training.training_inputs import InputFiles, checked_inputs


@pytest.fixture
def folder(tmp_path):
    """Three pictures without captions."""
    data = tmp_path / "data"
    data.mkdir()
    for number in range(3):
        (data / f"{number}.png").write_bytes(tars.noise(number))
    return data


def checked(folder, style="instancelevel_blip", captions=None):
    """(captions, lines that were printed) of a run on a folder or a tar file."""
    lines = []
    files = InputFiles(
        images=str(folder),
        captions=captions,
        columns=USUAL,
        weights=None,
        prompt_style=style,
        max_bad=0.0,
        workers=0,
    )
    inputs = checked_inputs(files, subset=None, copies=1, say=lines.append)
    return inputs.texts, lines


def test_texts_beside_the_images_are_read_when_no_file_is_named(folder):
    for number in range(3):
        (folder / f"{number}.txt").write_text(f"caption {number}\n\nanother\n")
    texts, lines = checked(folder)
    assert texts == {f"{n}.png": [f"caption {n}", "another"] for n in range(3)}
    assert lines == [
        "captions of 3 of 3 images are read from a text (.txt or .caption) beside each image"
    ]


def test_captions_beside_the_images_that_the_style_does_not_use_are_said(folder):
    assert checked(folder, "nolevel") == (None, [])
    (folder / "0.txt").write_text("caption 0")
    texts, lines = checked(folder, "nolevel")
    assert texts is None
    assert lines == [
        "captions lie beside the images (a text (.txt or .caption) beside each image) and are not"
        " used under --class_prompt='nolevel'; for training on them use --class_prompt"
        " instancelevel_blip or instancelevel_ogcap"
    ]


def test_captions_json_in_the_folder_is_read_and_said(folder):
    (folder / "captions.json").write_text(json.dumps({f"{n}.png": ["a", "b"] for n in range(3)}))
    texts, lines = checked(folder)
    assert texts["2.png"] == ["a", "b"]
    assert lines == ["captions of 3 of 3 images are read from captions.json"]


def test_images_without_a_text_are_counted_and_named(folder):
    (folder / "1.txt").write_text("one")
    with pytest.raises(DataError) as error:
        checked(folder)
    assert str(error.value) == (
        f"{folder}: 2 of 3 images have no caption in a text (.txt or .caption) beside each image,"
        " first '0.png', '2.png'"
    )


def test_a_folder_without_captions_is_told_where_they_are_looked_for(folder):
    with pytest.raises(UsageError, match="needs --instance_prompt_loc, a captions file; .*beside"):
        checked(folder)
    assert checked(folder, "nolevel") == (None, [])


def test_random_captions_are_drawn_where_captions_are_text(folder):
    (folder / "captions.json").write_text(json.dumps({f"{n}.png": "a cat" for n in range(3)}))
    texts, lines = checked(folder, "instancelevel_random")
    assert texts is None
    assert lines == ["captions.json holds text, not lists of token ids: random captions are drawn"]
    (folder / "captions.json").write_text(json.dumps({f"{n}.png": "[1, 2]" for n in range(3)}))
    assert checked(folder, "instancelevel_random")[0]["0.png"] == ["[1, 2]"]


@pytest.mark.parametrize("named", [True, False])
def test_empty_captions_are_accepted_counted_and_said(folder, named):
    captions = {"0.png": "", "1.png": ["a", "", " "], "2.png": "b"}
    (folder / "captions.json").write_text(json.dumps(captions))
    texts, lines = checked(folder, captions=str(folder / "captions.json") if named else None)
    assert texts["0.png"] == [""]
    assert lines[-1] == (
        "3 captions of 2 images are empty; they stand for the empty prompt, as caption dropout"
        " uses it"
    )


def test_a_text_in_a_tar_that_cannot_be_used_is_said_and_refused_where_captions_are_needed(
    tmp_path,
):
    members = {"a.png": tars.noise(1), "a.txt": b"caf\xe9", "b.png": tars.noise(2), "b.txt": b"b"}
    tars.write(tmp_path / "0.tar", members)
    fault = "'0.tar/a.png' (a.txt: is not UTF-8 text at line 1, byte 3 (0xe9); save it as UTF-8)"
    texts, lines = checked(tmp_path / "0.tar", "nolevel")
    assert lines[0] == f"1 images have a text that cannot be used, first {fault}"
    assert lines[1].startswith("captions lie beside the images (in their file) and are not used")
    with pytest.raises(DataError) as error:
        checked(tmp_path / "0.tar")
    assert str(error.value) == (
        f"{tmp_path}/0.tar: 1 of 2 images have no caption in their file, first {fault}; use files"
        " with captions, or --instance_prompt_loc"
    )
