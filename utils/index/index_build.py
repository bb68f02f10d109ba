"""diff_retrieval.py --build_index: descriptors of the images of --val_dir, shard by shard, by all
processes that help.

A shard is taken, read, written whole and let go. What a kill loses is the shards in hand; the next
launch goes on, and several launches, on several machines, may work on one index at a time."""

import contextlib
import itertools
import json
import os
import secrets
import signal
import time
from dataclasses import dataclass, replace
from pathlib import Path

from utils.cli import flags
from utils.data.image_sets import natural_key
from utils.files.locks import CLAIMS, Claims, Stride
from utils.index import (
    index_counts,
    index_descriptor,
    index_resume,
    index_sources,
    search,
    shard_files,
    vector_index,
)
from utils.reports.progress import progress
from utils.retrieval import features, measurement
from utils.retrieval.formulas import similarity
from utils.runtime import devices, environment
from utils.runtime.errors import DataError, Stopped, UsageError

RECORD = ".index"  # the claim of index.json
# Making it ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Build:
    """What every process of a launch works with. descriptor: what makes the vectors, as recorded;
    launch: its name."""

    root: Path
    source: object
    claims: object
    extractor: object
    descriptor: dict
    opts: object
    processes: object
    launch: str

    @property
    def stop(self):
        """A file that says that a process of this launch met an error: others end too, after the
        shard in hand."""
        return self.root / CLAIMS / f".{self.launch}.stop"

    def unfinished(self):
        return [n for n in self.source.names if not shard_files.is_finished(self.root, n)]


def _prepare(build, say):
    """The main process, before any shard is made: index.json, and what of an earlier build is of no
    use any more."""
    root, source = build.root, build.source
    claims = build.claims.while_others_wait()
    with claims.take(RECORD, wait=True):  # a second launch may have begun this index a moment ago
        data = index_resume.existing_record(build.opts, source) or {
            "descriptor": build.descriptor,
            "shards": (),
        }
        if "adopted" in data:
            say(
                f"{vector_index.FILE} was lost: it is made anew from {data['adopted']} shards that"
                " are there"
            )
        index_descriptor.require_descriptor(build.opts, root, data["descriptor"], build.descriptor)
        for name in source.names:
            with claims.take(name) as mine:  # else another launch is making it
                there = mine and shard_files.is_finished(root, name)
                why = there and index_resume.why_anew(root, name, source, build.descriptor)
                if why:
                    say(f"shard {name} is made anew: {why}")
                    shard_files.paths_of(root, name)[0].unlink()
        # of tar files more may be named later; a folder is always all of it
        planned = sorted(
            {*source.names, *(data["shards"] if source.from_tars else ())}, key=natural_key
        )
        planned = _without_lost(root, source, planned, say)
        for name in (
            ()
            if source.from_tars
            else sorted({*shard_files.finished(root)} - {*planned}, key=natural_key)
        ):
            say(f"shard {name} is removed: the folder holds fewer images now")
            for path in shard_files.paths_of(root, name):
                path.unlink(missing_ok=True)
        if build.unfinished() or planned != list(data["shards"]) or "adopted" in data:
            # counts of an earlier build hold no longer
            _write_record(build, data["descriptor"], planned)


def _without_lost(root, source, planned, say):
    """The planned shards but those that were never made and now cannot be: an index that waited for
    them would never be complete."""
    named, there = set(source.names), set(shard_files.finished(root))
    others = [n for n in planned if n not in named]
    if not others:
        return planned
    lost = set(source.gone([n for n in others if n not in there]))
    # of addresses those of finished shards are not asked for: there may be thousands
    made = (
        source.gone([n for n in others if n in there])
        if isinstance(source, index_sources.TarSource)
        else ()
    )
    told = "shards of the index are not among those named, first"
    if lost:
        say(
            f"{len(lost)} {told} {min(lost, key=natural_key)!r}, and their tar files were gone"
            " before anything was made of them: they are planned no longer"
        )
        for path in (path for name in lost for path in shard_files.paths_of(root, name)):
            path.unlink(missing_ok=True)  # the Parquet of one whose vectors were removed
    if made:
        say(
            f"{len(made)} {told} {made[0]!r}, and their tar files are gone: what was made of them"
            " stays"
        )
    return [n for n in planned if n not in lost]


def _write_record(build, descriptor, planned, **more):
    source = {"folder": str(build.source.folder), "shards": build.source.from_tars}
    vector_index.write_index(
        build.root, descriptor=descriptor, source=source, planned=planned, **more
    )


