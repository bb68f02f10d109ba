import io
import json
import os
import shutil
import tarfile

import numpy as np
import pytest

from tests.tars import png, sample, write
from utils.data import image_sets, tar_shards
from utils.runtime.errors import DataError, UnreadError, UsageError


@pytest.fixture
def shards(tmp_path):
    """Shards 00009 and 00010: captions as text, as JSON, as both, and none; a member that must not
    be opened."""
    write(
        tmp_path / "00009.tar",
        {
            "000.png": png(10),
            "000.txt": b"a red thing\n",
            "000.json": json.dumps({"caption": "other"}).encode(),
            "001.png": png(20),
            "001.json": json.dumps({"caption": "a dark thing", "url": "x"}).encode(),
            "001.pkl": b"\x80boom",
        },
    )
    write(
        tmp_path / "00010.tar",
        {"000.cls": b"3", "000.png": png(30), "sub/001.seg.png": png(40), "sub/001.txt": b"deep"},
    )
    return tmp_path


def test_images_and_captions_in_the_order_of_shards_and_members(shards):
    images, captions = tar_shards.list_shards("--instance_data_dir", str(shards))
    assert images.keys == (
        "00009.tar/000.png",
        "00009.tar/001.png",
        "00010.tar/000.png",
        "00010.tar/sub/001.seg.png",
    )
    assert captions == {
        "00009.tar/000.png": ["a red thing"],
        "00009.tar/001.png": ["a dark thing"],
        "00010.tar/sub/001.seg.png": ["deep"],
    }
    assert [np.asarray(images.open(i))[0, 0, 0] for i in range(4)] == [10, 20, 30, 40]
    assert [np.asarray(images.take([3, 1]).open(i))[0, 0, 0] for i in range(2)] == [40, 20]
    assert images.stamp(0) == (shards / "00009.tar").stat().st_mtime_ns
    assert len(images.fingerprint) == 64


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("", ["00009", "00010"]),
        ("{00009..00010}.tar", ["00009", "00010"]),
        ("{00010..00010}.tar", ["00010"]),
        ("0*.tar", ["00009", "00010"]),
        ("0{0009..0010}*.tar", ["00009", "00010"]),
        ("00010.tar", ["00010"]),
        ("*{0..1}*.tar", ["00009", "00010"]),  # both numbers are in one name
    ],
)
def test_what_a_source_names(shards, pattern, names):
    paths = tar_shards.shard_paths("--val_dir", str(shards / pattern))
    assert paths == [shards / f"{name}.tar" for name in names]


def test_a_file_is_no_pattern_whatever_is_in_its_name(shards):
    (shards / "00009.tar").rename(shards / "[1]{0..1}*.tar")
    assert len(tar_shards.shard_paths("--val_dir", str(shards / "[1]{0..1}*.tar"))) == 1


@pytest.mark.parametrize("folder", ["a [b]", "a*"])
def test_a_folder_is_no_pattern_whatever_is_in_its_name(shards, folder):
    (shards / folder).mkdir()
    (shards / "a b").mkdir()  # what the folder's name would match
    for name in ("00009", "00010"):
        shutil.copy(shards / f"{name}.tar", shards / folder)
        shutil.copy(shards / f"{name}.tar", shards / "a b")
    for pattern in ("{00009..00010}.tar", "*.tar", "00*{09..10}.tar"):
        assert tar_shards.shard_paths("--d", str(shards / folder / pattern)) == [
            shards / folder / f"{name}.tar" for name in ("00009", "00010")
        ]
    with pytest.raises(UsageError, match=r"00011\.tar' does not exist"):
        tar_shards.shard_paths("--d", str(shards / folder / "{00009..00011}.tar"))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        # digits keep their width
        ("{9..10}.tar", r".*'.*/9\.tar' does not exist; use tar files"),
        ("{00009..00011}.tar", r".*'.*/00011\.tar' does not exist"),
        ("{00010..00009}.tar", " matches no file; use tar files"),
        ("1*.tar", " matches no file; use tar files"),
        ("absent.tar", r".*'.*/absent\.tar' does not exist"),
        ("f*.tar", r".*'.*/folder\.tar' is a folder"),
        ("empty", " matches no file"),
        ("*/*.tar", " names shards in 2 folders; use the shards of one folder"),
    ],
)
def test_a_source_that_names_nothing_is_told_in_a_line(shards, source, message):
    for name in ("folder.tar", "empty", "more"):
        (shards / name).mkdir()
    for name in ("more", "folder.tar"):
        shutil.copy(shards / "00009.tar", shards / name)
    with pytest.raises(UsageError, match=rf"--val_dir='.*{message}") as told:
        tar_shards.shard_paths("--val_dir", str(shards / source))
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    "source", ["pipe:cat x.tar", "https://example.org/{0..9}.tar", "s3://bucket/0.tar"]
)
def test_an_address_has_to_be_downloaded_first(source):
    with pytest.raises(
        UsageError, match="--val_dir='.*' is an address, which only --build_index reads"
    ):
        tar_shards.list_shards("--val_dir", source)


