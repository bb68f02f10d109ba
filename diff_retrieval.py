"""Measure how much generated images copy training images: similarity, its background, matches,
distances, alignment."""

import json
import sys
from pathlib import Path

from utils.cli import exits, flags, retrieval_options
from utils.runtime.errors import UsageError, first_line


def report(opts, folder, row, table, settings):
    """Say where the results are, and send them to the tracker. table: rows of the matches and their
    pictures."""
    keys = ("sim_mean", "sim_95pc", "copy_share", "bg_95pc", "clipscore", "fid")
    print("  ".join(f"{k} {row[k]:.4f}" for k in keys if k in row))
    print(f"report: {folder.path / 'report.html'}")
    try:
        hint = track(opts, folder, row, table, settings)
    except Exception as error:  # noqa: BLE001 - a library's or a network's; the evaluation is written, whatever it is
        hint = (
            f"--report_to={opts.report_to!r} failed ({first_line(error)}); the evaluation is whole"
        )
    if hint:
        print(hint)


def track(opts, folder, row, table, settings):
    """Send numbers, plots, the first gallery pages and the matches to the tracker. Returns: its
    hint, or None."""
    from utils.reports import tracking

    tracker = tracking.open_tracker(
        "none" if opts.noeval else opts.report_to,
        folder=folder.path.parent,
        project=tracking.project_name(opts.wandb_project, "imsimv2_retrieval"),
        name=opts.run_name,
        config=settings,
    )
    tracker.log(row, 0)
    for path in sorted((folder.path / "plots").glob("*.png")):
        tracker.image(f"plots/{path.stem}", path, 0)  # apart from the number of the same name
    for page in sorted((folder.path / "gallery").glob("*.png"))[:3]:
        tracker.image(f"gallery/{page.stem}", page, 0)
    tracker.table("matches", *table, 0)
    tracker.finish()
    return tracker.hint


def compare_runs(opts):
    """--compare_runs: one table and one figure of several evaluations."""
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


def prepare(opts, processes):
    """--build_index and --dedup: what is done with training images alone."""
    from utils.index import deduplication, index_build, index_evaluation, search, vector_index

    say = print if processes.main else (lambda line: None)
    if not vector_index.is_index(opts.val_dir):
        if not opts.build_index:
            raise UsageError(
                f"--dedup works on an index; --val_dir={opts.val_dir!r} is none, --build_index"
                " makes one of it"
            )
        with processes.together():
            then = search.files(Path(opts.build_index)) if opts.ann else []
            then += deduplication.require_possible(opts) if opts.dedup else []
        index_build.build(opts, processes, say, then=then)
    elif opts.build_index:
        raise UsageError(
            f"--build_index={opts.build_index!r}: --val_dir={opts.val_dir!r} is an index already;"
            " takes images"
        )
    if (opts.build_index and opts.dry_run) or not (opts.ann or opts.dedup):
        return
    with processes.together():
        index = processes.main and vector_index.open_index(
            "--val_dir", opts.build_index or opts.val_dir
        )
    index = processes.share(index)
    with processes.together():
        ann = processes.main and opts.ann and not opts.dry_run
        searcher = (
            search.approximate(
                index, say=say, wrap=index_evaluation.block_bar(index, "filling lists")
            )
            if ann
            else None
        )
    if opts.dedup:
        deduplication.deduplicate(opts, index, processes, searcher=searcher)


def evaluate(opts, processes):
    """Read both folders, measure, write the evaluation. Processes share the reading; the main one
    does the rest."""
    from utils.index import index_evaluation, search, vector_index
    from utils.reports.progress import progress
    from utils.retrieval import (
        evaluation_files,
        evaluation_inputs,
        evaluation_record,
        feature_cache,
        measurement,
    )
    from utils.retrieval.features import ReaderSettings
    from utils.runtime import devices

    say = print if processes.main else (lambda line: None)
    indexed = vector_index.is_index(opts.val_dir)
    if opts.ann and not indexed:
        raise UsageError(
            f"--ann searches an index; --val_dir={opts.val_dir!r} is none, --build_index makes one"
            " of it"
        )
    with processes.together():
        # of a set that grows every process sees what the main one does
        sets = processes.main and (index_evaluation if indexed else evaluation_inputs).read_sets(
            opts, say=say
        )
    sets = processes.share(sets)
    with processes.together():
        measurement.require_enough(opts, sets)
        folder = evaluation_files.folder_for(opts, sets)
    if opts.dry_run:
        more = (
            [opts.matrix_path]
            if opts.matrix_path
            else search.planned(sets.index)
            if opts.ann
            else []
        )
        say(
            json.dumps(
                {
                    "options": flags.as_dict(opts),
                    "generated": len(sets.generated),
                    "training": len(sets.training),
                    "writes": folder.planned() + [str(p) for p in more],
                },
                indent=1,
            )
        )
        return
    # of what was listed, as the folder's name: what turns out unreadable does not change it
    fingerprints = {
        "val_fingerprint": sets.training.fingerprint,
        "query_fingerprint": sets.generated.fingerprint,
    }
    dtype = devices.measuring_dtype(opts.mixed_precision, processes.device)
    with processes.together():
        networks = measurement.build_networks(opts, sets, device=processes.device, dtype=dtype)
    reading = ReaderSettings(
        opts.batch_size,
        opts.num_workers,
        processes,
        feature_cache.FeatureCache(feature_cache.folder_of(opts.cache_dir), say),
        lambda batches: progress(
            batches, total=len(batches), label="reading", main_process=processes.main
        ),
    )
    measured, sets = (index_evaluation if indexed else measurement).measure(
        opts, sets, networks, reading, say
    )
    if not processes.main:
        return
    row, left_out = measurement.compute(opts, measured)
    settings = evaluation_record.settings_of(
        opts, sets, fingerprints, networks, measured, processes, dtype
    )
    for line in evaluation_record.said(opts, sets, left_out, measured, settings, folder.path):
        print(line)
    with folder.writing() as part:
        table = evaluation_files.write(
            part,
            measured=measured,
            sets=sets,
            row=row,
            left_out=left_out,
            settings=settings,
            opts=opts,
            say=print,
        )
    if opts.matrix_path:
        measured.write_matrix(opts.matrix_path)
    report(opts, folder, row, table, settings)


def main(argv=None):
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
            (prepare if opts.prepares else evaluate)(opts, processes)


if __name__ == "__main__":
    main()
