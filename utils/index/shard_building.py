"""Compute the shards of an index: every process takes the next shard that no other process builds,
until all are finished.

A shard is locked, read, written as a whole and unlocked. A killed process loses only the shard that
it was building, and several launches, also on several machines, may work on one index at a time."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.files.locks import CLAIMS, Claims, Stride
from utils.index import index_resume, shard_files
from utils.index.index_sources import ImageSource
from utils.reports.progress import progress
from utils.retrieval import features
from utils.retrieval.formulas import similarity
from utils.runtime.errors import DataError

if TYPE_CHECKING:
    from utils.retrieval.descriptors.network import Extractor
    from utils.runtime.parallel import Processes


@dataclass(frozen=True)
class Build:
    """What every process of a launch needs to build shards."""

    root: Path  # the folder of the index
    source: ImageSource
    claims: Claims | Stride  # the locks of the shards
    extractor: Extractor  # computes the descriptors
    descriptor: dict[str, Any]  # the record of the extractor
    reader: features.ReaderSettings
    processes: Processes
    launch: str  # a random name, the same in all processes of the launch

    @property
    def stop(self) -> Path:
        """A file that exists when a process of this launch has failed: the others then end after
        their current shard."""
        return self.root / CLAIMS / f".{self.launch}.stop"

    def unfinished(self) -> list[str]:
        """Names of the shards of the source that are not finished."""
        return [n for n in self.source.names if not shard_files.is_finished(self.root, n)]


def make_shards(build: Build) -> tuple[int, int]:
    """Build shards until none is left that no other process builds. Returns: (shards, images) that
    this process has built."""
    _remove_partial_files(build)
    pending, count = build.unfinished(), build.processes.count
    if not pending:
        return 0, 0
    label = "indexing" if count == 1 else f"indexing, process 1 of {count}"
    sizes = []
    with progress(None, total=None, label=label, main_process=build.processes.main) as bar:
        for size in _take_shards(build, pending, bar):
            sizes.append(size)
            # an estimate: shards are of similar length, and the other processes build as many
            bar.total = round(bar.n / len(sizes) * len(pending) / count)
    return len(sizes), sum(sizes)


def _remove_partial_files(build: Build) -> None:
    """Remove the half-written files of dead processes: no process holds the lock of such a file."""
    for folder in (build.root, build.root / shard_files.FOLDER):
        for entry in list(os.scandir(folder)) if folder.is_dir() else ():
            claim = index_resume.claim_of_partial(entry.name)
            if claim is None:
                continue
            with build.claims.take(claim) as mine:
                if mine:
                    Path(entry).unlink(missing_ok=True)


def _take_shards(build: Build, pending: list[str], bar: Any) -> Iterator[int]:
    """Build the pending shards that no other process is building, and try the others again until a
    pass builds none, because another process may have died. Yields: images of each shard built."""
    built_any = True
    while built_any:
        built_any = False
        for name in pending:
            size = _make_if_free(build, name, bar)
            if size is not None:
                built_any = True
                yield size


def _make_if_free(build: Build, name: str, bar: Any) -> int | None:
    """Build a shard unless it is finished, another process holds it, or a process of this launch
    has failed. Returns: its number of images, None if it was not built."""
    if build.stop.exists() or shard_files.is_finished(build.root, name):
        return None
    with build.claims.take(name) as mine:
        # another process may have finished it before this one got the lock
        if mine and not shard_files.is_finished(build.root, name):
            return make_shard(build, name, bar)
    return None


def make_shard(build: Build, name: str, bar: Any) -> int:
    """Build a shard whose lock this process holds. bar: a tqdm bar that counts images. Returns: its
    number of images."""
    # before the images are read: a change while they are read is then noticed by the next build
    change_stamp = build.source.change_stamp(name)

    def counted(batches: Iterable) -> Iterator:
        for batch in batches:
            yield batch
            bar.update(len(batch[0]) + len(batch[2]))

    reader = replace(build.reader, wrap=counted)
    with build.source.content(name, build.root / shard_files.FOLDER) as content:
        images = content.images
        result = features.read_pass(
            images, range(len(images)), {"descriptor": build.extractor}, reader
        )
    vectors = result.features["descriptor"]
    features.require_finite(replace(images, root=build.source.folder), result.indices, vectors)
    table = [
        content.rows[i] | {"width": width, "height": height}
        for i, (width, height) in zip(result.indices, result.sizes, strict=True)
    ]
    # the path of a temporary file is no part of the reason
    bad = [(key, reason.removeprefix(f"{images.root / key}: ")) for key, reason in result.bad]
    shard_files.write_shard(
        build.root,
        name,
        similarity.normalised(vectors),
        table,
        descriptor=build.descriptor,
        change_stamp=change_stamp,
        bad=[*images.bad, *bad],
        damage=content.damage,
        caption_faults=content.caption_faults,
        left_out=images.left_out,
    )
    return len(table)


@contextlib.contextmanager
def end_together(build: Build) -> Iterator[None]:
    """When one process fails, end the other processes of the launch after their current shard
    instead of after all shards.

    A ToolkitError, and a disk error, which becomes a DataError, is raised in all processes. Any
    other error is raised as it is; the launcher then ends the processes that wait for this one."""
    processes = build.processes
    try:
        with processes.together():
            try:
                yield
            except Exception as error:
                with contextlib.suppress(OSError):  # the error may be a full disk
                    build.stop.touch()
                if not isinstance(error, OSError):
                    raise
                message = f"{error.filename or build.root}: {error.strerror or error}"
                if processes.count > 1:
                    message += f" (process {processes.index + 1} of {processes.count})"
                raise DataError(message) from error
    finally:
        if processes.main:
            build.stop.unlink(missing_ok=True)
