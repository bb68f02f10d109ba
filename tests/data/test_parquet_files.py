import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.tables import greys_parquet, picture, write_parquet
from tests.tars import png
from utils.data import parquet_files, parquet_rows
from utils.data.field_names import Columns
from utils.runtime.errors import DataError, UsageError


def listed(source, **how):
    return parquet_files.list_parquet("--instance_data_dir", str(source), **how)


def greys(images):
    return [int(np.asarray(images.open(i))[0, 0, 0]) for i in range(len(images))]


def test_images_and_captions_of_to_parquet_in_the_order_of_files_and_rows(tmp_path):
    greys_parquet(tmp_path / "data/train-00000-of-00002.parquet", [10, 20, 30])
    greys_parquet(tmp_path / "data/train-00001-of-00002.parquet", [40])
    said = []
    images, captions = listed(tmp_path, say=said.append)
    assert images.keys == (
        *(f"data/train-00000-of-00002.parquet/{row}" for row in range(3)),
        "data/train-00001-of-00002.parquet/0",
    )
    assert captions == {
        key: [f"grey {grey}"] for key, grey in zip(images.keys, (10, 20, 30, 40), strict=True)
    }
    assert greys(images) == [10, 20, 30, 40]
    assert greys(images.take([3, 1])) == [40, 20]
    assert images.sizes[0] == len(png(10))
    assert said == [
        "4 images of the column 'image' in 2 Parquet files; captions of 4 of the column 'text'"
    ]


def test_a_file_a_pattern_and_a_folder_name_the_same_rows(tmp_path):
    greys_parquet(tmp_path / "a-0.parquet", [1])
    greys_parquet(tmp_path / "a-1.parquet", [2])
    for source, found in (
        ("a-1.parquet", [2]),
        ("a-*.parquet", [1, 2]),
        ("a-{0..1}.parquet", [1, 2]),
        ("", [1, 2]),
    ):
        assert greys(listed(tmp_path / source)[0]) == found


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


def test_opening_an_image_reads_its_row_group_alone_and_once(tmp_path, monkeypatch):
    images, _ = listed(greys_parquet(tmp_path / "0.parquet", range(6), group=2))
    read = []
    real = parquet_rows.batches

    def batches(file, group, leaves):
        read.append((group, leaves))
        return real(file, group, leaves)

    monkeypatch.setattr(parquet_rows, "batches", batches)
    parquet_rows._KEPT.forget()
    assert [int(np.asarray(images.open(i))[0, 0, 0]) for i in (3, 2, 5, 3)] == [3, 2, 5, 3]
    assert read == [(1, ["image.bytes"]), (2, ["image.bytes"])]


def test_only_the_last_pictures_are_kept(tmp_path, monkeypatch):
    images, _ = listed(greys_parquet(tmp_path / "0.parquet", range(6), group=2))
    monkeypatch.setattr(parquet_rows, "KEPT_BYTES", 3 * len(png(0)))
    parquet_rows._KEPT.forget()
    for i in (0, 2, 4):
        images.open(i)
    assert [name[-1] for name in parquet_rows._KEPT._groups] == [2]


def test_a_file_that_changes_after_listing_gives_no_picture_of_another_row(tmp_path):
    path = greys_parquet(tmp_path / "0.parquet", [10, 20, 30])
    images, _ = listed(path)
    write_parquet(path, {"image": [{"bytes": png(1, (50, 40)), "path": None}]})
    for index in (0, 2):
        with pytest.raises(DataError, match=rf"0.parquet/{index}: has changed since it was listed"):
            images.open(index)
    path.unlink()
    with pytest.raises(DataError, match=r"0.parquet/0: No such file"):
        images.open(0)


