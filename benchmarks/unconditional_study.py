"""Train small DDPMs on scenes with iterative ensembles and anti-gradient control, and measure what
they memorize: docs/study_unconditional.md.

Finished work is kept, as in benchmarks/replication_study.py: a training as its run folder, a set of
images as a row of docs/study_unconditional.csv. The page and its figure are written from the rows.

    python benchmarks/unconditional_study.py --workers 2    # all seeds
    python benchmarks/unconditional_study.py --seeds 1      # one seed
    python benchmarks/unconditional_study.py --smoke        # too short for a result
    python benchmarks/unconditional_study.py --dry_run      # print the commands
"""

import argparse
import functools
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import replication_study as study  # noqa: E402
from benchmarks.study import unconditional, unconditional_page, unconditional_rows  # noqa: E402


def main(argv=None):
    """Run the experiment. argv: its arguments, by default those of the command line."""
    name = unconditional_page.NAME
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    study.add_common_flags(parser, name=name)
    args = study.parsed(parser, argv, unconditional_rows.read_rows, name=name)
    budget = unconditional.SMOKE if args.smoke else unconditional.Budget()
    plan, arms = unconditional.Plan(args.out, budget), tuple(unconditional.ARMS)
    if args.dry_run:
        study.print_commands(plan, arms, args.seeds)
        print(study.summary_of(plan, arms, args.seeds, args.table), file=sys.stderr)
        return
    path = args.docs / f"{name}.csv"

    def write():
        rows = unconditional_rows.read_rows(path).values()
        current = [row for row in rows if plan.is_current(row)]
        unconditional_page.write(args.docs, budget, current)
        print(f"results are in {args.docs / f'{name}.md'}")

    keep = functools.partial(unconditional_rows.add_row, path)
    read = unconditional_rows.read_arm
    study.make_missing(args, plan, arms, read=read, keep=keep, write=write)


if __name__ == "__main__":
    main()
