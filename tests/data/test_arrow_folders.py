import json
import pickle

import numpy as np
import pytest

from tests.tables import picture, save_to_disk
from tests.tars import png
from utils.data import arrow_folders
from utils.runtime.errors import DataError, UsageError


@pytest.fixture
def folder(tmp_path):
    greys = [10, 20, 30]
    columns = {"image": [picture(g) for g in greys], "text": [f"grey {g}" for g in greys]}
    return save_to_disk(tmp_path / "saved", columns, files=2)


def listed(folder, **how):
    return arrow_folders.list_arrow_folder("--val_dir", str(folder), **how)


def test_images_and_captions_of_save_to_disk_in_the_order_of_rows(folder):
    said = []
    images, captions = listed(folder, say=said.append)
    first, second = "data-00000-of-00002.arrow", "data-00001-of-00002.arrow"
    assert images.keys == (f"{first}/0", f"{first}/1", f"{second}/0")
    assert list(captions.values()) == [["grey 10"], ["grey 20"], ["grey 30"]]
    sent = pickle.loads(pickle.dumps(images))  # noqa: S301  as another process receives it
    assert [np.asarray(sent.open(i))[0, 0, 0] for i in range(3)] == [10, 20, 30]
    assert said == [
        "3 images of the column 'image' in 2 Arrow files; captions of 3 of the column 'text'"
    ]


def test_a_folder_of_all_splits_is_asked_for_one(folder, tmp_path):
    (tmp_path / "dataset_dict.json").write_text(json.dumps({"splits": ["saved", "test"]}))
    with pytest.raises(
        UsageError, match=r"--val_dir=.* several splits: saved, test; name one, .*saved'"
    ):
        listed(tmp_path)
    (tmp_path / "dataset_dict.json").write_text(json.dumps({"splits": ["saved"]}))
    assert len(listed(tmp_path)[0]) == 3


def test_rows_that_are_chosen_by_a_file_of_indices_are_refused(tmp_path):
    columns = {"image": [png(1)]}
    folder = save_to_disk(tmp_path, columns, _indices_data_files=[{"filename": "indices.arrow"}])
    with pytest.raises(DataError, match="save the data set again, after flatten_indices"):
        listed(folder)


@pytest.mark.parametrize("data", [[], [{"filename": "../x.arrow"}], [{}], [3]])
def test_a_record_that_names_no_file_of_the_folder_is_refused(folder, data):
    (folder / "state.json").write_text(json.dumps({"_data_files": data}))
    with pytest.raises(
        DataError, match=r"state.json: names .* as its data; save the data set again"
    ):
        listed(folder)


@pytest.mark.parametrize("damage", ["absent", "cut", "other"])
def test_a_damaged_file_is_one_line(folder, damage):
    path = folder / "data-00001-of-00002.arrow"
    content = path.read_bytes()
    path.write_bytes({"cut": content[: len(content) // 2], "other": b"x" * 99}.get(damage, b""))
    if damage == "absent":
        path.unlink()
    with pytest.raises(
        DataError, match=r"00001-of-00002.arrow: .*(not a whole|cannot be read)"
    ) as told:
        listed(folder)
    assert "\n" not in str(told.value)


def test_offsets_that_lead_out_of_the_file_are_refused_before_a_picture_is_read(tmp_path):
    folder = save_to_disk(tmp_path, {"image": [png(1), png(2)]})
    path, first = folder / "data-00000-of-00001.arrow", len(png(1))
    offsets = np.array([0, first, first + len(png(2))], "<i4").tobytes()
    wrong = np.array([0, 1 << 30, first + len(png(2))], "<i4").tobytes()
    assert path.read_bytes().count(offsets) == 1
    path.write_bytes(path.read_bytes().replace(offsets, wrong))
    with pytest.raises(DataError, match=r"00001.arrow: is damaged \(.*; save the data set again"):
        listed(folder)


def test_a_file_that_changes_after_listing_gives_no_picture_of_another_row(folder):
    images, _ = listed(folder)
    save_to_disk(folder, {"image": [{"bytes": png(1, (50, 40)), "path": None}]}, files=2)
    with pytest.raises(DataError, match="has changed since it was listed"):
        images.open(0)
    with pytest.raises(DataError, match="has changed since it was listed"):
        images.open(1)
