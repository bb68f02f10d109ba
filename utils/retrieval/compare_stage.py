"""The stage --compare_evaluations of diff_retrieval.py: several evaluations in one table and one
figure."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from utils.cli import flags
from utils.files import locks
from utils.retrieval import compare_evaluations, compare_files

if TYPE_CHECKING:
    from utils.cli.retrieval_options import RetrievalOptions


def compare(opts: RetrievalOptions) -> None:
    """Compare several evaluations in one table and one figure."""
    folder = compare_files.require_ours(
        opts.output_dir or compare_files.default_folder(opts.compare_runs)
    )
    comparison = compare_evaluations.read(opts.compare_runs, force=opts.force, seed=opts.seed)
    if opts.dry_run:
        print(json.dumps({"options": flags.as_dict(opts), "writes": [str(folder)]}, indent=1))
        return
    with locks.only_writer("--output_dir", folder):
        compare_files.write(comparison, folder)
    print("\n".join([*comparison.notes, comparison.table(), f"written to {folder}"]))
