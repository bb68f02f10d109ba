"""Prepare the building of shards: remove the shards of an existing index that are no longer valid,
and write index.json with the planned shards."""

from __future__ import annotations

from collections.abc import Sequence

from utils.data.image_sets import natural_key
from utils.index import index_resume, index_sources, shard_files, vector_index
from utils.index.index_resume import ExistingIndex
from utils.index.index_sources import ImageSource, TarSource
from utils.index.shard_building import Build


def prepare(build: Build, existing: ExistingIndex) -> None:
    """Remove invalid shards and write index.json. The main process calls this and holds the lock of
    index.json; other launches may be building shards meanwhile."""
    root, source = build.root, build.source
    _remove_invalid_shards(build)
    if source.from_tars:  # other tar files of the folder may have been named earlier
        planned = sorted({*source.names, *existing.planned}, key=natural_key)
        planned = _without_lost_shards(build, planned)
    else:  # the shards of a folder are always all of its images
        planned = sorted(source.names, key=natural_key)
        _remove_surplus_shards(build)
    is_recorded = planned == list(existing.planned) and existing.recovered is None
    if build.unfinished() or not is_recorded:
        # without the counts of an earlier build, which no longer hold
        vector_index.write_index(
            root,
            descriptor=existing.descriptor,
            source=index_sources.record_of(source),
            planned=planned,
        )


def _remove_invalid_shards(build: Build) -> None:
    """Remove the vectors of shards that are damaged, or whose images or descriptor have changed."""
    claims = build.claims.while_others_wait()
    for name in build.source.names:
        with claims.take(name) as mine:  # else another launch is building it
            if not (mine and shard_files.is_finished(build.root, name)):
                continue
            reason = index_resume.rebuild_reason(build.root, name, build.source, build.descriptor)
            if reason:
                build.processes.say(f"shard {name} is rebuilt: {reason}")
                shard_files.paths_of(build.root, name)[0].unlink()


def _remove_surplus_shards(build: Build) -> None:
    """Remove the last shards of an index whose folder holds fewer images now."""
    surplus = {*shard_files.finished(build.root)} - {*build.source.names}
    for name in sorted(surplus, key=natural_key):
        build.processes.say(f"shard {name} is removed: the folder holds fewer images now")
        for path in shard_files.paths_of(build.root, name):
            path.unlink(missing_ok=True)


def _without_lost_shards(build: Build, planned: list[str]) -> list[str]:
    """The planned shards without the lost ones, which were never built and whose tar files no
    longer exist. An index that waited for them would never be complete."""
    root, source = build.root, build.source
    named, finished = set(source.names), set(shard_files.finished(root))
    unnamed = [n for n in planned if n not in named]
    lost = set(source.gone([n for n in unnamed if n not in finished]))
    kept = _gone_local([n for n in unnamed if n in finished], source)
    if lost:
        build.processes.say(
            f"{len(lost)} shards of the index are not named by --val_dir, and their tar files no"
            f" longer exist, first {min(lost, key=natural_key)!r}: they were never built and are"
            " removed from the plan"
        )
        for name in lost:
            for path in shard_files.paths_of(root, name):
                path.unlink(missing_ok=True)  # a Parquet whose vectors were removed
    if kept:
        build.processes.say(
            f"{len(kept)} shards of the index are not named by --val_dir, and their tar files no"
            f" longer exist, first {kept[0]!r}: their vectors stay in the index"
        )
    return [n for n in planned if n not in lost]


def _gone_local(names: Sequence[str], source: ImageSource) -> list[str]:
    """The finished shards whose local tar file no longer exists. A server is not asked, as there
    may be thousands."""
    return source.gone(names) if isinstance(source, TarSource) else []
