import json
import os

import numpy as np
import pytest
from PIL import Image

from tests import servers, tars
from utils.files import downloads
from utils.index import index_sources
from utils.runtime.errors import DataError, UsageError


def contents(source, tmp_path):
    """Of every shard what `content` yields."""
    for name in source.names:
        with source.content(name, tmp_path / "scratch") as shard:
            yield shard


def source_of(val_dir, val_captions=None):
    return index_sources.open_source(str(val_dir), val_captions)


@pytest.fixture
def shards(tmp_path):
    (tmp_path / "s").mkdir()
    tars.write(
        tmp_path / "s" / "00009.tar",
        tars.sample("000", tars.png(1), caption="a cat", url="https://e.org/1")
        | {
            "/001.png": tars.png(2),
            "002.png": tars.png(3),
        },
    )
    tars.write(tmp_path / "s" / "00010.tar", {"000.png": tars.png(4)})
    return tmp_path / "s"


def test_a_tar_file_is_a_shard(shards):
    source = source_of(shards / "{00009..00010}.tar")
    assert (source.from_tars, source.folder, source.names) == (
        True,
        shards.resolve(),
        ["00009", "00010"],
    )
    images, rows, damage, _ = next(contents(source, shards))
    assert damage is None
    assert images.keys == ("00009.tar/000.png", "00009.tar/002.png")  # as training names them
    assert [np.asarray(images.open(i))[0, 0, 0] for i in range(2)] == [1, 3]
    assert images.bad == (("00009.tar//001.png", "its name is absolute"),)
    assert [(r["key"], r["caption"], r["url"], r["bytes"], r["offset"]) for r in rows] == [
        ("00009.tar/000.png", "a cat", "https://e.org/1", len(tars.png(1)), 512),
        ("00009.tar/002.png", None, None, len(tars.png(3)), images.places[1][1]),
    ]


def test_a_truncated_tar_file_is_a_shard_of_the_images_before_the_damage(shards):
    path = shards / "00009.tar"
    path.write_bytes(path.read_bytes()[:-9000])
    images, rows, damage, _ = next(contents(source_of(shards), shards))
    assert len(images) == len(rows) == 1
    assert images.bad == ()  # the file is no image
    assert damage == "unexpected end of data"


def test_names_that_are_not_utf8_are_left_out_with_the_reason(tmp_path):
    """Two that would be one if their odd bytes became ?."""
    odd = [os.fsdecode(name) for name in (b"caf\xe9.png", b"caf\xea.png")]
    (tmp_path / "s").mkdir()
    tars.write(
        tmp_path / "s" / "0.tar",
        {"a.png": tars.png(1), **{name: tars.png(2) for name in odd}, "b.png": tars.png(3)},
    )
    (tmp_path / "f").mkdir()
    for name in (*odd, "a.png", "b.png"):
        (tmp_path / "f" / name).write_bytes(tars.png(3))
    for source, above in (("s", "0.tar/"), ("f", "")):
        images, rows, *_ = next(contents(source_of(tmp_path / source), tmp_path))
        assert images.keys == tuple(r["key"] for r in rows) == (f"{above}a.png", f"{above}b.png")
        assert images.open(1).getpixel((0, 0)) == (3, 0, 0)
        assert sorted(images.bad) == [
            (f"{above}{name}", "its name is not UTF-8") for name in sorted(odd)
        ]


def test_the_stamp_of_a_tar_file_changes_with_the_file(shards):
    source = source_of(shards)
    before = source.change_stamp("00009")
    assert source.change_stamp("00009") == before != source.change_stamp("00010")
    os.utime(shards / "00009.tar", ns=(1, 1))
    assert source.change_stamp("00009") != before
    (shards / "00009.tar").unlink()
    with pytest.raises(DataError, match=r"00009\.tar: cannot be read \(No such file"):
        source.change_stamp("00009")


