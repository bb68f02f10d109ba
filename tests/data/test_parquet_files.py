import numpy as np
import pyarrow as pa
import pytest

from tests.tables import greys_parquet, write_parquet
from tests.tars import png
from utils.data import parquet_files
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


@pytest.mark.parametrize("codec", ["snappy", "zstd", "none"])
def test_codecs_and_large_types_are_read(tmp_path, codec):
    columns = {
        "image": pa.array([png(1), png(2)], pa.large_binary()),
        "text": pa.array(["a", "b"], pa.large_string()),
    }
    images, captions = listed(write_parquet(tmp_path / "0.parquet", columns, compression=codec))
    assert greys(images) == [1, 2]
    assert list(captions.values()) == [["a"], ["b"]]


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