def test_a_folder_of_tar_files_and_images_is_of_neither_kind(shards):
    (shards / "000.png").write_bytes(png(1))
    with pytest.raises(
        UsageError, match="holds tar files and images; use a folder of one kind, or 'FOLDER/"
    ):
        tar_shards.list_shards("--val_dir", str(shards))
    assert len(tar_shards.list_shards("--val_dir", str(shards / "*.tar"))[0]) == 4


def test_what_is_not_a_tar_file_is_an_error(shards):
    (shards / "00009.tar").write_bytes(b"not a tar file at all" * 100)
    with pytest.raises(DataError, match=r"00009.tar: is not a whole tar file"):
        tar_shards.list_shards("--instance_data_dir", str(shards))


def test_captions_and_addresses_as_img2dataset_writes_them(tmp_path):
    write(
        tmp_path / "0.tar",
        sample("000", png(1), caption="a cat", url="https://example.org/1", width=9)
        | {
            "001.json": b"[" * 10**5,
            "001.png": png(2),
            "002.json": b'{"url": 3, "caption": ["x"]}',
            "002.png": png(3),
            "003.json": b'{"text": "later", "url": "u"}',
            "003.png": png(4),
            "004.txt": b" \n",
            "004.png": png(5),
        },
    )
    found = tar_shards.read_shard(tmp_path / "0.tar")
    assert [(m.name, m.known.captions, m.known.url) for m in found.images] == [
        ("000.png", ("a cat",), "https://example.org/1"),
        ("001.png", (), None),
        ("002.png", ("x",), None),
        ("003.png", ("later",), "u"),
        ("004.png", (), None),
    ]
    assert (found.bad, found.damage) == ((), None)
    content = (tmp_path / "0.tar").read_bytes()
    assert [content[m.offset : m.offset + m.size] for m in found.images] == [
        png(i) for i in range(1, 6)
    ]


UNSAFE = (
    "/etc/0.png",
    "../0.png",
    "a/../../0.png",
    "..\\0.png",
    "\\srv\\0.png",
    "C:\\0.png",
    "a/..",
    "../0.txt",
)


def test_names_that_lead_elsewhere_are_never_taken(tmp_path):
    safe = ("./000.png", "a..b/001..png", "C:.png", "b...png", "a:b/c.png")
    write(tmp_path / "0.tar", {name: png(7) for name in (*safe, *UNSAFE)} | {"000.txt": b"a"})
    found = tar_shards.read_shard(tmp_path / "0.tar")
    assert [m.name for m in found.images] == list(safe)
    assert [name for name, _ in found.bad] == list(UNSAFE)
    assert {r for _, r in found.bad} == {"its name is absolute", "its name has .. as a part"}
    images, captions = tar_shards.list_shards("--d", str(tmp_path / "0.tar"))
    assert len(images) == 5
    assert images.bad[0] == ("0.tar//etc/0.png", "its name is absolute")
    assert captions == {}
    # and count with what cannot be read
    with pytest.raises(
        UsageError, match=r"has 8 of 13 images that cannot be read, first '0.tar//etc/0.png'"
    ):
        image_sets.readable("--d", images, max_bad=0.5, workers=1)
    kept = image_sets.readable("--d", images, max_bad=0.9, workers=1)
    assert (len(kept), kept.bad) == (5, images.bad)


