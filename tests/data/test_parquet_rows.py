import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.tables import greys_parquet, write_parquet
from tests.tars import png
from utils.data import parquet_files, parquet_rows
from utils.runtime.errors import DataError


def listed(source, **how):
    return parquet_files.list_parquet("--instance_data_dir", str(source), **how)


def greys(images):
    return [int(np.asarray(images.open(i))[0, 0, 0]) for i in range(len(images))]


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


def test_a_flipped_bit_is_found_where_the_file_has_checksums(tmp_path):
    path = tmp_path / "0.parquet"
    table = pa.table({"image": [png(1), png(2)]})
    pq.write_table(table, path, write_page_checksum=True, compression="none")
    content = bytearray(path.read_bytes())
    content[content.index(png(2)) + 30] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match="is not a whole Parquet file"):
        listed(path)
