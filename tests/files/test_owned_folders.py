import os
import re

import pytest

from utils.files import owned_folders, whole_files
from utils.runtime.errors import DataError, UsageError

FILES = re.compile(r"record\.json|pictures/(?:\d+\.png)?")


def require_ours(folder):
    owned_folders.require_ours(
        "--out", folder, files=FILES, record="record.json", kind="album", writer="album"
    )


def write_album(folder):
    (folder / "pictures").mkdir(parents=True)
    (folder / "pictures" / "1.png").write_text("")
    whole_files.write_manifest(folder / "record.json", "album")


def test_a_new_an_empty_and_one_of_our_folders_may_be_written(tmp_path):
    require_ours(tmp_path / "new" / "below")
    require_ours(tmp_path)
    write_album(tmp_path / "album")
    require_ours(tmp_path / "album")
    (tmp_path / "album" / "pictures" / "1.png").unlink()
    require_ours(tmp_path / "album")  # with an empty folder of ours
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("name", ["notes.txt", "pictures/mine.png", "holiday/", "pictures/1.png/"])
def test_the_first_foreign_file_or_empty_folder_is_named(tmp_path, name):
    write_album(tmp_path)
    path = tmp_path / name
    if name == "pictures/1.png/":
        path.unlink()
    if name.endswith("/"):
        path.mkdir()
    else:
        path.write_text("")
    with pytest.raises(UsageError) as error:
        require_ours(tmp_path)
    assert str(error.value) == (
        f"--out={str(tmp_path)!r} holds {name.rstrip('/')!r}, which no album wrote; use a new folder"
    )


@pytest.mark.parametrize("record", [None, "[1]", '{"kind": "run"}'])
def test_files_of_our_names_without_a_record_of_our_kind_are_foreign(tmp_path, record):
    write_album(tmp_path)
    (tmp_path / "record.json").unlink()
    if record is not None:
        (tmp_path / "record.json").write_text(record)
    with pytest.raises(UsageError, match="which no album wrote"):
        require_ours(tmp_path)


def test_a_record_that_is_not_json_is_a_data_error(tmp_path):
    (tmp_path / "record.json").write_text("{")
    with pytest.raises(DataError, match="record.json: is not JSON"):
        require_ours(tmp_path)


def test_a_path_at_or_below_a_file_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "out"):
        with pytest.raises(UsageError, match="^--out='.*': '.*file' is a file; use a new folder$"):
            require_ours(path)


def test_a_folder_without_write_permission_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(UsageError, match="is not writable; use a folder that is$"):
        owned_folders.require_writable("--out", tmp_path / "new")


def test_the_existing_parent_of_a_path(tmp_path):
    assert owned_folders.existing_parent(tmp_path / "a" / "b") == tmp_path
    assert owned_folders.existing_parent(tmp_path) == tmp_path


def test_a_folder_is_saved_whole_or_not_at_all(tmp_path):
    def half(part):
        part.mkdir()
        (part / "unet").write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        owned_folders.save_folder(half, tmp_path / "checkpoint_1")
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_that_cannot_be_put_in_place_leaves_the_one_before(tmp_path, monkeypatch):
    path = tmp_path / "checkpoint"
    path.mkdir()
    (path / "old").write_text("x")
    replace = os.replace

    def fails(source, target):
        if str(source).endswith(".part"):
            raise OSError("no")
        return replace(source, target)

    monkeypatch.setattr(os, "replace", fails)
    with pytest.raises(OSError, match="no"):
        owned_folders.save_folder(lambda part: part.mkdir(), path)
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint"]
    assert (path / "old").exists()
