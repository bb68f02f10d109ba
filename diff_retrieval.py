"""Measure how much generated images copy training images: similarity to the nearest training image,
similarity of the training images to each other, matches, distances of distributions, alignment with
prompts."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.cli import exits, flags, retrieval_options
from utils.cli.retrieval_options import RetrievalOptions
from utils.runtime.errors import UsageError, first_line

if TYPE_CHECKING:
    from utils.index.vector_index import VectorIndex
    from utils.retrieval.evaluation_stage import TrainingSide, WrittenEvaluation
    from utils.runtime.parallel import Processes

# --query_dir: an evaluation -----------------------------------------------------------------------


def evaluate(opts: RetrievalOptions, processes: Processes) -> None:
    """Compare generated images with training images and write the evaluation. All processes read
    images; the main process does the rest."""
    from utils.retrieval import evaluation_stage

    plan = evaluation_stage.plan(opts, processes, training_side(opts))
    if opts.dry_run:
        summary = {"options": flags.as_dict(opts), **plan.summary(opts.matrix_path)}
        processes.say(json.dumps(summary, indent=1))
        return
    written = evaluation_stage.run(opts, processes, plan)
    if written is not None:
        report(opts, written)


def training_side(opts: RetrievalOptions) -> TrainingSide:
    """Choose how --val_dir is read: as images, or as an index. UsageError for --ann without an
    index."""
    from utils.index import index_evaluation, vector_index
    from utils.retrieval import evaluation_stage

    if vector_index.is_index(opts.val_dir):
        return index_evaluation.IndexTraining(opts)
    if opts.ann:
        raise UsageError(
            f"--ann needs an index, and --val_dir={opts.val_dir!r} is not one; build one with"
            " --build_index"
        )
    return evaluation_stage.ImageTraining()


def report(opts: RetrievalOptions, written: WrittenEvaluation) -> None:
    """Print where the results are, and send them to the tracker."""
    keys = ("sim_mean", "sim_95pc", "copy_share", "bg_95pc", "clipscore", "fid")
    print("  ".join(f"{k} {written.row[k]:.4f}" for k in keys if k in written.row))
    print(f"report: {written.folder / 'report.html'}")
    try:
        hint = track(opts, written)
    except Exception as error:  # noqa: BLE001 - whatever a tracker raises, the evaluation is written
        hint = (
            f"--report_to={opts.report_to!r} failed ({first_line(error)}); the evaluation is"
            " complete"
        )
    if hint:
        print(hint)


def track(opts: RetrievalOptions, written: WrittenEvaluation) -> str | None:
    """Send numbers, plots, the first gallery pages and the matches to the tracker. Returns: its
    hint, or None."""
    from utils.reports import tracking

    tracker = tracking.open_tracker(
        "none" if opts.noeval else opts.report_to,
        folder=written.folder.parent,
        project=tracking.project_name(opts.wandb_project, "imsimv2_retrieval"),
        name=opts.run_name,
        config=written.settings,
    )
    tracker.log(written.row, 0)
    for path in sorted((written.folder / "plots").glob("*.png")):
        tracker.image(f"plots/{path.stem}", path, 0)  # a number may have the plot's name
    for page in sorted((written.folder / "gallery").glob("*.png"))[:3]:
        tracker.image(f"gallery/{page.stem}", page, 0)
    tracker.table("matches", *written.table, 0)
    tracker.finish()
    return tracker.hint


# --compare_runs -----------------------------------------------------------------------------------


def compare_runs(opts: RetrievalOptions) -> None:
    """Compare several evaluations in one table and one figure."""
    from utils.retrieval import compare_evaluations, compare_files

    folder = compare_files.require_ours(
        opts.output_dir or compare_files.default_folder(opts.compare_runs)
    )
    comparison = compare_evaluations.read(opts.compare_runs, force=opts.force, seed=opts.seed)
    if opts.dry_run:
        print(json.dumps({"options": flags.as_dict(opts), "writes": [str(folder)]}, indent=1))
        return
    compare_files.write(comparison, folder)
    print("\n".join([*comparison.notes, comparison.table(), f"written to {folder}"]))


# --build_index and --dedup ------------------------------------------------------------------------


def prepare(opts: RetrievalOptions, processes: Processes) -> None:
    """Prepare the training images: build an index, its lists for --ann, and its groups of
    near-duplicates."""
    from utils.index import deduplication

    if opts.build_index:
        build_index(opts, processes)
        if opts.dry_run or not (opts.ann or opts.dedup):
            return
    index = open_index(opts, processes)
    searcher = None
    with processes.together():
        if processes.main and opts.ann and not opts.dry_run:
            searcher = make_lists(index, processes)
    if opts.dedup:
        deduplication.deduplicate(opts, index, processes, searcher=searcher)


def build_index(opts: RetrievalOptions, processes: Processes) -> None:
    """Build an index of --val_dir, or continue an existing one. UsageError if --val_dir is an
    index."""
    from utils.index import deduplication, index_build, search, vector_index

    if vector_index.is_index(opts.val_dir):
        raise UsageError(
            f"--build_index={opts.build_index!r}: --val_dir={opts.val_dir!r} is an index already;"
            " give images"
        )
    later = []  # what is written afterwards, for --dry_run
    with processes.together():
        if opts.ann:
            later += search.files(Path(opts.build_index))
        if opts.dedup:
            later += deduplication.require_possible(opts)
    index_build.build(opts, processes, then=later)


def open_index(opts: RetrievalOptions, processes: Processes) -> VectorIndex:
    """Open the index on the main process and share it, because it may grow meanwhile. UsageError if
    --val_dir is not an index and --build_index is not given."""
    from utils.index import vector_index

    if not (opts.build_index or vector_index.is_index(opts.val_dir)):
        raise UsageError(
            f"--dedup needs an index, and --val_dir={opts.val_dir!r} is not one; build one with"
            " --build_index"
        )
    index = None
    with processes.together():
        if processes.main:
            index = vector_index.open_index("--val_dir", opts.build_index or opts.val_dir)
    return processes.share(index)


def make_lists(index: VectorIndex, processes: Processes) -> Any:
    """Build the lists of an approximate search, or read the saved ones. Returns: the searcher."""
    from utils.index import index_evaluation, search

    wrap = index_evaluation.block_bar(index, "filling lists")
    return search.approximate(index, say=processes.say, wrap=wrap)


def main(argv: list[str] | None = None) -> None:
    """Run the command. argv: the arguments; None: those of the process."""
    with exits.exit_on_user_error("diff_retrieval.py"):
        opts = flags.parse(retrieval_options.RetrievalOptions, argv, description=__doc__)
        if opts.compare_runs:
            compare_runs(opts)
            return
        from utils.runtime import launching

        if opts.multiprocessing_distributed and launching.start_on_this_node(
            world_size=opts.world_size,
            rank=opts.rank,
            dist_url=opts.dist_url,
            arguments=sys.argv[1:] if argv is None else argv,
        ):
            return
        with launching.measuring(
            world_size=opts.world_size,
            rank=opts.rank,
            dist_url=opts.dist_url,
            backend=opts.dist_backend,
            gpu=opts.gpu,
        ) as processes:
            if opts.prepares:
                prepare(opts, processes)
            else:
                evaluate(opts, processes)


if __name__ == "__main__":
    main()
