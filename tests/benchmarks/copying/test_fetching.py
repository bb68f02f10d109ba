"""Where the emoji come from: a folder that is given, or npm."""

import io
import subprocess
import tarfile

import pytest

from benchmarks.copying import fetching
from utils.runtime.errors import UsageError


def test_a_folder_that_is_not_the_package_is_refused(tmp_path):
    with pytest.raises(UsageError, match="has no emoji.json; give the unpacked npm package"):
        fetching.emoji_folder(str(tmp_path), tmp_path)
    (tmp_path / "emoji.json").write_text("[]")
    assert fetching.emoji_folder(str(tmp_path), tmp_path) == tmp_path


def test_without_npm_the_error_says_what_to_give(monkeypatch, tmp_path):
    monkeypatch.setattr(fetching.shutil, "which", lambda name: None)
    with pytest.raises(UsageError, match=r"npm is not installed; .* with --emoji"):
        fetching.emoji_folder(None, tmp_path)


def test_npm_packs_the_archive_once(monkeypatch, tmp_path):
    calls = []

    def pack(command, **_):
        calls.append(command)
        with tarfile.open(tmp_path / "cache" / "emoji.tgz", "w:gz") as tar:
            entry = tarfile.TarInfo("package/emoji.json")
            entry.size = 2
            tar.addfile(entry, io.BytesIO(b"[]"))
        return subprocess.CompletedProcess(command, 0, "emoji.tgz\n", "")

    monkeypatch.setattr(fetching.shutil, "which", lambda name: "/usr/bin/npm")
    monkeypatch.setattr(fetching.subprocess, "run", pack)
    for _ in range(2):
        folder = fetching.emoji_folder(None, tmp_path / "cache")
        assert (folder / "emoji.json").read_text() == "[]"
    assert len(calls) == 1
    assert calls[0][-1] == "emoji-datasource-google@16.0.0"


def test_a_failure_of_npm_is_one_line(monkeypatch, tmp_path):
    def fail(command, **_):
        raise subprocess.CalledProcessError(1, command, "", "npm error\nno network\n")

    monkeypatch.setattr(fetching.shutil, "which", lambda name: "/usr/bin/npm")
    monkeypatch.setattr(fetching.subprocess, "run", fail)
    with pytest.raises(UsageError, match=r"could not fetch .* \(no network\); give"):
        fetching.emoji_folder(None, tmp_path)