@pytest.mark.parametrize("codec", ["snappy", "zstd", "none"])
def test_codecs_and_large_types_are_read(tmp_path, codec):
    columns = {
        "image": pa.array([png(1), png(2)], pa.large_binary()),
        "text": pa.array(["a", "b"], pa.large_string()),
    }
    images, captions = listed(write_parquet(tmp_path / "0.parquet", columns, compression=codec))
    assert greys(images) == [1, 2]
    assert list(captions.values()) == [["a"], ["b"]]


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
            r"the column 'image' of 2 rows holds no picture: '0.parquet/0' its row is null;",
        ),
        (
            {"image": [picture(None, "a.png"), picture(None, "b.png")]},
            r"has no column with the bytes of pictures, only image \(struct<bytes: null",
        ),
        ({"image": pa.array([], pa.binary())}, "the column 'image' of 0 rows holds no picture"),
    ],
)
def test_tables_without_pictures_are_refused_with_what_they_hold(tmp_path, columns, message):
    write_parquet(tmp_path / "0.parquet", columns)
    with pytest.raises(DataError, match=message) as told:
        listed(tmp_path)
    assert "\n" not in str(told.value)


def test_files_with_other_columns_are_named(tmp_path):
    greys_parquet(tmp_path / "0.parquet", [1])
    write_parquet(tmp_path / "1.parquet", {"image": [png(1)], "text": ["a"]})
    with pytest.raises(DataError, match=r"1.parquet: has no column 'image.bytes', which the first"):
        listed(tmp_path)


@pytest.mark.parametrize("damage", ["cut", "page", "other"])
def test_a_damaged_file_is_one_line(tmp_path, damage):
    path = greys_parquet(tmp_path / "0.parquet", range(40), group=40)
    content = bytearray(path.read_bytes())
    if damage == "cut":
        content = content[: len(content) // 2]
    elif damage == "page":
        content[4:60] = bytes(56)
    else:
        content = b"<html>" * 100
    path.write_bytes(content)
    with pytest.raises(
        DataError, match=r"0.parquet: is not a whole Parquet file \(.*; get it"
    ) as told:
        listed(path)
    assert "\n" not in str(told.value)


def test_a_flipped_bit_is_found_where_the_file_has_checksums(tmp_path):
    path = tmp_path / "0.parquet"
    table = pa.table({"image": [png(1), png(2)]})
    pq.write_table(table, path, write_page_checksum=True, compression="none")
    content = bytearray(path.read_bytes())
    content[content.index(png(2)) + 30] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match="is not a whole Parquet file"):
        listed(path)


def test_several_splits_are_asked_for_one(tmp_path):
    greys_parquet(tmp_path / "data/train-00000-of-00001.parquet", [1])
    greys_parquet(tmp_path / "data/test-00000-of-00001.parquet", [2])
    with pytest.raises(
        UsageError,
        match=r"holds several splits: test \(1 files\), train \(1 files\); name .*/data/test\*.parq",
    ):
        listed(tmp_path)
    assert greys(listed(tmp_path / "data/train*.parquet")[0]) == [1]


def test_names_that_begin_like_a_split_are_none(tmp_path):
    greys_parquet(tmp_path / "trains.parquet", [1])
    greys_parquet(tmp_path / "valley.parquet", [2])
    assert greys(listed(tmp_path)[0]) == [1, 2]


def test_splits_in_folders_of_their_own_are_asked_for_too(tmp_path):
    greys_parquet(tmp_path / "default/train/0000.parquet", [1])
    greys_parquet(tmp_path / "default/validation/0000.parquet", [2])
    with pytest.raises(UsageError, match=r"several splits.*'.*/default/train/\*.parquet'"):
        listed(tmp_path)


def test_parquet_beside_images_is_no_data(tmp_path):
    write_parquet(tmp_path / "metadata.parquet", {"file_name": ["0.png"], "text": ["a"]})
    assert parquet_files.is_parquet(tmp_path)
    (tmp_path / "0.png").write_bytes(png(1))
    assert not parquet_files.is_parquet(tmp_path)


def test_absent_files_are_named(tmp_path):
    with pytest.raises(UsageError, match=r"--instance_data_dir='.*x.parquet'.*does not exist; use"):
        listed(tmp_path / "x.parquet")
    with pytest.raises(UsageError, match=r"x\*.parquet' matches no file; use Parquet files"):
        listed(tmp_path / "x*.parquet")


def test_a_large_row_group_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet_files, "LARGE_GROUP", 10)
    said = []
    listed(greys_parquet(tmp_path / "0.parquet", [1]), say=said.append)
    assert "a row group holds 0.0 GiB of pictures" in said[1]
