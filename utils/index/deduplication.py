"""The stage --dedup of diff_retrieval.py: find groups of near-duplicates in an index and write
them, with sampling weights and a gallery, to <index>/dedup-<threshold>/ or --output_dir."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from utils.cli import flags
from utils.files import locks, owned_folders
from utils.index import (
    deduplication_files,
    index_descriptor,
    index_evaluation,
    near_duplicates,
    search,
)
from utils.index.deduplication_files import FILES, KIND, OUR_FILES, Deduplication, WrittenGroups
from utils.reports.progress import progress
from utils.retrieval import evaluation_pictures, evaluation_stage
from utils.retrieval.descriptors.extractors import EXTRACTORS
from utils.retrieval.formulas.groups import NEAR_DUPLICATES
from utils.runtime.errors import UsageError

if TYPE_CHECKING:
    from utils.cli.retrieval_options import RetrievalOptions
    from utils.index.near_duplicates import Groups
    from utils.index.search import Searcher
    from utils.index.vector_index import VectorIndex
    from utils.retrieval.evaluation_request import DescriptorChoice
    from utils.runtime.parallel import Processes

# vectors are stored in half precision: an image and its exact copy score 1 within some 1e-4, 1e-3
# at worst
HIGHEST = 0.999
# a group that is larger than both is worth a warning: a share of all images, a number of images
CHAIN_SHARE, CHAIN_IMAGES = 0.01, 100


@dataclass(frozen=True)
class DeduplicationRequest:
    """What --dedup is asked for."""

    threshold: float | None  # --copy_threshold; None: the descriptor's own
    output_dir: str | None  # None: a folder in that of the index
    approximately: bool  # --ann: groups from the nearest neighbours of each image
    descriptor: DescriptorChoice | None  # None without a flag of it: that of the index
    workers: int  # processes that read the images of the gallery
    options: dict[str, Any]  # all flags, for the record


def _request_of(opts: RetrievalOptions) -> DeduplicationRequest:
    """What the options ask for."""
    named = any(
        getattr(opts, name) != flags.default_of(opts, name) for name in index_descriptor.AS_GIVEN
    )
    return DeduplicationRequest(
        threshold=opts.copy_threshold,
        output_dir=opts.output_dir,
        approximately=opts.ann,
        descriptor=evaluation_stage.descriptor_choice(opts) if named else None,
        workers=opts.num_workers,
        options=flags.as_dict(opts),
    )


def deduplicate(
    opts: RetrievalOptions,
    index: VectorIndex,
    processes: Processes,
    *,
    searcher: Searcher | None = None,
) -> None:
    """Find the groups of near-duplicates of an index and write them.

    searcher: for approximate groups; None to build one.

    UsageError for a threshold or an output folder that is not accepted, and for flags of another
    descriptor than the index's."""
    request = _request_of(opts)
    with processes.together():
        if request.descriptor is not None:
            index_descriptor.require_descriptor(request.descriptor, index.root, index.descriptor)
        threshold = threshold_of(request.threshold, index.descriptor)
        folder = folder_of(request.output_dir, index.root, threshold)
    approximately = request.approximately or len(index) > near_duplicates.EXACT_ROWS
    if opts.dry_run:
        if processes.main:
            processes.show(_plan(request, index, threshold, approximately=approximately))
        return
    with locks.only_writers("--output_dir", folder, processes):
        started = time.perf_counter()
        if approximately:
            groups = _approximate_groups(index, processes, searcher, threshold=threshold)
        else:
            groups = _exact_groups(index, processes, threshold=threshold)
        if groups is None:  # not the main process
            return
        seconds = round(time.perf_counter() - started, 1)
        method = "approximate" if approximately else "exact"
        result = Deduplication(groups, threshold, method, seconds)
        _write(request, index, result, folder, processes)


def _plan(
    request: DeduplicationRequest, index: VectorIndex, threshold: float, *, approximately: bool
) -> dict[str, Any]:
    """What --dedup would write, for --dry_run, of JSON types."""
    lists = search.planned(index) if approximately else []
    writes = [*map(str, lists), *planned(request.output_dir, index.root, threshold)]
    return {"options": request.options, "writes": writes}


def _write(
    request: DeduplicationRequest,
    index: VectorIndex,
    result: Deduplication,
    folder: Path,
    processes: Processes,
) -> None:
    """Write the files and print the lines of the report."""
    written = deduplication_files.write(
        folder, index, result, options=request.options, workers=request.workers
    )
    for line in summary_lines(result, written, folder):
        processes.say(line)
    if written.unreadable:
        processes.say(evaluation_pictures.unshown_in_words(written.unreadable))


# Checks before any work ---------------------------------------------------------------------------


def threshold_of(threshold: float | None, descriptor: dict[str, Any]) -> float:
    """The score from which two images count as near-duplicates: --copy_threshold, else the
    descriptor's own.

    descriptor: a record with pt_style. UsageError when there is none, and for one that is 0 or less
    (all images would be one group) or above HIGHEST."""
    style = descriptor.get("pt_style")
    if threshold is None:
        threshold = NEAR_DUPLICATES.get(str(style))
    if threshold is None:
        raise UsageError(
            f"--dedup needs --copy_threshold for --pt_style {style}: the literature has no"
            " threshold for near-duplicates of this descriptor; it has one for"
            f" {', '.join(s for s in EXTRACTORS if s in NEAR_DUPLICATES)}"
        )
    if not 0 < threshold <= HIGHEST:
        raise UsageError(
            f"--copy_threshold={threshold:g} does not go with --dedup; use a number above 0 and at"
            f" most {HIGHEST} (vectors are stored in half precision, in which an image and its copy"
            " score 0.999 or more)"
        )
    return threshold


