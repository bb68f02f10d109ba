"""Measure how much generated images copy training images: similarity, its background, matches,
distances, alignment."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from utils.cli import exits, flags, retrieval_options

if TYPE_CHECKING:
    from utils.cli.retrieval_options import RetrievalOptions
    from utils.runtime.parallel import Processes


def measure(opts: RetrievalOptions, processes: Processes) -> None:
    """Work on the training images alone, or compare generated images with them. Every process
    calls this."""
    from utils.index import index_stage
    from utils.retrieval import evaluation_stage

    if opts.modelpath:
        from utils.card import card_stage

        card_stage.make_card(opts, processes)
    elif opts.prepares:
        index_stage.prepare(opts, processes)
    else:
        evaluation_stage.evaluate(opts, processes, index_stage.training_side(opts))


def main(argv: list[str] | None = None) -> None:
    """Run the script. argv: its arguments, by default those of the command line."""
    with exits.exit_on_user_error("diff_retrieval.py"):
        opts = flags.parse(retrieval_options.RetrievalOptions, argv, description=__doc__)
        if opts.compare_runs:
            from utils.retrieval import compare_stage

            compare_stage.compare(opts)
            return
        from utils.runtime import launcher_settings, launching

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
            processes.planning = opts.dry_run
            for line in launcher_settings.notes(flags.launched(opts)):
                processes.say(line)
            measure(opts, processes)


if __name__ == "__main__":
    main()
