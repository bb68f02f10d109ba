import os

import pytest
from PIL import Image

from utils.data import (
    caption_files,
    duplication,
    image_files,
    image_sets,
    parquet_files,
    tar_shards,
)
from utils.files import text_files
from utils.models import lora
from utils.runtime.errors import ToolkitError, UsageError, require_file
from utils.runtime.regular_files import irregular


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: path.write_text("x"), None),
        (lambda path: path.symlink_to(__file__), None),
        (lambda path: path.mkdir(), "is a folder"),
        (os.mkfifo, "is a pipe, which is not opened"),
        (lambda path: path.symlink_to("/dev/null"), "is a device, which is not opened"),
        (lambda path: path.symlink_to(path.name), "is a link that leads back to itself"),
        (lambda path: None, "does not exist"),
    ],
)
def test_a_flag_that_names_a_file_takes_regular_files_alone(tmp_path, make, reason):
    path = tmp_path / "captions.json"
    make(path)
    assert irregular(path) == reason
    if reason is None:
        assert require_file("--f", path) == path
    else:
        with pytest.raises(UsageError, match=f"--f='.*captions.json' {reason}; give an existing"):
            require_file("--f", path)


def test_names_that_no_system_accepts_lead_nowhere():
    assert irregular("a\0b") == "does not exist"
    assert irregular("x" * 5000) == "cannot be read (File name too long)"


def _read_captions(path, folder):
    return caption_files.read_captions(path, image_sets.list_images("--d", folder))


# (name of a pipe, how a user's path is read)
READERS = [
    ("captions.json", _read_captions),
    ("captions.jsonl", _read_captions),
    ("captions.csv", _read_captions),
    ("captions.parquet", _read_captions),
    ("prompts.txt", lambda path, folder: text_files.read_lines(path)),
    ("weights.json", lambda path, folder: duplication.read_weights("--w", path, None)),
    ("0.tar", lambda path, folder: tar_shards.list_shards("--d", path)),
    ("0.tar", lambda path, folder: tar_shards.list_shards("--d", path.parent / "pipes")),
    ("0.parquet", lambda path, folder: parquet_files.parquet_paths("--d", path)),
    ("0.png", lambda path, folder: image_files.open_image(path)),
    ("lora.safetensors", lambda path, folder: lora.require_lora(str(path))),
]


@pytest.mark.parametrize(("name", "read"), READERS)
def test_a_pipe_is_refused_by_every_reader_of_a_users_file(tmp_path, name, read):
    (tmp_path / "images").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "images" / "0.png")
    (tmp_path / "pipes").mkdir()
    os.mkfifo(tmp_path / name)
    os.mkfifo(tmp_path / "pipes" / "0.tar")
    with pytest.raises(ToolkitError, match="is a pipe, which is not opened"):
        read(tmp_path / name, tmp_path / "images")