def test_links_are_not_followed_but_counted(tmp_path):
    with tarfile.open(tmp_path / "0.tar", "w") as archive:
        for name, kind in (
            ("0.png", None),
            ("hard.png", tarfile.LNKTYPE),
            ("1.png", tarfile.SYMTYPE),
            ("2.txt", tarfile.SYMTYPE),
            ("../3.jpg", tarfile.LNKTYPE),
            ("/etc", tarfile.SYMTYPE),
            ("1.png", None),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind or tarfile.REGTYPE, "0.png" if kind else ""
            info.size = 0 if kind else len(png(7))
            archive.addfile(info, None if kind else io.BytesIO(png(7)))
    found = tar_shards.read_shard(tmp_path / "0.tar")
    assert [m.name for m in found.images] == ["0.png", "1.png"]
    told = "is a link in the tar, which is not followed"
    assert found.bad == (
        ("hard.png", told),
        ("1.png", told),
        ("../3.jpg", "its name has .. as a part"),
    )


def test_of_members_of_one_name_the_first_is_taken_with_its_caption(tmp_path):
    with tarfile.open(tmp_path / "0.tar", "w") as archive:
        for name, content in (
            ("0.png", png(1)),
            ("0.txt", b"one"),
            ("1.png", png(2)),
            ("0.png", png(3)),
            ("0.txt", b"three"),
        ):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    images, captions = tar_shards.list_shards("--d", str(tmp_path / "0.tar"))
    assert images.keys == ("0.tar/0.png", "0.tar/1.png")
    assert images.bad == (("0.tar/0.png", "occurs twice in its tar"),)
    assert captions == {"0.tar/0.png": ["one"]}
    assert np.asarray(images.open(0))[0, 0, 0] == 1


def cut(path, where):
    """Damage a tar of four samples of a PNG and a text. Returns: how many images come before."""
    with tarfile.open(path) as archive:
        third, text = (archive.getmember(n) for n in ("002.png", "002.txt"))
    content = bytearray(path.read_bytes())
    if where == "in a header":
        del content[third.offset + 100 :]
    elif where == "in an image":
        del content[third.offset_data + 10 :]
    elif where == "between two members":
        del content[text.offset :]
    elif where == "a header is zero":
        content[third.offset : third.offset + 512] = bytes(512)
    elif where == "a name is zero":
        content[third.offset : third.offset + 100] = bytes(100)
    elif where == "a header is noise":
        content[third.offset : third.offset + 512] = os.urandom(512)
    elif where == "a size is huge":
        info = tarfile.TarInfo("002.png")
        info.size = 1 << 60
        content[third.offset : third.offset + 512] = info.tobuf(tarfile.GNU_FORMAT)
    elif where == "a size is negative":
        info = tarfile.TarInfo("002.png")
        info.size = -4096
        content[third.offset : third.offset + 512] = info.tobuf(tarfile.GNU_FORMAT)
    else:
        content[:] = b"<html>not found</html>" * 99
    path.write_bytes(content)
    return {"between two members": 3, "nothing of it is a tar": 0}.get(where, 2)


@pytest.mark.parametrize(
    "where",
    [
        "in a header",
        "in an image",
        "between two members",
        "a header is zero",
        "a name is zero",
        "a header is noise",
        "a size is huge",
        "a size is negative",
        "nothing of it is a tar",
    ],
)
def test_damage_is_an_error_or_what_comes_before_it_is_kept(tmp_path, where):
    path = tmp_path / "0.tar"
    write(
        path,
        {
            f"{i:03d}.{kind}": png(i) if kind == "png" else b"t"
            for i in range(4)
            for kind in ("png", "txt")
        },
    )
    assert len(tar_shards.read_shard(path).images) == 4
    before = cut(path, where)
    with pytest.raises(DataError, match=r"0\.tar: is not a whole tar file \(.+\)"):
        tar_shards.list_shards("--instance_data_dir", str(path))
    found = tar_shards.read_shard(path, whole=False)
    assert [m.name for m in found.images] == [f"{i:03d}.png" for i in range(before)]
    assert found.damage
    assert "\n" not in found.damage


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE, tarfile.XGLTYPE])
def test_headers_of_headers_without_an_end_are_damage(tmp_path, kind):
    info = tarfile.TarInfo("x")
    info.type, info.size = kind, 8
    body = (b"6 a=b\n\n\n" if kind != tarfile.GNUTYPE_LONGNAME else b"n" * 8).ljust(512, b"\0")
    write(tmp_path / "0.tar", {"000.png": png(0)})
    first = (tmp_path / "0.tar").read_bytes()[: 512 + -(-len(png(0)) // 512) * 512]
    (tmp_path / "0.tar").write_bytes(first + (info.tobuf(tarfile.GNU_FORMAT) + body) * 3000)
    with pytest.raises(DataError, match=r"0\.tar: is not a whole tar file \(.+\)"):
        tar_shards.read_shard(tmp_path / "0.tar")
    found = tar_shards.read_shard(tmp_path / "0.tar", whole=False)
    assert [m.name for m in found.images] == ["000.png"]
    assert found.damage


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"\n<!doctype HTML><html>" * 99, "is a web page"),
        (b"\x1f\x8b\x08" + b"x" * 2000, "is compressed; use plain tar files"),
        (b"some words" * 200, "invalid header"),
        (b"", "empty file"),
    ],
)
def test_what_is_no_tar_file_is_named(tmp_path, content, what):
    (tmp_path / "0.tar").write_bytes(content)
    assert tar_shards.read_shard(tmp_path / "0.tar", whole=False).damage == what
    with pytest.raises(
        DataError,
        match=rf"0\.tar: is not a whole tar file \({what}\); get it again, or remove it",
    ):
        tar_shards.read_shard(tmp_path / "0.tar")


