import pytest

from utils.files import whole_files
from utils.runtime.errors import DataError


def test_a_failed_write_leaves_the_old_file_and_nothing_beside_it(tmp_path):
    path = tmp_path / "a.json"
    whole_files.write_json(path, {"old": "café"})
    with pytest.raises(ValueError, match="JSON compliant|nan"):
        whole_files.write_json(path, {"new": float("nan")})

    def write_half():
        with whole_files.whole_file(path) as part:
            part.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert whole_files.read_json(path) == {"old": "café"}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_kind_and_version_are_checked(tmp_path):
    path = tmp_path / "run.json"
    whole_files.write_manifest(path, "run", seed=3)
    assert whole_files.read_manifest(path, "run") == {"kind": "run", "version": 1, "seed": 3}
    with pytest.raises(DataError, match="holds 'run'; a manifest of kind 'generation' is needed"):
        whole_files.read_manifest(path, "generation")
    whole_files.write_json(path, {"kind": "run", "version": 2})
    with pytest.raises(DataError, match="version 2; this toolkit reads versions 1 to 1"):
        whole_files.read_manifest(path, "run")


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b""])
def test_what_is_not_json_is_named(tmp_path, content):
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match="x.json: is not JSON"):
        whole_files.read_json(path)


def test_the_hash_of_a_file_is_that_of_its_bytes(tmp_path):
    (tmp_path / "f").write_bytes(b"abc")
    assert (
        whole_files.file_sha256(tmp_path / "f")
        == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )


def test_half_a_character_is_replaced_and_bytes_of_a_name_stay(tmp_path):
    # an emoji cut in two; a byte that is not UTF-8
    whole_files.write_text(tmp_path / "t.txt", "a\ud83d b\udcff")
    assert (tmp_path / "t.txt").read_bytes() == "a\ufffd b".encode() + b"\xff"
