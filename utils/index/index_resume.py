"""Check whether an existing index folder can be continued, and which of its shards are still
valid."""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utils.data import content_stamps
from utils.files import owned_folders
from utils.files.locks import CLAIMS
from utils.index import index_descriptor, search, shard_files, vector_index
from utils.index.index_sources import ImageSource
from utils.runtime.errors import DataError, UsageError

RECORD_CLAIM = ".index"  # the lock for writing index.json; no shard's name begins with a dot
# temporary names of files that are half written, with the number of the writing process
PARTIAL_FILE = re.compile(
    r"\.(?:(?P<shard>.+)\.(?:npy|parquet|tar)|(?P<record>index\.json)|ann\.(?:json|faiss))"
    r"\.\d+\.part"
)


def claim_of_partial(file_name: str) -> str | None:
    """Name of the lock that a process holds while it writes a temporary file: that of a shard, of
    index.json or of the approximate search. None for any other file."""
    match = PARTIAL_FILE.fullmatch(file_name)
    if match is None:
        return None
    if match["shard"]:
        return match["shard"]
    return RECORD_CLAIM if match["record"] else search.CLAIM


@dataclass(frozen=True)
class ExistingIndex:
    """What an index folder records before a build."""

    descriptor: dict[str, Any]  # record of the descriptor that computed the vectors
    planned: tuple[str, ...]  # names of all shards, finished or not
    # index.json was lost, and this many shards give its content; None if it was read
    recovered: int | None = None


def existing_index(build_index: str, val_dir: str, source: ImageSource) -> ExistingIndex | None:
    """The index at --build_index, or None if the folder is new or empty.

    source: of the images of --val_dir. UsageError for a folder that is not ours, or an index of
    other images; DataError for a damaged index.json."""
    root = Path(build_index)
    owned_folders.require_writable("--build_index", root)
    if not (root / vector_index.FILE).exists():
        recovered = _recovered_index(build_index, source)
        if recovered:
            return recovered
        foreign = (
            [p.name for p in sorted(root.iterdir()) if not _is_ours(p)] if root.is_dir() else []
        )
        if foreign:
            raise owned_folders.foreign_error(
                "--build_index",
                build_index,
                foreign[0],
                writer="index",
                accepted="use a new folder, or an index to continue",
            )
        return None
    record = vector_index.read_record(root)
    indexed = record["source"]
    if (
        source.folder not in vector_index.folders_of(root, indexed)
        or source.from_tars != indexed["shards"]
    ):
        kind = "tar shards" if indexed["shards"] else "images"
        raise UsageError(
            f"--val_dir={val_dir!r}: the index in --build_index={build_index!r} is of the {kind} in"
            f" {indexed['folder']!r}; use those, or a new --build_index"
        )
    return ExistingIndex(record["descriptor"], tuple(record["shards"]))


def _is_ours(path):
    """Whether an interrupted build left this path in a folder without a whole shard, so that
    nobody's own files are taken for ours."""
    if path.name == shard_files.FOLDER and path.is_dir():
        return all(PARTIAL_FILE.fullmatch(p.name) for p in path.iterdir())
    return path.name == CLAIMS or PARTIAL_FILE.fullmatch(path.name) is not None


def _recovered_index(build_index: str, source: ImageSource) -> ExistingIndex | None:
    """The content of a lost index.json, from the facts that the shards record; None without shards.
    UsageError when the shards are not of one index, or are of other images."""
    root, shown = Path(build_index), f"--build_index={build_index!r}"
    facts = {}
    for name in shard_files.finished(root):
        with contextlib.suppress(DataError):  # a damaged shard is rebuilt if its images exist
            facts[name] = shard_files.read_shard(root, name)[0].facts
    if not facts:
        return None
    descriptor = next(iter(facts.values()))["descriptor"]
    if any(index_descriptor.difference(f["descriptor"], descriptor) for f in facts.values()):
        raise UsageError(
            f"{shown} holds no {vector_index.FILE}, and its shards are of several descriptors; use"
            " a new folder"
        )
    unchanged = (
        content_stamps.same(facts[name]["made_of"], source.change_stamp(name))
        for name in facts
        if name in source.names
    )
    if not any(unchanged):
        raise UsageError(
            f"{shown} holds no {vector_index.FILE}, and its shards are of other images than"
            " --val_dir; use the --val_dir of these shards, or a new folder"
        )
    return ExistingIndex(descriptor, tuple(facts), recovered=len(facts))


def rebuild_reason(
    root: Path, name: str, source: ImageSource, descriptor: dict[str, Any]
) -> str | None:
    """Why a finished shard must be rebuilt, in words that follow its name; None if it is valid.

    descriptor: the one that its vectors should be of."""
    try:
        facts = shard_files.read_shard(root, name)[0].facts
    except DataError as error:
        # the message is a path, the reason after ": ", and advice after ";"
        return str(error).split(": ", 1)[1].partition(";")[0]
    difference = index_descriptor.difference(facts["descriptor"], descriptor)
    if difference:
        return f"was computed with another descriptor ({difference})"
    if not content_stamps.same(facts["made_of"], source.change_stamp(name)):
        return "its images have changed since"
    return None
