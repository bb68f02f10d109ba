"""The images below a folder, and what else lies there: what is left out, and what is named like an
image and is none."""

from __future__ import annotations

import errno
import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from utils.data import image_names
from utils.runtime.regular_files import ABSENT, IN_A_CIRCLE, irregular

# folders that the stages write below a folder that is measured
OUTPUT_FOLDERS = re.compile(r"evaluations|inferences|wandb|checkpoint.*|state_.*")
INDEX_KIND = b'"kind": "index"'  # in the index.json that utils.index.vector_index writes


@dataclass
class Found:
    """What lies below a folder."""

    images: list[tuple[str, int]] = field(default_factory=list)  # (key, size in bytes)
    bad: list[tuple[str, str]] = field(default_factory=list)  # (key, reason): named like images
    left_out: Counter[str] = field(default_factory=Counter)  # {kind of file: how many}


def _is_output(entry: os.DirEntry) -> bool:
    """Whether a stage of the toolkit wrote this folder: it has the name of an output, or is an
    evaluation that was written with --output_dir."""
    evaluation = all(
        os.path.exists(os.path.join(entry.path, name)) for name in ("metrics.json", "report.html")
    )
    return evaluation or OUTPUT_FOLDERS.fullmatch(entry.name) is not None


def is_made_of_images(folder: str | Path) -> bool:
    """Whether a folder is an index, or the output of --dedup: the pictures in their galleries are
    not images of a set."""
    groups, shards, index = (
        os.path.join(folder, name) for name in ("groups.parquet", "shards", "index.json")
    )
    if os.path.isfile(groups) and os.path.isfile(os.path.join(folder, "summary.json")):
        return True
    if not (os.path.isfile(index) and os.path.isdir(shards)):
        return False
    with open(index, "rb") as file:  # other programs write files of that name too
        return INDEX_KIND in file.read(4096)


def _entries(
    folder: str | Path, above: frozenset[tuple[int, int]], skip: bool
) -> Iterator[tuple[os.DirEntry, str | None]]:
    """Yield the entries below a folder, with the reason why one is not followed or opened.

    above: (device, inode) of the folders that lead here; skip: not what stages wrote."""
    if is_made_of_images(folder):
        return
    facts = os.stat(folder)
    above |= {(facts.st_dev, facts.st_ino)}
    with os.scandir(folder) as entries:
        for entry in entries:
            try:
                is_dir = entry.is_dir()
                stat = entry.stat() if is_dir and entry.is_symlink() else None
            except OSError as error:
                if error.errno != errno.ELOOP:
                    raise
                yield entry, IN_A_CIRCLE
                continue
            if not is_dir or image_names.set_aside(entry.name):
                yield entry, None
            elif stat is not None and (stat.st_dev, stat.st_ino) in above:
                yield entry, IN_A_CIRCLE
            elif not (skip and _is_output(entry)):
                yield from _entries(entry.path, above, skip)


def walk(root: str | Path, *, skip: bool = False) -> Found:
    """All that lies below a folder. skip: not what stages wrote. OSError for a folder that cannot
    be read."""
    found = Found()
    for entry, reason in _entries(root, frozenset(), skip):
        _add(found, entry, os.path.relpath(entry.path, root).replace(os.sep, "/"), reason)
    return found


def _add(found: Found, entry: os.DirEntry, key: str, reason: str | None) -> None:
    """Add an entry. reason: why it is not opened, or None."""
    kind = image_names.kind_of(key)
    is_image = image_names.has_suffix(key) and kind is None
    if reason is not None and kind is None:
        found.bad.append((key, reason))
    elif not is_image:
        found.left_out.update([kind] if kind else [])
    elif entry.is_file():
        found.images.append((key, entry.stat().st_size))
    elif (reason := irregular(entry.path)) == ABSENT:
        found.images.append((key, 0))  # a dangling link is listed, and cannot be read later
    else:
        found.bad.append((key, reason or ""))


def holds_images(root: str | Path) -> bool:
    """Whether there is an image anywhere below a folder."""
    return any(
        reason is None
        and not entry.is_dir()
        and image_names.has_suffix(entry.name)
        and image_names.set_aside(entry.name) is None
        for entry, reason in _entries(root, frozenset(), False)
    )