def test_tar_files_behind_an_address_are_shards(shards, tmp_path, monkeypatch):
    with servers.serving(shards, monkeypatch) as server:
        source = source_of(f"{server.address}/{{00009..00010}}.tar")
        assert (source.from_tars, source.folder, source.names) == (
            True,
            server.address,
            ["00009", "00010"],
        )
        assert sorted(server.asked) == [("/00009.tar", "bytes=0-0"), ("/00010.tar", "bytes=0-0")]
        there, here = contents(source, tmp_path), contents(source_of(shards), tmp_path)
        for (images, rows, damage, _), (own, own_rows, *_) in zip(there, here, strict=True):
            assert (images.keys, images.bad, rows, damage) == (own.keys, own.bad, own_rows, None)
            assert [images.open(i).tobytes() for i in range(len(own))] == [
                own.open(i).tobytes() for i in range(len(own))
            ]
            assert len(list((tmp_path / "scratch").iterdir())) == 1  # one tar file at a time
        assert not list((tmp_path / "scratch").iterdir())
        before = source.change_stamp("00009")
        os.utime(shards / "00009.tar", ns=(1, 1))
        again = source_of(f"{server.address}/00009.tar")
        assert again.change_stamp("00009") != before
        assert again.gone(["00010", "00008"]) == ["00008"]
        (shards / "00009.tar").unlink()
        with pytest.raises(
            UsageError,
            match=r"^--val_dir='https.*': 3 of 4 addresses cannot be read, first https://.*/"
            r"00008.tar: answered 404 Not Found$",
        ):
            source_of(f"{server.address}/{{00008..00011}}.tar")
        unasked = index_sources.open_source(f"{server.address}/00009.tar", ask_server=False)
        with pytest.raises(DataError, match="answered 404"):
            unasked.change_stamp("00009")


def test_an_answer_that_is_not_a_tar_file_is_an_error_and_not_an_empty_shard(tmp_path, monkeypatch):
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "0.tar").write_text("<!DOCTYPE html><html>log in</html>" * 99)
    with servers.serving(tmp_path / "s", monkeypatch) as server:
        with pytest.raises(
            DataError, match=r"https://.*/0\.tar: is not a tar file \(is a web page\)"
        ):
            next(contents(source_of(f"{server.address}/0.tar"), tmp_path))
        assert source_of(f"HTTPS{server.address[5:]}/0.tar").folder == server.address


