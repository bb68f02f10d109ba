import pytest

from tests.tables import greys_parquet, picture, save_to_disk
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


def test_parquet_and_arrow_files_are_recognised(tmp_path):
    greys_parquet(tmp_path / "p/0.parquet", [1])
    save_to_disk(tmp_path / "a", {"image": [picture(1)], "caption": ["x"]})
    for source, key, caption in (
        ("p", "0.parquet/0", "grey 1"),
        ("p/0.parquet", "0.parquet/0", "grey 1"),
        ("a", "data-00000-of-00001.arrow/0", "x"),
    ):
        images, captions = data_sources.list_data("--val_dir", str(tmp_path / source))
        assert (images.keys, captions) == ((key,), {key: [caption]})


def test_an_index_is_not_taken_for_parquet_with_pictures(tmp_path):
    (tmp_path / "shards").mkdir()
    greys_parquet(tmp_path / "shards/0.parquet", [1])
    (tmp_path / "index.json").write_text('{"kind": "index"}')
    assert data_sources.holding_files(tmp_path) is None


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("x.zip", "is an archive; unpack it and give the folder"),
        ("x.tar.gz", "is compressed; unpack it and give the tar"),
        ("model.safetensors", "is a file of weights; give a folder of images"),
        ("captions.json", "is a file of text; give the folder of the images that it names"),
        ("data-00000-of-00001.arrow", "is a part of a data set; give its folder"),
        ("0.PNG", "is one image; give its folder"),
        ("x.h5", "is a file that is not understood; give a folder of images, tar files, or Parq"),
    ],
)
def test_a_file_that_is_no_data_is_named_with_what_to_do(tmp_path, name, message):
    (tmp_path / name).write_bytes(b"PK")
    with pytest.raises(UsageError, match=rf"--val_dir='.*{name}' {message}"):
        data_sources.list_data("--val_dir", str(tmp_path / name))
