"""An index as a build finds it: whether it is one to go on with, and which of its shards are of
use."""

import contextlib
import re
from pathlib import Path

from utils.files import owned_folders
from utils.files.locks import CLAIMS
from utils.index import index_descriptor, shard_files, vector_index
from utils.runtime.errors import DataError, UsageError

# what is half written: of a shard, or of a file beside them
PART = re.compile(r"\.(?:(.+)\.(?:npy|parquet|tar)|(index)\.json|ann\.(?:json|faiss))\.\d+\.part")


def existing_record(opts, source):
    """index.json of --build_index, or None where it is to be made. UsageError for a folder that is
    not ours, for other images, and for another descriptor as far as flags tell: before any network
    loads."""
    data = _found(opts, source)
    if data is not None:
        index_descriptor.require_descriptor(opts, opts.build_index, data["descriptor"])
    return data


def _found(opts, source):
    root, shown = Path(opts.build_index), f"--build_index={opts.build_index!r}"
    owned_folders.require_writable("--build_index", root)
    if not (root / vector_index.FILE).exists():
        adopted = _adopted(root, source, shown)
        if adopted:
            return adopted
        foreign = (
            [p.name for p in sorted(root.iterdir()) if not _is_ours(p)] if root.is_dir() else []
        )
        if foreign:
            raise owned_folders.foreign_error(
                "--build_index",
                opts.build_index,
                foreign[0],
                writer="index",
                accepted="use a new folder, or an index to continue",
            )
        return None
    data = vector_index.read_record(root)
    theirs = data["source"]
    if (
        source.folder not in vector_index.folders_of(root, theirs)
        or source.from_tars != theirs["shards"]
    ):
        what = "tar shards" if theirs["shards"] else "images"
        raise UsageError(
            f"--val_dir={opts.val_dir!r}: the index of {shown} is of the {what} in"
            f" {theirs['folder']!r}; takes those, or a new index"
        )
    return data


def _is_ours(path):
    """Whether a build left this in a folder in which no shard is whole; files of shards may be
    somebody's own."""
    if path.name == shard_files.FOLDER and path.is_dir():
        return all(PART.fullmatch(p.name) for p in path.iterdir())
    return path.name == CLAIMS or PART.fullmatch(path.name) is not None


def _adopted(root, source, shown):
    """What index.json would say of shards that lost it, as they say it themselves; None where there
    are none. UsageError when they are not of one index, or of other images."""
    found = {}
    for name in shard_files.finished(root):
        with contextlib.suppress(DataError):  # made anew, if its images are there
            found[name] = shard_files.read_shard(root, name)[0].facts
    if not found:
        return None
    descriptor = next(iter(found.values()))["descriptor"]
    if any(
        index_descriptor.difference(facts["descriptor"], descriptor) for facts in found.values()
    ):
        raise UsageError(
            f"{shown} holds no {vector_index.FILE}, and shards of several descriptors; takes a new"
            " folder"
        )
    if not any(
        facts["made_of"] == source.change_stamp(name)
        for name, facts in found.items()
        if name in source.names
    ):
        raise UsageError(
            f"{shown} holds no {vector_index.FILE}, and shards of other images than --val_dir"
            " names; takes theirs, or a new folder"
        )
    return {"descriptor": descriptor, "shards": list(found), "adopted": len(found)}


def why_anew(root, name, source, descriptor):
    """Why a shard that is there has to be made again, or None."""
    try:
        facts = shard_files.read_shard(root, name)[0].facts
    except DataError as error:
        return str(error).split(": ", 1)[1].partition(";")[0]
    what = index_descriptor.difference(facts["descriptor"], descriptor)
    if what:
        return f"was made by another descriptor ({what})"
    return (
        None if facts["made_of"] == source.change_stamp(name) else "its images have changed since"
    )