def test_a_download_that_ends_early_is_an_error_and_not_a_shorter_shard(
    shards, tmp_path, monkeypatch
):
    """A server that announces no length ends a file as a line that breaks does: by silence."""
    monkeypatch.setattr(downloads, "WAITS", (0,))
    with servers.serving(shards, monkeypatch) as server:
        source, size = (
            source_of(f"{server.address}/00009.tar"),
            (shards / "00009.tar").stat().st_size,
        )
        server.faults["/00009.tar"] = [servers.hung_up(700), servers.hung_up(700)]
        with pytest.raises(
            DataError, match=rf"00009\.tar: cannot be read \(received 700 of {size} bytes\)"
        ):
            next(contents(source, tmp_path))
        assert not list((tmp_path / "scratch").iterdir())
        server.faults["/00009.tar"] = [servers.hung_up(700)]
        assert len(next(contents(source, tmp_path))[0]) == 2  # at the second attempt


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Seven images, in shards of three."""
    monkeypatch.setattr(index_sources, "FOLDER_SHARD", 3)
    (tmp_path / "f" / "sub").mkdir(parents=True)
    for i in range(7):
        Image.new("RGB", (8, 8), (i, 0, 0)).save(
            tmp_path / "f" / ("sub" if i == 6 else "") / f"{i + 5}.png"
        )
    return tmp_path / "f"


def test_a_folder_is_cut_into_shards_of_consecutive_images(folder):
    source = source_of(folder)
    assert (source.from_tars, source.folder, source.names) == (
        False,
        folder.resolve(),
        ["00000", "00001", "00002"],
    )
    parts = list(contents(source, folder))
    assert [images.keys for images, *_ in parts] == [
        ("5.png", "6.png", "7.png"),
        ("8.png", "9.png", "10.png"),
        ("sub/11.png",),
    ]
    assert parts[2][1] == [
        {"key": "sub/11.png", "caption": None, "bytes": (folder / "sub/11.png").stat().st_size}
    ]


def test_only_the_stamp_of_the_changed_shard_of_a_folder_changes(folder):
    before = [source_of(folder).change_stamp(f"{i:05d}") for i in range(3)]
    assert [source_of(folder).change_stamp(f"{i:05d}") for i in range(3)] == before
    Image.new("RGB", (90, 80)).save(folder / "9.png")
    Image.new("RGB", (8, 8)).save(folder / "sub" / "12.png")
    after = [source_of(folder).change_stamp(f"{i:05d}") for i in range(3)]
    assert [a == b for a, b in zip(after, before, strict=True)] == [True, False, False]
    os.utime(folder / "6.png", ns=(5, 5))  # another picture of the same size
    assert source_of(folder).change_stamp("00000") != before[0]
    assert source_of(folder).change_stamp("00001") == after[1]


def test_captions_of_a_folder_are_those_of_the_file(folder, tmp_path):
    given = {
        str(folder / ("sub" if i == 11 else "") / f"{i}.png"): [f"thing {i}"] for i in range(5, 12)
    }
    (tmp_path / "c.json").write_text(json.dumps(given))
    source = source_of(folder, val_captions=str(tmp_path / "c.json"))
    assert [r["caption"] for r in list(contents(source, tmp_path))[1][1]] == [
        "thing 8",
        "thing 9",
        "thing 10",
    ]
    before = source.change_stamp("00001")
    assert before != source_of(folder).change_stamp("00001")
    (tmp_path / "c.json").write_text(json.dumps(given | {str(folder / "9.png"): ["other"]}))
    assert source_of(folder, val_captions=str(tmp_path / "c.json")).change_stamp("00001") != before
    (tmp_path / "c.json").write_text(json.dumps(dict(list(given.items())[1:])))
    with pytest.raises(DataError, match=r"1 of 7 images have no caption, first '5\.png'"):
        source_of(folder, val_captions=str(tmp_path / "c.json"))


def test_sources_that_are_refused(shards, tmp_path):
    (tmp_path / "empty").mkdir()
    (shards / ".0.tar").write_bytes((shards / "00010.tar").read_bytes())
    for val_dir, more, message in (
        (tmp_path / "empty", {}, "holds no images"),
        (tmp_path / "absent", {}, "does not exist"),
        (shards / "7*.tar", {}, "matches no file; use tar files"),
        (shards / ".0.tar", {}, "'.0.tar' is hidden"),
        (
            "https://example.org/{0..9}.tar?token=1",
            {},
            "is not an address that can be read; use 'https://HOST",
        ),
        (
            "https://me:word@example.org/x/0.tar",
            {},
            "is not an address that can be read; .* without a user",
        ),
        ("http://example.org/x/0.tar", {}, "is not an address that can be read"),
        ("pipe:cat {0..9}.tar", {}, "is not an address that can be read"),
        (
            "https://example.org/x/{9..0}.tar",
            {},
            "names no file: the first number is above the last",
        ),
        ("https://example.org/a/.0.tar", {}, "'.0.tar' is hidden"),
        (
            "https://example.org/x/*.tar",
            {},
            "is not an address that can be read; use 'https://HOST/FOLDER/{00000..00012}.tar'",
        ),
        (
            "https://example.org/{0..1}/0.tar",
            {},
            "names shards in 2 folders; use the shards of one folder",
        ),
        (
            shards,
            {"val_captions": "c.json"},
            "--val_captions='c.json' does not go with --build_index of tar shards",
        ),
    ):
        with pytest.raises(UsageError, match=message):
            source_of(val_dir, **more)


def test_texts_that_cannot_be_used_are_named_with_their_images(tmp_path):
    tars.write(
        tmp_path / "0.tar", {"a.png": tars.png(1), "a.txt": b"caf\xe9", "b.png": tars.png(2)}
    )
    content = next(contents(source_of(tmp_path / "0.tar"), tmp_path))
    assert [row["caption"] for row in content.rows] == [None, None]
    fault = "a.txt: is not UTF-8 text at line 1, byte 3 (0xe9); save it as UTF-8"
    assert content.caption_faults == (("0.tar/a.png", fault),)


def test_an_index_of_a_folder_has_the_captions_of_every_layout_that_training_reads(folder):
    lines = []
    source = index_sources.open_source(str(folder), say=lines.append)
    assert lines == []
    assert source.captions == {}
    before = [source.change_stamp(name) for name in source.names]
    assert before[0]["captions_sha256"] is None  # as in an index that was made earlier
    (folder / "6.txt").write_text("six\nand again\n")
    source = index_sources.open_source(str(folder), say=lines.append)
    assert lines == [
        "captions of 1 of 7 images are read from a text (.txt or .caption) beside each image"
    ]
    # the shard of the image is made again, the others stay
    after = [source.change_stamp(name) for name in source.names]
    assert [old == new for old, new in zip(before, after, strict=True)] == [False, True, True]
    assert [row["caption"] for row in next(contents(source, folder)).rows] == [None, "six", None]
    (folder / "captions.json").write_text(json.dumps({"5.png": "five", "7.png": ""}))
    source = index_sources.open_source(str(folder))
    # an empty caption is none in an index
    assert [row["caption"] for row in next(contents(source, folder)).rows] == ["five", None, None]
    (folder / "metadata.jsonl").write_text('{"file_name": "5.png", "text": "5"}\n')
    assert index_sources.open_source(str(folder)).captions == {"5.png": ["5"]}