def planned(output_dir: str | None, root: str | Path, threshold: float) -> list[str]:
    """Paths that a --dedup of the index at `root` writes; the index need not exist yet."""
    return [str(_folder(output_dir, root, threshold) / name) for name in FILES]


def require_possible(opts: RetrievalOptions) -> list[str]:
    """Check --dedup before --build_index builds the index, which takes long. UsageError for a
    threshold or an output folder that is not accepted. Returns: as `planned`."""
    root = cast("str", opts.build_index)
    threshold = threshold_of(opts.copy_threshold, {"pt_style": opts.pt_style})
    folder_of(opts.output_dir, root, threshold)
    return planned(opts.output_dir, root, threshold)


def _folder(output_dir: str | None, root: str | Path, threshold: float) -> Path:
    return Path(output_dir) if output_dir else Path(root) / f"dedup-{threshold:g}"


def folder_of(output_dir: str | None, root: str | Path, threshold: float) -> Path:
    """Path of the folder to write for the index at `root`; UsageError unless it is new, empty, or a
    --dedup and nothing else."""
    folder = _folder(output_dir, root, threshold)
    owned_folders.require_ours(
        "--output_dir", folder, files=OUR_FILES, record="summary.json", kind=KIND, writer="--dedup"
    )
    return folder


# Groups -------------------------------------------------------------------------------------------


def _exact_groups(index: VectorIndex, processes: Processes, *, threshold: float) -> Groups | None:
    """Groups from all pairs of images; every process compares its share of the pairs of blocks.
    Returns: None in other processes than the main one."""
    with processes.together():
        labels = near_duplicates.exact_groups(
            index,
            threshold=threshold,
            device=processes.device,
            part=processes.index,
            parts=processes.count,
            wrap=lambda pairs: progress(
                pairs, total=len(pairs), label="near-duplicates", main_process=processes.main
            ),
        )
    parts = processes.gather(labels)
    if not processes.main:
        return None
    return near_duplicates.groups_of(index, near_duplicates.joined(parts))


def _approximate_groups(
    index: VectorIndex,
    processes: Processes,
    searcher: Searcher | None,
    *,
    threshold: float,
) -> Groups | None:
    """Groups from the nearest neighbours of each image, by the main process alone. Returns: None in
    the other processes."""
    if not processes.main:
        return None
    if searcher is None:
        searcher = search.approximate(
            index, say=processes.say, wrap=index_evaluation.block_bar(index, "filling lists")
        )
    nearest = near_duplicates.neighbours(
        index, searcher, wrap=index_evaluation.block_bar(index, "near-duplicates")
    )
    labels = near_duplicates.approximate_groups(index, nearest, threshold=threshold)
    return near_duplicates.groups_of(index, labels)


# Report -------------------------------------------------------------------------------------------


def summary_lines(result: Deduplication, written: WrittenGroups, folder: Path) -> Iterator[str]:
    """Lines for the user: limits of the index, the groups, a warning, and where the files are."""
    counts = written.counts
    yield from _limits(counts)
    summary = (
        f"{counts['images']} images, {result.method}, similarity at least {result.threshold:g}"
    )
    if counts["groups"]:
        yield (
            f"{summary}: {counts['groups']} groups of near-duplicates hold"
            f" {counts['images_in_groups']} images, {counts['images_that_could_go']} could be"
            f" removed; the largest group has {counts['largest_group']}"
        )
    else:
        yield f"{summary}: no near-duplicates"
    if counts["largest_group"] > max(CHAIN_IMAGES, CHAIN_SHARE * counts["images"]):
        yield (
            f"the largest group holds {counts['largest_group'] / counts['images']:.1%} of all"
            " images: groups are chains of pairs; if the gallery shows unlike pictures in it,"
            " raise --copy_threshold"
        )
    yield f"written to {folder}"
    if not written.has_weights:
        yield (
            "no weights.json was written: there are no groups, and more than"
            f" {deduplication_files.NAME_ALL} images to list with weight 1"
        )
    elif counts["groups"]:  # without a group all weights are 1, which changes nothing
        path = shlex.quote(str(folder / "weights.json"))
        yield f"to draw each group as often as one image: diff_train.py --weights_file {path}"


def _limits(counts: dict[str, int]) -> Iterator[str]:
    """Lines on images that were not compared."""
    if counts["damaged_shards"]:
        yield (
            f"{counts['damaged_shards']} tar files could not be read to the end when the index was"
            " built: see index.json"
        )
    if counts["shards"] < counts["shards_planned"]:
        yield (
            f"the index is still being built: {counts['shards']} of {counts['shards_planned']}"
            " shards were searched"
        )
    if counts["flat"]:
        yield (
            f"{counts['flat']} uniformly grey images have a zero descriptor and are in no group,"
            " even if they are equal"
        )
