"""Fetches the npm package of emoji pictures."""

from __future__ import annotations

import shutil
import subprocess
import tarfile
from pathlib import Path

from benchmarks.copying.picture_sets import EMOJI_PACKAGE
from utils.runtime.errors import UsageError


def emoji_folder(given: str | None, cache: Path) -> Path:
    """The unpacked package: the folder given by --emoji, or one that npm fetches into `cache` (74
    MB) unless it is there already.

    Raises UsageError if it is not the package or npm cannot fetch it."""
    if given is not None:
        if not (Path(given) / "emoji.json").is_file():
            raise UsageError(
                f"--emoji={given!r} has no emoji.json; give the unpacked npm package"
                f" {EMOJI_PACKAGE}"
            )
        return Path(given)
    if not (cache / "package" / "emoji.json").is_file():
        _fetch(cache)
    return cache / "package"


def _fetch(cache: Path) -> None:
    cache.mkdir(parents=True, exist_ok=True)
    advice = f"give the unpacked package {EMOJI_PACKAGE} with --emoji"
    if shutil.which("npm") is None:
        raise UsageError(f"npm is not installed; install it, or {advice}")
    print(f"fetching {EMOJI_PACKAGE} with npm, 74 MB", flush=True)
    command = ["npm", "pack", "--silent", "--pack-destination", str(cache), EMOJI_PACKAGE]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except subprocess.CalledProcessError as error:
        reason = (error.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise UsageError(f"npm could not fetch {EMOJI_PACKAGE} ({reason}); {advice}") from None
    archive = cache / done.stdout.strip().splitlines()[-1]
    unpacked = cache / "unpacked"
    with tarfile.open(archive) as tar:
        tar.extractall(unpacked, filter="data")
    shutil.move(unpacked / "package", cache / "package")
    archive.unlink()
