import numpy as np
import pyarrow as pa
import pytest

from tests.tables import picture, write_parquet
from tests.tars import png
from utils.data import parquet_files
from utils.data.field_names import Columns
from utils.runtime.errors import DataError


def listed(source, **how):
    return parquet_files.list_parquet("--instance_data_dir", str(source), **how)


def greys(images):
    return [int(np.asarray(images.open(i))[0, 0, 0]) for i in range(len(images))]


def test_bytes_without_a_struct_and_lists_of_captions_are_read(tmp_path):
    # as exports of lists of addresses write them
    columns = {"key": ["7", "8"], "jpg": [png(1), png(2)], "caption": [["a", "b"], []]}
    images, captions = listed(write_parquet(tmp_path / "0.parquet", columns))
    assert greys(images) == [1, 2]
    assert captions == {"0.parquet/0": ["a", "b"]}


def test_paths_name_the_images_where_each_has_its_own(tmp_path):
    for name, paths, keys in (
        ("a", ["cats/1.png", "dogs/1.png"], ["cats/1.png", "dogs/1.png"]),
        ("b", ["1.png", "1.png"], ["0", "1"]),
        ("c", ["1.png", None], ["0", "1"]),
        ("d", ["../1.png", "2.png"], ["0", "1"]),
        ("e", ["/home/x/1.png", "2.png"], ["0", "1"]),
    ):
        rows = [picture(i, path) for i, path in enumerate(paths)]
        file = write_parquet(tmp_path / f"{name}.parquet", {"image": rows})
        assert listed(file)[0].keys == tuple(f"{name}.parquet/{key}" for key in keys)


def test_rows_without_a_picture_are_bad_and_the_others_keep_their_places(tmp_path):
    rows = [None, picture(10), {"bytes": b"", "path": None}, picture(None, "x.png"), picture(20)]
    images, captions = listed(
        write_parquet(tmp_path / "0.parquet", {"image": rows, "text": list("abcde")}, group=2)
    )
    assert greys(images) == [10, 20]
    assert captions == {"0.parquet/1": ["b"], "0.parquet/4": ["e"]}
    assert images.bad == (
        ("0.parquet/0", "its row is null"),
        ("0.parquet/2", "its row is empty"),
        ("0.parquet/3", "its row holds the path 'x.png' and no bytes"),
    )


def test_captions_of_categories_are_read(tmp_path):
    texts = pa.array(["a", "b", "a"]).dictionary_encode()
    columns = {"image": [png(i) for i in range(3)], "label": [0, 1, 0], "text": texts}
    assert list(listed(write_parquet(tmp_path / "0.parquet", columns))[1].values()) == [
        ["a"],
        ["b"],
        ["a"],
    ]


def test_columns_that_are_named_are_read(tmp_path):
    columns = {
        "image": [png(1)],
        "conditioning": [png(2)],
        "text": ["a"],
        "short": ["b"],
    }
    file = write_parquet(tmp_path / "0.parquet", columns)
    images, captions = listed(file, columns=Columns(caption="short", image="conditioning"))
    assert (greys(images), captions) == ([2], {"0.parquet/0": ["b"]})


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"url": ["x"], "caption": ["a"]},
            r"has no column with the bytes of pictures, only url \(string\), caption \(string\);",
        ),
        (
            {"left": [b"a"], "right": [b"b"]},
            r"the columns 'left', 'right' all hold bytes; name the",
        ),
        (
            {
                "image": pa.array(
                    [None, None], pa.struct({"bytes": pa.binary(), "path": pa.string()})
                )
            },
            r"the column 'image' of 2 rows holds no picture, first '0.parquet/0' \(its row is null\);",
        ),
        (
            {"image": [picture(None, "a.png"), picture(None, "b.png")]},
            r"has no column with the bytes of pictures, only image \(struct<bytes: null",
        ),
        (
            {
                "image": pa.array(
                    [{"bytes": None, "path": "/x/a.png"}],
                    pa.struct({"bytes": pa.binary(), "path": pa.string()}),
                )
            },
            r"first '0.parquet/0' \(its row holds the path '/x/a.png' and no bytes\); give a table"
            " with the bytes of the pictures, as save_to_disk stores them",
        ),
        ({"image": pa.array([], pa.binary())}, "the column 'image' of 0 rows holds no picture"),
    ],
)
def test_tables_without_pictures_are_refused_with_what_they_hold(tmp_path, columns, message):
    write_parquet(tmp_path / "0.parquet", columns)
    with pytest.raises(DataError, match=message) as told:
        listed(tmp_path)
    assert "\n" not in str(told.value)
