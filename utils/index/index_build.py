"""The stage --build_index of diff_retrieval.py: build an index of the images of --val_dir, or
continue an existing one."""

from __future__ import annotations

import secrets
import signal
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from utils.cli import flags
from utils.data.field_names import USUAL, Columns
from utils.files.locks import CLAIMS, Claims, Stride
from utils.index import (
    index_counts,
    index_descriptor,
    index_preparation,
    index_resume,
    index_sources,
    shard_building,
    shard_files,
    vector_index,
)
from utils.index.index_resume import RECORD_CLAIM, ExistingIndex
from utils.index.index_sources import ImageSource
from utils.index.shard_building import Build
from utils.retrieval import evaluation_stage, features, measurement
from utils.runtime import devices, environment
from utils.runtime.errors import Stopped, UsageError

if TYPE_CHECKING:
    import torch

    from utils.cli.retrieval_options import RetrievalOptions
    from utils.retrieval.evaluation_request import DescriptorChoice
    from utils.runtime.parallel import Processes


@dataclass(frozen=True)
class ImageFiles:
    """The images of an index."""

    folder: str  # --val_dir: a folder, tar files or their address
    captions: str | None  # captions file of a folder
    max_bad: float  # share of unreadable images, or of tar files, above which it is an error
    columns: Columns = USUAL  # of captions files: --caption_column, --image_column


@dataclass(frozen=True)
class BuildRequest:
    """What a build is asked for."""

    index: str  # --build_index: the folder of the index
    images: ImageFiles
    descriptor: DescriptorChoice
    batch_size: int  # images that pass the network at once
    workers: int  # processes that read images, of each process
    mixed_precision: str | None  # of the network; None: that of the device

    @property
    def root(self) -> Path:
        """Path of the folder of the index."""
        return Path(self.index)


def build(
    opts: RetrievalOptions,
    processes: Processes,
    *,
    then: Iterable[str | Path] = (),
) -> None:
    """Build an index of --val_dir in --build_index. Shards of an existing index that are whole and
    of the same images are kept.

    then: paths that the caller writes afterwards, for --dry_run.

    UsageError for a folder that is not ours, for an index of other images or of another descriptor,
    and, once everything is written, when too many images cannot be read. Stopped after Ctrl-C."""
    request = _request_of(opts)
    try:
        if opts.dry_run:
            _show_plan(request, processes, flags.as_dict(opts), then)
        else:
            _build(request, processes)
    except KeyboardInterrupt:
        raise Stopped("stopped; run the same command again to continue", signal.SIGINT) from None


def _request_of(opts: RetrievalOptions) -> BuildRequest:
    """What the options ask to build."""
    return BuildRequest(
        index=cast("str", opts.build_index),
        images=ImageFiles(
            cast("str", opts.val_dir),
            captions=opts.val_captions,
            max_bad=opts.max_bad_images,
            columns=opts.columns,
        ),
        descriptor=evaluation_stage.descriptor_choice(opts),
        batch_size=opts.batch_size,
        workers=opts.num_workers,
        mixed_precision=opts.mixed_precision,
    )


def _show_plan(
    request: BuildRequest,
    processes: Processes,
    options: dict[str, Any],
    then: Iterable[str | Path],
) -> None:
    """Print what a build would do, for --dry_run. options: as they are recorded."""
    with processes.together():
        source, existing = _opened(request, processes)
        if processes.main:
            processes.show({"options": options, **_plan(request, source, existing, then)})


def _opened(
    request: BuildRequest, processes: Processes
) -> tuple[ImageSource, ExistingIndex | None]:
    """The images, and the index that the build continues, None for a new one."""
    source = index_sources.open_source(
        request.images.folder,
        request.images.captions,
        columns=request.images.columns,
        ask_server=processes.main,
        say=processes.say,
    )
    return source, _existing_index(request, source)


def _build(request: BuildRequest, processes: Processes) -> None:
    with processes.together():
        source, _ = _opened(request, processes)
    with processes.together():
        dtype = devices.measuring_dtype(request.mixed_precision, processes.device)
    build = _open_build(request, processes, source, dtype)
    with processes.together():
        if processes.main:
            _prepare(request, build)
    started = time.perf_counter()
    with shard_building.end_together(build):
        own = shard_building.make_shards(build)
    shards, images = (sum(part) for part in zip(*processes.gather(own), strict=True))
    seconds = time.perf_counter() - started
    launch = {
        "shards": shards,
        "images": images,
        "seconds": round(seconds, 3),
        "images_per_second": round(images / seconds, 3),
        "processes": processes.count,
        "device": processes.device.type,
        "dtype": str(dtype),
        "environment": environment.environment(),
    }
    with processes.together():
        if processes.main:
            _finish(request, build, launch)


# Before -------------------------------------------------------------------------------------------


def _existing_index(request: BuildRequest, source: ImageSource) -> ExistingIndex | None:
    """The index at --build_index, None for a new one. UsageError when its descriptor differs from
    what the flags say, before any network loads."""
    existing = index_resume.existing_index(request.index, request.images.folder, source)
    if existing is not None:
        index_descriptor.require_descriptor(request.descriptor, request.index, existing.descriptor)
    return existing