def test_a_tar_file_laid_behind_another_is_not_left_out_in_silence(shards):
    with open(shards / "00009.tar", "ab") as handle:
        handle.write((shards / "00010.tar").read_bytes())
    with pytest.raises(
        DataError,
        match=r"00009\.tar: is not a whole tar file \(no header at byte \d+, and no end\)",
    ):
        tar_shards.list_shards("--instance_data_dir", str(shards))


def test_what_the_disk_does_not_give_is_no_damage(tmp_path):
    """Else an index would hold an empty shard for good, because a network was down for a minute."""
    with pytest.raises(UnreadError, match=r"0\.tar: cannot be read \(No such file"):
        tar_shards.read_shard(tmp_path / "0.tar", whole=False)


def test_a_broken_member_is_a_bad_image(shards):
    write(shards / "00011.tar", {"000.png": png(1)[:60], "000.txt": b"x"})
    images, _ = tar_shards.list_shards("--instance_data_dir", str(shards))
    kept = image_sets.readable("--instance_data_dir", images, max_bad=0.01, workers=1)
    assert len(kept) == 4
    assert [key for key, _ in kept.bad] == ["00011.tar/000.png"]
    assert len(kept.places) == 4


def test_a_shard_is_no_class(shards):
    from utils.data import prompt_styles

    images, _ = tar_shards.list_shards("--instance_data_dir", str(shards))
    (shards / "nothing").mkdir()
    assert [prompt_styles.class_of(k) for k in images.keys] == [None, None, None, "sub"]
    assert prompt_styles.empty_classes(images) == []
    with pytest.raises(
        UsageError, match="--class_prompt='classlevel' needs a folder for each class; 3 images"
    ):
        prompt_styles.resolve_prompts("classlevel", images)


def test_which_sources_are_shards(shards, scenes_dir):
    assert tar_shards.is_shards(str(shards))
    assert tar_shards.is_shards("x/{0..3}.tar")
    assert not tar_shards.is_shards(str(scenes_dir / "train"))


def test_captions_in_json_members_have_usual_names_or_the_one_that_is_named(tmp_path):
    from utils.data.field_names import Columns

    write(
        tmp_path / "0.tar",
        {
            "0.png": png(1),
            "0.json": b'{"prompt": "a", "long": "a longer one"}',
            "1.png": png(2),
            "1.json": b'{"TEXT": "b", "long": "b longer"}',
            "2.png": png(3),
            "2.json": b'{"text": "c", "caption": "the caption"}',
            "2.txt": b"in a text",
        },
    )
    source = str(tmp_path / "0.tar")
    assert tar_shards.list_shards("--d", source)[1] == {
        "0.tar/0.png": ["a"],
        "0.tar/1.png": ["b"],
        "0.tar/2.png": ["in a text"],
    }
    assert tar_shards.list_shards("--d", source, Columns("long"))[1] == {
        "0.tar/0.png": ["a longer one"],
        "0.tar/1.png": ["b longer"],
    }
    assert tar_shards.list_shards("--d", source, Columns("caption"))[1] == {
        "0.tar/2.png": ["the caption"]
    }


# Texts --------------------------------------------------------------------------------------------


def listed(tmp_path, members):
    """{name of the image: its captions or why it has none} of a tar file."""
    write(tmp_path / "0.tar", members)
    _, captions = tar_shards.list_shards("--val_dir", str(tmp_path / "0.tar"))
    return {key.removeprefix("0.tar/"): v for key, v in (captions | captions.faults).items()}


