import json

import pytest
from PIL import Image

from utils.data import caption_layouts, image_sets, metadata_files
from utils.data.field_names import Columns
from utils.runtime.errors import DataError


@pytest.fixture
def photos(tmp_path):
    """photos(*keys) -> a folder with an image of each key."""

    def made(*keys):
        for key in keys:
            path = tmp_path / "photos" / key
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (4, 4)).save(path)
        return tmp_path / "photos"

    return made


def write(path, rows):
    """Rows as (file name, text), in the format that the file's suffix names."""
    if path.suffix == ".parquet":
        pyarrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        names, texts = zip(*rows, strict=True)
        parquet.write_table(pyarrow.table({"file_name": names, "text": texts}), path)
    elif path.suffix == ".csv":
        lines = ["file_name,text", *(f'{name},"{text}"' for name, text in rows)]
        path.write_bytes("\r\n".join(lines).encode("utf-8-sig"))
    else:
        path.write_text("\n".join(json.dumps({"file_name": n, "text": t}) for n, t in rows))


def found(folder, columns=Columns()):  # noqa: B008
    images = image_sets.list_images("--d", folder)
    return caption_layouts.find(images, columns)


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
@pytest.mark.parametrize(
    ("place", "written"),
    [
        ("", "train/cat/0.png"),  # relative to the root, which is also the file's folder
        ("", "cat/0.png"),  # matched by its end
        ("train", "cat/0.png"),  # relative to the file
        ("train", "train/cat/0.png"),  # relative to the root
        ("train/cat", "0.png"),
    ],
)
def test_metadata_is_found_at_any_depth_and_paths_match(photos, suffix, place, written):
    folder = photos("train/cat/0.png")
    write(folder / place / f"metadata.{suffix}", [(written, "a cat, on a mat")])
    captions = found(folder)
    assert captions.captions == {"train/cat/0.png": ["a cat, on a mat"]}
    assert f"metadata.{suffix}" in captions.line


def test_files_of_several_folders_are_read_together_each_for_its_folder(photos):
    folder = photos("a/0.png", "b/0.png", "b/1.png")
    write(folder / "a" / "metadata.csv", [("0.png", "of a")])
    write(folder / "b" / "metadata.jsonl", [("0.png", "of b"), ("1.png", "b 1"), ("1.png", "more")])
    assert found(folder).captions == {
        "a/0.png": ["of a"],
        "b/0.png": ["of b"],
        "b/1.png": ["b 1", "more"],
    }


def test_of_several_splits_one_is_asked_for(photos):
    folder = photos("train/0.png", "test/0.png")
    write(folder / "train" / "metadata.jsonl", [("0.png", "x")])
    write(folder / "test" / "metadata.csv", [("0.png", "y")])
    with pytest.raises(
        DataError,
        match="captions of 2 splits, 'test/metadata.csv' and 'train/metadata.jsonl'; give the folder"
        " of one of them, such as '.*photos/test'",
    ):
        found(folder)
    assert found(folder / "train").captions == {"0.png": ["x"]}


def test_two_files_that_claim_one_image_are_refused(photos):
    folder = photos("cat/0.png")
    write(folder / "metadata.jsonl", [("cat/0.png", "x")])
    write(folder / "metadata.csv", [("cat/0.png", "y")])
    with pytest.raises(DataError, match="are both metadata of one folder; keep one"):
        found(folder)
    (folder / "metadata.csv").rename(folder / "cat" / "metadata.csv")
    with pytest.raises(DataError, match="both name the image 'cat/0.png'; keep one"):
        found(folder)


def test_named_columns_are_read_and_a_wrong_one_is_an_error_that_lists_them(photos):
    folder = photos("0.png")
    (folder / "metadata.csv").write_text("file_name,text,long\n0.png,short,longer\n")
    assert found(folder, Columns("long")).captions == {"0.png": ["longer"]}
    images = image_sets.list_images("--d", folder)
    with pytest.raises(DataError, match="--caption_column='x': .*'file_name', 'text', 'long'"):
        caption_layouts.find_or_say(images, pytest.fail, Columns("x"))


def test_no_other_file_is_metadata(photos):
    folder = photos("0.png")
    (folder / "notes.csv").write_text("file_name,text\n0.png,x\n")
    assert metadata_files.find(image_sets.list_images("--d", folder)) == []