def _remove_parts(build):
    """Remove what dead processes left half written: who has the claim of a shard alone writes
    it."""
    for folder in (build.root, build.root / shard_files.FOLDER):
        for entry in list(os.scandir(folder)) if folder.is_dir() else ():
            name = index_resume.PART.fullmatch(entry.name)
            if name is None:
                continue
            with build.claims.take(name[1] or (RECORD if name[2] else search.CLAIM)) as mine:
                if mine:
                    Path(entry).unlink(missing_ok=True)


def make_shard(build, name, bar):
    """Make a shard, whose claim this process holds. bar: is told of images. Returns: images in
    it."""
    # before it is read: what changes meanwhile is then seen as changed
    made_of = build.source.change_stamp(name)
    opts = build.opts

    def counted(batches):
        for batch in batches:
            yield batch
            bar.update(len(batch[0]) + len(batch[2]))

    reading = features.ReaderSettings(
        opts.batch_size, opts.num_workers, build.processes, None, counted
    )
    with build.source.content(name, build.root / shard_files.FOLDER) as (images, rows, damage):
        found = features.read_pass(
            images, range(len(images)), {"descriptor": build.extractor}, reading
        )
    vectors = found.features["descriptor"]
    features.require_finite(replace(images, root=build.source.folder), found.indices, vectors)
    table = [
        rows[i] | {"width": width, "height": height}
        for i, (width, height) in zip(found.indices, found.sizes, strict=True)
    ]
    # where the images lay is no part of the reason
    bad = [(key, reason.removeprefix(f"{images.root / key}: ")) for key, reason in found.bad]
    shard_files.write_shard(
        build.root,
        name,
        similarity.normalised(vectors),
        table,
        descriptor=build.descriptor,
        change_stamp=made_of,
        bad=[*images.bad, *bad],
        damage=damage,
    )
    return len(table)


def _work(build):
    """Take and make shards until none is left that nobody has. Returns: (shards, images) that this
    process made."""
    _remove_parts(build)
    pending, made = build.unfinished(), []
    if not pending:
        return 0, 0
    label = (
        "indexing"
        if build.processes.count == 1
        else f"indexing, process 1 of {build.processes.count}"
    )
    with progress(None, total=None, label=label, main_process=build.processes.main) as bar:
        while True:
            before = len(made)
            for name in pending:
                if build.stop.exists() or shard_files.is_finished(build.root, name):
                    continue
                with build.claims.take(name) as mine:
                    # it may have been finished between the look and the lock
                    if mine and not shard_files.is_finished(build.root, name):
                        made.append(make_shard(build, name, bar))
                        # of this process: shards are of like length, and the others take as many
                        bar.total = round(bar.n / len(made) * len(pending) / build.processes.count)
            if len(made) == before:  # what is left is in other hands, which may have died since
                return len(made), sum(made)


@contextlib.contextmanager
def _ending_together(build):
    """An error in one process ends the others of the launch too, after the shard in hand instead of
    after all of them.

    A user's error and the disk's end all with a line; others are raised as they are, and the
    processes that then wait for this one are ended by what launched them."""
    try:
        with build.processes.together():
            try:
                yield
            except Exception as error:
                with contextlib.suppress(OSError):  # a disk that is full may be the error
                    build.stop.touch()
                if isinstance(error, OSError):
                    who = f" (process {build.processes.index + 1} of {build.processes.count})"
                    told = f"{error.filename or build.root}: {error.strerror or error}"
                    raise DataError(told + who * (build.processes.count > 1)) from error
                raise
    finally:
        if build.processes.main:
            build.stop.unlink(missing_ok=True)


# What was made ------------------------------------------------------------------------------------


