"""The stage of diff_retrieval.py that works on training images alone: --build_index, --ann, --dedup
and --verify. It also chooses whether an evaluation compares with images or with an index."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

from utils.index import (
    deduplication,
    index_build,
    index_checks,
    index_evaluation,
    search,
    vector_index,
)
from utils.retrieval import evaluation_stage
from utils.runtime.errors import UsageError

if TYPE_CHECKING:
    from utils.cli.retrieval_options import RetrievalOptions
    from utils.index.search import Searcher
    from utils.index.vector_index import VectorIndex
    from utils.retrieval.evaluation_stage import TrainingSide
    from utils.runtime.parallel import Processes


def _val_dir(opts: RetrievalOptions) -> str:
    """The value of --val_dir, which the options require for everything but a comparison."""
    return cast("str", opts.val_dir)


def training_side(opts: RetrievalOptions) -> TrainingSide:
    """The kind of --val_dir: images, or an index. Raise UsageError for --ann without an index."""
    if vector_index.is_index(_val_dir(opts)):
        return index_evaluation.IndexTraining(opts)
    if opts.ann:
        raise _needs_an_index(opts, "--ann")
    if opts.verify:
        raise _needs_an_index(opts, "--verify")
    return evaluation_stage.ImageTraining()


def _needs_an_index(opts: RetrievalOptions, flag: str) -> UsageError:
    return UsageError(
        f"{flag} needs an index, and --val_dir={opts.val_dir!r} is not one; build one with"
        " --build_index"
    )


def prepare(opts: RetrievalOptions, processes: Processes) -> None:
    """Work on the training images alone: build an index, its lists, groups of near-duplicates."""
    if opts.build_index:
        _build_index(opts, processes)
        if opts.dry_run or not (opts.ann or opts.dedup or opts.verify):
            return
    index = _open_index(opts, processes)
    searcher = None
    with processes.together():
        if processes.main and opts.ann and not opts.dry_run:
            searcher = _make_lists(index, processes)
    if opts.dedup:
        deduplication.deduplicate(opts, index, processes, searcher=searcher)


def _build_index(opts: RetrievalOptions, processes: Processes) -> None:
    """Build an index of --val_dir, or continue one. UsageError if --val_dir is an index."""
    if vector_index.is_index(_val_dir(opts)):
        raise UsageError(
            f"--build_index={opts.build_index!r}: --val_dir={opts.val_dir!r} is an index already;"
            " give images"
        )
    later: list[str | Path] = []  # what is written afterwards, for --dry_run
    with processes.together():
        if opts.ann:
            later += search.files(Path(cast("str", opts.build_index)))
        if opts.dedup:
            later += deduplication.require_possible(opts)
    index_build.build(opts, processes, then=later)


def _open_index(opts: RetrievalOptions, processes: Processes) -> VectorIndex:
    """The index to work on, as the main process opens it: it may grow between two looks.
    UsageError if --val_dir is no index and --build_index makes none."""
    if not (opts.build_index or vector_index.is_index(_val_dir(opts))):
        raise _needs_an_index(opts, "--dedup" if opts.dedup else "--verify")
    index = None
    with processes.together():
        if processes.main:
            index = vector_index.open_index("--val_dir", opts.build_index or _val_dir(opts))
            if not opts.dry_run:
                index_checks.look(index, asked=opts.verify, say=processes.say)
    return processes.share(index)


def _make_lists(index: VectorIndex, processes: Processes) -> Searcher:
    """Train the lists of an approximate search, or read the saved ones. Returns: the searcher."""
    wrap = index_evaluation.block_bar(index, "filling lists")
    return search.approximate(index, say=processes.say, wrap=wrap)
