import json

import pytest
from PIL import Image

from utils.data import caption_files, image_sets
from utils.data.field_names import Columns
from utils.runtime.errors import DataError


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
    return caption_files.read_captions(path, image_sets.list_images("--instance_data_dir", folder))


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
    found, _ = caption_files.read_captions(path, images)
    assert [found[k][0] for k in images.keys] == [f"own {i}" for i in range(12)]
    assert found[images.keys[3]] == ["own 3", "other"]
    rows[1]["text"] = "a line\u2028in two"
    path.write_text("\n".join(json.dumps(r, ensure_ascii=False) for r in rows), encoding="utf-8")
    assert caption_files.read_captions(path, images)[0][images.keys[1]] == ["a line\u2028in two"]
    path.write_text(json.dumps(rows[0]) + '\n{"file_name": "x.png"}\n')
    with pytest.raises(
        DataError, match="line 2 has the columns 'file_name'; name .* by --caption_column"
    ):
        caption_files.read_captions(path, images)


def test_every_captions_file_is_read_by_one_function(tmp_path):
    path = write(tmp_path / "c.json", {"a.png": ["own", "other"], "b.png": "only"})
    lines = tmp_path / "metadata.jsonl"
    lines.write_text(
        '{"file_name": "a.png", "text": ["own", "other"]}\n{"file_name": "b.png", "text": "only"}'
    )
    assert caption_files.read_file(path) == caption_files.read_file(lines)
    (tmp_path / "empty.jsonl").write_text("\n")
    for empty in (tmp_path / "empty.jsonl", write(tmp_path / "list.json", ["a"])):
        with pytest.raises(DataError, match="holds no captions"):
            caption_files.read_file(empty)


def test_several_rows_of_an_image_are_its_captions(folder, tmp_path):
    """As COCO is kept: a row for each caption. The last one must not replace the others."""
    path = tmp_path / "metadata.jsonl"
    rows = [("cats/1.png", "a"), ("cats/2.png", "x"), ("cats/1.png", "b"), ("dogs/1.png", "y")]
    rows += [("cats/1.png", ["c", "d"])]
    path.write_text("\n".join(json.dumps({"file_name": k, "text": t}) for k, t in rows))
    found, _ = read(path, folder)
    assert found["cats/1.png"] == ["a", "b", "c", "d"]
    assert found["cats/2.png"] == ["x"]


def test_a_key_that_stands_twice_in_a_captions_file_is_refused(folder, tmp_path):
    path = tmp_path / "c.json"
    path.write_text('{"cats/1.png": "a", "cats/2.png": "b", "cats/1.png": "c"}')
    with pytest.raises(DataError, match="c.json: .*the key 'cats/1.png' stands twice"):
        read(path, folder)


@pytest.mark.parametrize("caption", ["text", "caption", "prompt", "TEXT", "Captions"])
@pytest.mark.parametrize("image", ["file_name", "image", "path", "filename", "File Name", "key"])
def test_the_usual_names_of_columns_are_known(folder, tmp_path, caption, image):
    path = tmp_path / "metadata.csv"
    keys = ("cats/1.png", "cats/2.png", "dogs/1.png")
    path.write_text(
        f"n,{caption},{image}\n" + "".join(f"{i},t {k},{k}\n" for i, k in enumerate(keys))
    )
    assert read(path, folder)[0] == {k: [f"t {k}"] for k in keys}


def test_columns_that_the_user_names_are_read(folder, tmp_path):
    path = tmp_path / "c.csv"
    keys = ("cats/1.png", "cats/2.png", "dogs/1.png")
    path.write_text("text,long,at\n" + "".join(f"short,long {k},{k}\n" for k in keys))
    images = image_sets.list_images("--d", folder)
    found, _ = caption_files.read_captions(path, images, Columns("long", "at"))
    assert found == {k: [f"long {k}"] for k in keys}
    with pytest.raises(DataError, match="'text', 'long', 'at'; name .* by --image_column"):
        caption_files.read_captions(path, images)
    with pytest.raises(
        DataError, match="--caption_column='body': .* has the columns 'text', 'long', 'at'"
    ):
        caption_files.read_captions(path, images, Columns("body", "at"))


def test_a_column_of_a_file_without_columns_is_refused(folder, tmp_path):
    path = write(tmp_path / "c.json", {"cats/1.png": "a"})
    images = image_sets.list_images("--d", folder)
    with pytest.raises(DataError, match="--caption_column='text': .* has no columns"):
        caption_files.read_captions(path, images, Columns("text"))


def test_json_of_objects_and_annotations_of_coco_are_captions(folder, tmp_path):
    keys = ("cats/1.png", "cats/2.png", "dogs/1.png")
    expected = {k: [f"about {k}"] for k in keys}
    listed = write(tmp_path / "l.json", [{"image": k, "caption": f"about {k}"} for k in keys])
    tagged = write(tmp_path / "t.json", {k: {"tags": "x", "caption": f"about {k}"} for k in keys})
    coco = write(
        tmp_path / "coco.json",
        {
            "images": [{"id": 7 + i, "file_name": k} for i, k in enumerate(keys)],
            "annotations": [
                {"id": i, "image_id": 7 + i, "caption": f"about {k}"} for i, k in enumerate(keys)
            ]
            + [{"id": 9, "image_id": 7, "caption": "again"}],
        },
    )
    assert read(listed, folder)[0] == expected
    assert read(tagged, folder)[0] == expected
    assert read(coco, folder)[0] == expected | {"cats/1.png": ["about cats/1.png", "again"]}
    with pytest.raises(DataError, match="is not whole as annotations of COCO"):
        read(write(coco, {"images": [{}], "annotations": []}), folder)


def test_pictures_in_a_parquet_file_are_named_by_their_path(folder, tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    keys = ("cats/1.png", "cats/2.png", "dogs/1.png")
    table = pyarrow.table(
        {
            "image": [{"bytes": b"x" * 9, "path": k} for k in keys],
            "captions": [[k, "other"] for k in keys],
        }
    )
    parquet.write_table(table, tmp_path / "metadata.parquet")
    assert read(tmp_path / "metadata.parquet", folder)[0] == {k: [k, "other"] for k in keys}