def _finish(build, launch, say):
    """Write index.json with its counts if every planned shard is there, else say what is not.
    UsageError when more images or tar files than --max_bad_images accepts cannot be read: the index
    is whole all the same."""
    root, opts, claims = build.root, build.opts, build.claims.while_others_wait()
    with claims.take(RECORD, wait=True):
        data = vector_index.read_record(root)
        planned = data["shards"]
        missing = [n for n in planned if not shard_files.is_finished(root, n)]
        if not missing and (launch["shards"] or "flat" not in data.get("counts", ())):
            data |= {"counts": index_counts.count(root, planned), "launch": launch}
            _write_record(build, data["descriptor"], planned, counts=data["counts"], launch=launch)
    if launch["shards"]:
        say(
            f"{launch['images']} images of {launch['shards']} shards in {launch['seconds']:.1f} s, "
            f"{launch['images_per_second']:.1f} images/s"
        )
    if missing:
        held = 0
        for name in missing:
            with claims.take(name) as free:
                held += not free
        say(
            f"{len(missing)} of {len(planned)} planned shards are not finished: {held} in other"
            f" hands, {len(missing) - held} missing, first {missing[0]!r}; the last launch to"
            " finish counts"
        )
    else:
        say(index_counts.in_words(data["counts"]))
        if data["counts"]["damaged_shards"]:
            say(index_counts.damage_in_words(root, data["counts"]))
    say(f"index: {root}")
    if not missing:
        flag = f"--val_dir={opts.val_dir!r}"
        named = set(build.source.names)  # a shard whose tar file is gone cannot be made whole again
        there = data["counts"] | {
            "damaged_shards": [n for n in data["counts"]["damaged_shards"] if n in named]
        }
        index_counts.require_whole(flag, root, there, max_bad=opts.max_bad_images)
        index_counts.require_readable(
            flag, root, planned, data["counts"], max_bad=opts.max_bad_images
        )


# The stage ----------------------------------------------------------------------------------------


def _planned(opts, source, existing, then):
    """What a build would do, for --dry_run: read only. then: paths that are written afterwards.
    Returns: dict."""
    root = Path(opts.build_index)
    descriptor = existing and existing["descriptor"]
    there = {n for n in source.names if shard_files.is_finished(root, n)}
    finished = {n for n in there if not index_resume.why_anew(root, n, source, descriptor)}
    left = [n for n in source.names if n not in finished]
    writes = [
        root / vector_index.FILE,
        *itertools.chain.from_iterable(shard_files.paths_of(root, n) for n in left),
    ]
    return {
        "options": flags.as_dict(opts),
        "shards": len(source.names),
        "finished": len(finished),
        "writes": [str(p) for p in (*writes, *then)],
    }


def _claims(root, names, processes, say):
    """How shards are shared out: by locks, or by number where the file system has none. The main
    process finds out."""
    with processes.together():
        try:
            claims = Claims(root / CLAIMS)
            works = processes.main and claims.work()
        except OSError as error:
            raise UsageError(
                f"--build_index={str(root)!r} cannot be made ({error.strerror}:"
                f" {error.filename!r}); takes another folder"
            ) from None
    if processes.share(works):
        return claims
    say(
        f"{root}: this file system has no locks; each process makes a fixed share of the shards,"
        " and a second launch at the same time would make them twice"
    )
    return Stride(names, processes.index, processes.count)


def build(opts, processes, say=print, *, then=()):
    """Make an index of --val_dir in --build_index, or go on with one: shards that are whole and of
    the same images stay.

    opts: RetrievalOptions; processes: devices.Processes; say: takes a line for the user, of the
    main process alone; then: paths that the caller writes afterwards, for --dry_run. UsageError for
    a folder that is not ours, an index of other images or of another descriptor, and, once all is
    written, when too many images cannot be read. Stopped when Ctrl-C ends it."""
    try:
        _build(opts, processes, say, then)
    except KeyboardInterrupt:
        raise Stopped("stopped; the same command goes on", signal.SIGINT) from None


def _build(opts, processes, say, then):
    say = say if processes.main else (lambda line: None)
    root = Path(opts.build_index)
    with processes.together():
        source = index_sources.open_source(
            opts.val_dir, opts.val_captions, ask_server=processes.main
        )
        existing = index_resume.existing_record(opts, source)
        if opts.dry_run and processes.main:
            say(json.dumps(_planned(opts, source, existing, then), indent=1))
    if opts.dry_run:
        return
    with processes.together():
        dtype = devices.measuring_dtype(opts.mixed_precision, processes.device)
        extractor = measurement.build_descriptor(opts, device=processes.device, dtype=dtype)
        descriptor = index_descriptor.descriptor_record(opts, extractor)
    claims = _claims(root, source.names, processes, say)
    name = processes.share(secrets.token_hex(4))
    made = Build(root, source, claims, extractor, descriptor, opts, processes, name)
    with processes.together():
        if processes.main:
            _prepare(made, say)
    started = time.perf_counter()
    with _ending_together(made):
        own = _work(made)
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
            _finish(made, launch, say)