def _plan(
    request: BuildRequest,
    source: ImageSource,
    existing: ExistingIndex | None,
    then: Iterable[str | Path],
) -> dict[str, Any]:
    """What a build would do, for --dry_run; nothing is written. then: paths that are written
    afterwards."""
    root = request.root
    valid = set()
    if existing is not None:
        finished = [n for n in source.names if shard_files.is_finished(root, n)]
        valid = {
            n
            for n in finished
            if not index_resume.rebuild_reason(root, n, source, existing.descriptor)
        }
    writes: list[str | Path] = [root / vector_index.FILE]
    for name in source.names:
        if name not in valid:
            writes.extend(shard_files.paths_of(root, name))
    return {
        "shards": len(source.names),
        "finished": len(valid),
        "writes": [str(path) for path in (*writes, *then)],
    }


def _open_build(
    request: BuildRequest, processes: Processes, source: ImageSource, dtype: torch.dtype
) -> Build:
    """Load the network of the descriptor and choose how processes share the shards."""
    with processes.together():
        choice = request.descriptor
        extractor = measurement.build_descriptor(choice, device=processes.device, dtype=dtype)
        descriptor = index_descriptor.descriptor_record(choice, extractor)
    reader = features.ReaderSettings(
        batch_size=request.batch_size, num_workers=request.workers, processes=processes, cache=None
    )
    root = request.root
    return Build(
        root=root,
        source=source,
        claims=_claims(root, source.names, processes),
        extractor=extractor,
        descriptor=descriptor,
        reader=reader,
        processes=processes,
        launch=processes.share(secrets.token_hex(4)),
    )


def _claims(root: Path, names: list[str], processes: Processes) -> Claims | Stride:
    """How processes share the shards: by locks, or in fixed parts where the file system has no
    locks. The main process tests the locks for all."""
    has_locks = False
    with processes.together():
        try:
            claims = Claims(root / CLAIMS)
            if processes.main:
                has_locks = claims.work()
        except OSError as error:
            raise UsageError(
                f"--build_index={str(root)!r} cannot be created ({error.strerror}:"
                f" {error.filename!r}); use another folder"
            ) from None
    if processes.share(has_locks):
        return claims
    processes.say(
        f"{root}: this file system has no locks; each process builds a fixed share of the"
        " shards, and a second launch at the same time would build them twice"
    )
    return Stride(names, processes.index, processes.count)


def _prepare(request: BuildRequest, build: Build) -> None:
    """Check the existing index once more, because another launch may have created it while the
    network was loaded; then remove its invalid shards and write index.json."""
    with build.claims.while_others_wait().take(RECORD_CLAIM, wait=True):
        existing = _existing_index(request, build.source)
        if existing is None:
            existing = ExistingIndex(build.descriptor, planned=())
        if existing.recovered is not None:
            build.processes.say(
                f"{vector_index.FILE} is missing: it is rebuilt from {existing.recovered} shards"
            )
        index_descriptor.require_descriptor(
            request.descriptor,
            build.root,
            existing.descriptor,
            build.descriptor,
        )
        index_preparation.prepare(build, existing)


# After --------------------------------------------------------------------------------------------


def _finish(request: BuildRequest, build: Build, launch: dict[str, Any]) -> None:
    """Report what was built, and write the counts if every planned shard is finished. UsageError
    when more images or tar files than --max_bad_images accepts cannot be read: the index is
    complete all the same."""
    claims, say = build.claims.while_others_wait(), build.processes.say
    with claims.take(RECORD_CLAIM, wait=True):
        record = vector_index.read_record(build.root)
        planned = record["shards"]
        missing = [n for n in planned if not shard_files.is_finished(build.root, n)]
        # counts without `flat` are of an earlier version
        if not missing and (launch["shards"] or "flat" not in record.get("counts", ())):
            record |= {"counts": index_counts.count(build.root, planned), "launch": launch}
            vector_index.write_index(
                build.root,
                descriptor=record["descriptor"],
                source=index_sources.record_of(build.source),
                planned=planned,
                counts=record["counts"],
                launch=launch,
            )
    if launch["shards"]:
        say(
            f"{launch['images']} images of {launch['shards']} shards in {launch['seconds']:.1f} s, "
            f"{launch['images_per_second']:.1f} images/s"
        )
    if missing:
        say(_missing_in_words(claims, missing, len(planned)))
        say(f"index: {build.root}")
        return
    counts = record["counts"]
    say(index_counts.in_words(counts))
    if counts["damaged_shards"]:
        say(index_counts.damage_in_words(build.root, counts))
    say(f"index: {build.root}")
    _require_accepted(request.images, build, planned, counts)


def _missing_in_words(claims: Claims | Stride, missing: list[str], planned: int) -> str:
    """A line that counts the unfinished shards: those being built by another process, and the
    missing ones."""
    held = 0
    for name in missing:
        with claims.take(name) as free:
            if not free:
                held += 1
    return (
        f"{len(missing)} of {planned} planned shards are not finished: {held} being built by"
        f" another process, {len(missing) - held} missing, first {missing[0]!r}; the last"
        " launch to finish writes the counts"
    )


def _require_accepted(
    images: ImageFiles, build: Build, planned: list[str], counts: dict[str, Any]
) -> None:
    """Raise UsageError when more than --max_bad_images of the tar files or of the images cannot be
    read."""
    flag, accepted = f"--val_dir={images.folder!r}", images.max_bad
    named = set(build.source.names)  # a damaged shard whose tar file is gone cannot be rebuilt
    damaged = [n for n in counts["damaged_shards"] if n in named]
    index_counts.require_whole(
        flag, build.root, counts | {"damaged_shards": damaged}, max_bad=accepted
    )
    index_counts.require_readable(flag, build.root, planned, counts, max_bad=accepted)
