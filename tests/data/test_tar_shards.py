import io
import json
import tarfile

import numpy as np
import pytest
from PIL import Image

from utils.data import tar_shards
from utils.errors import DataError, UsageError


def png(value):
    out = io.BytesIO()
    Image.new("RGB", (20, 16), (value, 0, 0)).save(out, format="PNG")
    return out.getvalue()


def write(path, members):
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


@pytest.fixture
def shards(tmp_path):
    """Shards 00009 and 00010: captions as text, as JSON, as both, and none; a member that must not be opened."""
    write(tmp_path / "00009.tar", {
        "000.png": png(10), "000.txt": b"a red thing\n", "000.json": json.dumps({"caption": "other"}).encode(),
        "001.png": png(20), "001.json": json.dumps({"caption": "a dark thing", "url": "x"}).encode(), "001.pkl": b"\x80boom",
    })  # fmt: skip
    write(tmp_path / "00010.tar", {"000.cls": b"3", "000.png": png(30), "sub/001.seg.png": png(40), "sub/001.txt": b"deep"})
    return tmp_path


def test_images_and_captions_in_the_order_of_shards_and_members(shards):
    images, captions = tar_shards.list_shards("--instance_data_dir", str(shards))
    assert images.keys == ("00009.tar/000.png", "00009.tar/001.png", "00010.tar/000.png", "00010.tar/sub/001.seg.png")
    assert captions == {
        "00009.tar/000.png": ["a red thing"], "00009.tar/001.png": ["a dark thing"], "00010.tar/sub/001.seg.png": ["deep"]
    }  # fmt: skip
    assert [np.asarray(images.open(i))[0, 0, 0] for i in range(4)] == [10, 20, 30, 40]
    assert [np.asarray(images.take([3, 1]).open(i))[0, 0, 0] for i in range(2)] == [40, 20]
    assert images.stamp(0) == (shards / "00009.tar").stat().st_mtime_ns
    assert len(images.fingerprint) == 64


@pytest.mark.parametrize("pattern", ["{00009..00010}.tar", "0*.tar", "{9..10}.tar"])
def test_patterns(shards, pattern):
    if pattern.startswith("{9"):  # digits keep their width
        with pytest.raises(UsageError, match=r"9.tar' does not exist"):
            tar_shards.list_shards("--instance_data_dir", str(shards / pattern))
    else:
        assert len(tar_shards.list_shards("--instance_data_dir", str(shards / pattern))[0]) == 4


def test_what_is_not_taken(shards, tmp_path):
    for source, message in (("pipe:cat x.tar", "is an address"), ("https://example.org/0.tar", "is an address")):
        with pytest.raises(UsageError, match=message):
            tar_shards.list_shards("--instance_data_dir", source)
    (shards / "00009.tar").write_bytes(b"not a tar file at all" * 100)
    with pytest.raises(DataError, match=r"00009.tar: is not a whole tar file"):
        tar_shards.list_shards("--instance_data_dir", str(shards))


def test_a_broken_member_is_a_bad_image(shards):
    from utils.data import image_sets

    write(shards / "00011.tar", {"000.png": png(1)[:60], "000.txt": b"x"})
    images, _ = tar_shards.list_shards("--instance_data_dir", str(shards))
    kept = image_sets.readable("--instance_data_dir", images, max_bad=0.01, workers=1)
    assert len(kept) == 4
    assert [key for key, _ in kept.bad] == ["00011.tar/000.png"]
    assert len(kept.places) == 4


def test_a_shard_is_no_class(shards):
    from utils.data import captions

    images, _ = tar_shards.list_shards("--instance_data_dir", str(shards))
    (shards / "nothing").mkdir()
    assert [captions.class_of(k) for k in images.keys] == [None, None, None, "sub"]
    assert captions.empty_classes(images) == []
    with pytest.raises(UsageError, match="--class_prompt='classlevel' takes a folder a class; 3 images"):
        captions.resolve_prompts("classlevel", images)


def test_which_sources_are_shards(shards, scenes_dir):
    assert tar_shards.is_shards(str(shards))
    assert tar_shards.is_shards("x/{0..3}.tar")
    assert not tar_shards.is_shards(str(scenes_dir / "train"))
