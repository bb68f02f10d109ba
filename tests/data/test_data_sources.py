import pytest

from tests.tars import png, write
from utils.data import data_sources
from utils.runtime.errors import UsageError


def test_a_folder_of_images_has_no_captions_in_files_that_hold_it(tmp_path):
    (tmp_path / "0.png").write_bytes(png(1))
    assert data_sources.holding_files(tmp_path) is None
    images, captions = data_sources.list_data("--val_dir", tmp_path)
    assert (images.keys, captions) == (("0.png",), None)


def test_tar_files_bring_their_captions(tmp_path):
    write(tmp_path / "0.tar", {"0.png": png(1), "0.txt": b"a dark thing"})
    images, captions = data_sources.list_data("--val_dir", str(tmp_path))
    assert captions == {images.keys[0]: ["a dark thing"]}


def test_the_flag_of_a_source_without_images_is_named(tmp_path):
    with pytest.raises(UsageError, match="--instance_data_dir=.*holds no images"):
        data_sources.list_data("--instance_data_dir", str(tmp_path))