def test_a_text_belongs_to_the_image_with_its_whole_stem(tmp_path):
    members = {}
    for number in range(6):
        members |= {f"photo.2024.{number:02d}.png": png(number)}
        members |= {f"photo.2024.{number:02d}.txt": f"caption {number}".encode()}
    assert listed(tmp_path, members) == {
        f"photo.2024.{number:02d}.png": [f"caption {number}"] for number in range(6)
    }


def test_the_first_dot_ends_a_stem_only_where_the_text_can_be_meant_for_no_other_image(tmp_path):
    assert listed(
        tmp_path,
        {
            # the samples of WebDataset
            "a.seg.png": png(1),
            "a.jpg.png": png(2),
            "a.txt": b"both",
            "b.img.png": png(3),
            "b.text.txt": b"its only text",
            "c.0.png": png(4),
            "c.1.png": png(5),
            "c.1.txt": b"of c.1 alone",
            "c.2.txt": b"of none",
            "d.0.png": png(6),
            "d.1.txt": b"one",
            "d.2.txt": b"two",
        },
    ) == {
        "a.seg.png": ["both"],
        "a.jpg.png": ["both"],
        "b.img.png": ["its only text"],
        "c.0.png": "'c.2.txt' may be its text or that of another of 2 images whose names begin"
        " with 'c'",
        "c.1.png": ["of c.1 alone"],
        "d.0.png": "'d.1.txt' or one of 1 more may be its text or that of another of 1 images whose"
        " names begin with 'd'",
    }


def test_two_texts_that_claim_one_image_are_named_and_neither_is_read(tmp_path):
    found = listed(tmp_path, {"a.png": png(1), "a.txt": b"one", "a.TXT": b"two"})
    assert found == {"a.png": "two texts claim it, 'a.txt' and 'a.TXT', and differ"}
    with tarfile.open(tmp_path / "0.tar", "w") as archive:
        for name, content in (("a.png", png(1)), ("a.txt", b"one"), ("a.txt", b"two")):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    _, captions = tar_shards.list_shards("--val_dir", str(tmp_path / "0.tar"))
    assert captions.faults["0.tar/a.png"].startswith("two texts claim it, 'a.txt' and 'a.txt'")


def test_a_json_member_may_hold_a_list_of_captions_and_an_empty_one(tmp_path):
    fields = {
        "a": {"caption": ["one", "two"], "text": "other"},
        "b": {"caption": None, "texts": ["three"], "url": "u"},
        "c": {"caption": ""},
        "d": {"caption": "", "prompt": "full"},
        "e": {"caption": [1]},
    }
    members = {}
    for stem, held in fields.items():
        members |= {f"{stem}.png": png(ord(stem)), f"{stem}.json": json.dumps(held).encode()}
    assert listed(tmp_path, members) == {
        "a.png": ["one", "two"],
        "b.png": ["three"],
        "c.png": [""],
        "d.png": ["full"],
    }
    assert [m.known.url for m in tar_shards.read_shard(tmp_path / "0.tar").images][:2] == [
        None,
        "u",
    ]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_texts_in_a_tar_are_read_however_an_editor_saved_them(tmp_path, encoding):
    members = {
        "a.png": png(1),
        "a.txt": "a café\r\n".encode(encoding),
        "b.png": png(2),
        "b.json": '{"caption": "a café"}\r\n'.encode(encoding),
        "c.png": png(3),
        "c.caption": "a café".encode(encoding),
    }
    assert listed(tmp_path, members) == {f"{stem}.png": ["a café"] for stem in "abc"}


def test_texts_that_cannot_be_decoded_are_named_with_their_place(tmp_path):
    members = {
        "a.png": png(1),
        "a.txt": b"caf\xe9",
        "b.png": png(2),
        "b.json": b"{",
        "c.png": png(3),
        "c.json": b"[" * 200_000,
        "d.png": png(4),
        "d.txt": b"x" * ((1 << 20) + 1),
    }
    found = listed(tmp_path, members)
    assert found["a.png"] == ("a.txt: is not UTF-8 text at line 1, byte 3 (0xe9); save it as UTF-8")
    assert found["b.png"].startswith("b.json: is not JSON (")
    assert found["c.png"] == "c.json: is nested too deeply"
    assert found["d.png"] == "d.txt: has 1048577 bytes, which is no caption"
