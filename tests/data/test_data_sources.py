import pytest

from tests.tables import greys_parquet, picture, save_to_disk
from tests.tars import png, write
from utils.data import data_sources, image_sets
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


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"PK\x03\x04..", r"is a file \(a zip archive\); unpack it and give the folder$"),
        (b"%PDF-1.4", r"is a file \(a PDF\); give a folder of images, tar files, or Parquet files"),
    ],
)
def test_a_file_whose_name_says_nothing_is_named_by_its_first_bytes(tmp_path, content, message):
    (tmp_path / "data").write_bytes(content)
    with pytest.raises(UsageError, match=message):
        data_sources.list_data("--val_dir", str(tmp_path / "data"))


def test_a_file_in_the_place_of_generated_images_is_named_and_no_tar_is_asked_for(tmp_path):
    (tmp_path / "data").write_bytes(b"?")
    with pytest.raises(UsageError, match="is not understood; give a folder of images$"):
        image_sets.list_images("--query_dir", tmp_path / "data")
