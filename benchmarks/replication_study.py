"""Replicate the findings of the papers on the benchmark that comes with this project: `make study`.

There are ten findings. Each needs a few trainings of tiny-sd on scenes and some sets of images
generated with the trained models; all commands use the four scripts. Finished work is kept: a
training as its run folder, a set of images as a row of docs/study.csv. The key of a row depends on
all of its options, so a clone that holds some rows computes only the others. At the end the script
rewrites docs/study.md and its figures from the rows.

    python benchmarks/replication_study.py --only 1,6 --seeds 1   # two findings, one seed
    python benchmarks/replication_study.py --budget 60            # start nothing after an hour; the
                                                                  # next call continues
    python benchmarks/replication_study.py --smoke                # everything, but too short for a
                                                                  # result
    python benchmarks/replication_study.py --dry_run              # print the commands
"""

import argparse
import functools
import statistics
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.study import experiments, findings, measured, pages, rows, running  # noqa: E402
from utils.runtime.errors import DataError  # noqa: E402


def numbers(text):
    """Parse whole numbers separated by commas."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a list of whole numbers such as 1,2,3"
        ) from None


def seeds_of(text):
    chosen = numbers(text)
    if min(chosen) < 0:
        raise argparse.ArgumentTypeError(f"{text!r}: a seed is 0 or more")
    if experiments.REFERENCE_SEED in chosen:
        raise argparse.ArgumentTypeError(
            f"{text!r}: {experiments.REFERENCE_SEED} draws the scenes of the Frechet distance; use"
            " other seeds"
        )
    return chosen


def minutes(text):
    try:
        if float(text) >= 0:
            return float(text)
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"{text!r} is not a number of minutes, 0 or more")


def findings_of(text):
    chosen = numbers(text)
    if not set(chosen) <= set(experiments.EXPERIMENTS):
        raise argparse.ArgumentTypeError(
            f"{text!r}: findings are numbered 1 to {len(experiments.EXPERIMENTS)}"
        )
    return chosen


def make_training(plan, name, seed):
    running.run_command(*plan.training_command(name, seed))


def make_arm(plan, name, seed, machine, read):
    """Run the commands of an arm. read: as of tasks_of. Returns: its row."""
    started = time.perf_counter()
    for done, command in plan.arm_commands(name, seed):
        running.run_command(done, command)
    return read(plan, name, seed, machine=machine, seconds=time.perf_counter() - started)


def read_arm(plan, name, seed, *, machine, seconds):
    """Return the Row of an arm whose commands have run."""
    complexity = name in findings.CORRELATED
    return measured.read_arm(
        plan, name, seed, machine=machine, seconds=seconds, complexity=complexity
    )


def tasks_of(plan, arms, seeds, table, machine, read):
    """Return the tasks of running.run_graph for the arms without a row: first the scenes, then each
    training, then its arms.

    table: {key: row} of the rows that exist;
    read: (plan, arm, seed, machine=, seconds=) -> the row of an arm whose commands have run, a
        function that can be pickled."""
    missing = {s: [a for a in arms if plan.key(a, s) not in table] for s in seeds}
    data = {}
    for seed, names in missing.items():
        data |= plan.data_commands([seed], names) if names else {}
    tasks = {done: ((), running.run_command, (done, command)) for done, command in data.items()}
    for seed, names in missing.items():
        for training in dict.fromkeys(plan.needs(a) for a in names):
            tasks["train", training, seed] = tuple(data), make_training, (plan, training, seed)
            for arm in (a for a in names if plan.needs(a) == training):
                tasks["arm", arm, seed] = (
                    (("train", training, seed),),
                    make_arm,
                    (plan, arm, seed, machine, read),
                )
    return tasks


def run_all(tasks, keep, *, names, budget):
    """Run the tasks, and hand each finished row to `keep`.

    names: the device of each worker; budget: minutes after which nothing starts, or None.
    Returns: one line per failed task."""
    started, failed = time.perf_counter(), []

    def spent():
        return (time.perf_counter() - started) / 60

    with running.pool(names) as executor:
        graph = running.run_graph(
            executor,
            tasks,
            workers=len(names),
            may_start=lambda: budget is None or spent() < budget,
        )
        for done, (name, result) in enumerate(graph, 1):
            label, ending = " ".join(map(str, name)) if isinstance(name, tuple) else str(name), ""
            if isinstance(result, BaseException):
                failed.append(f"{label}: {result}")
                ending = ": failed"
            elif result is not None:
                keep(result)
            print(f"{done}/{len(tasks)} {label}{ending}   ({spent():.1f} min)", flush=True)
    return failed


def print_commands(plan, arms, seeds):
    """Print every command of the study, finished or not."""
    for command in plan.data_commands(seeds, arms).values():
        print(running.line_of(command))
    for seed in seeds:
        for training in dict.fromkeys(plan.needs(a) for a in arms):
            print(running.line_of(plan.training_command(training, seed)[1]))
            for arm in (a for a in arms if plan.needs(a) == training):
                for _, command in plan.arm_commands(arm, seed):
                    print(running.line_of(command))


def summary_of(plan, arms, seeds, table):
    """Return a line about what is missing: trainings, sets of images, and how long they would take
    at the speed of the rows that exist. table: {key: Row}."""
    missing = [(a, s) for s in seeds for a in arms if plan.key(a, s) not in table]
    trainings = {(plan.needs(a), s) for a, s in missing}
    line = (
        f"missing: {len(trainings)} trainings and {len(missing)} of {len(arms) * len(seeds)} sets"
        " of images"
    )
    if not table or not missing:
        return line
    training, images = (
        statistics.mean(getattr(row, name) for row in table.values())
        for name in ("training_seconds", "seconds")
    )
    spent = (len(trainings) * training + len(missing) * images) / 60
    return f"{line}, about {spent:.0f} minutes of one worker at the speed of the rows that exist"


def build_parser():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--only",
        type=findings_of,
        default=tuple(experiments.EXPERIMENTS),
        help="numbers of findings, as in 1,6 (default: all)",
    )
    add_common_flags(parser)
    return parser


def add_common_flags(parser, *, name="study"):
    """Add the flags that both studies have. name: of the page, and of the folder in runs/."""
    parser.add_argument(
        "--seeds",
        type=seeds_of,
        help=f"seeds (default: {','.join(map(str, experiments.SEEDS))}; 1 with --smoke)",
    )
    parser.add_argument("--budget", type=minutes, help="minutes after which no task starts")
    parser.add_argument(
        "--smoke", action="store_true", help="a few steps each: test that it runs, not its results"
    )
    parser.add_argument(
        "--workers", type=int, help="worker processes (default: one per GPU, or one per core)"
    )
    parser.add_argument(
        "--out",
        type=Path,
        help=f"folder of runs and images (default: runs/{name}; runs/{name}-smoke with --smoke)",
    )
    parser.add_argument(
        "--docs",
        type=Path,
        help=f"folder of {name}.csv, {name}.md and figures (default: docs; --out with --smoke)",
    )
    parser.add_argument(
        "--dry_run", action="store_true", help="print every command and what is missing, and stop"
    )


def parse(argv):
    """Parse the flags, fill in their defaults, and read the rows that exist into args.table."""
    return parsed(build_parser(), argv, rows.read_rows)


def parsed(parser, argv, read_rows, *, name="study"):
    """Parse flags, those of add_common_flags among them, and fill in their defaults.

    read_rows: path of a table -> {key: row}, which go into args.table."""
    args = parser.parse_args(argv)
    if args.workers is not None and args.workers < 1:
        parser.error(f"argument --workers: {args.workers} is not 1 or more")
    args.out = args.out or Path(f"runs/{name}-smoke" if args.smoke else f"runs/{name}")
    args.docs = args.docs or (args.out if args.smoke else Path("docs"))
    args.seeds = args.seeds or (experiments.SEEDS[:1] if args.smoke else experiments.SEEDS)
    try:
        args.table = read_rows(args.docs / f"{name}.csv")
    except DataError as error:
        parser.error(str(error))
    return args


def main(argv=None):
    args = parse(argv)
    budget = experiments.SMOKE if args.smoke else experiments.Budget()
    plan = experiments.StudyPlan(args.out, budget)
    arms = list(dict.fromkeys(a for number in args.only for a in experiments.EXPERIMENTS[number]))
    if args.dry_run:
        print_commands(plan, arms, args.seeds)
        print(summary_of(plan, arms, args.seeds, args.table), file=sys.stderr)
        return
    path = args.docs / "study.csv"

    def write():
        table = rows.read_rows(path).values()
        pages.write(args.docs, plan.budget, [row for row in table if plan.is_current(row)])
        print(f"results are in {args.docs / 'study.md'}")

    make_missing(
        args, plan, arms, read=read_arm, keep=functools.partial(rows.add_row, path), write=write
    )


def make_missing(args, plan, arms, *, read, keep, write):
    """Make what is missing and write the page; exit status 1 if something failed.

    args: of `parsed`; read: as of tasks_of; keep: as of run_all; write: () -> None."""
    devices, failed = running.devices(), []
    names = [devices[i % len(devices)] for i in range(args.workers or len(devices))]
    tasks = tasks_of(plan, arms, args.seeds, args.table, running.machine(), read)
    missing = sum(name[0] == "arm" for name in tasks if isinstance(name, tuple))
    print(
        f"{len(arms) * len(args.seeds)} sets of images, of which {missing} are missing;"
        f" {len(names)} worker processes"
    )
    try:
        if tasks:
            failed = run_all(tasks, keep, names=names, budget=args.budget)
    finally:  # even after an error, the page shows all rows that exist, of all seeds
        write()
    if failed:
        head = "study: error: these tasks failed; the same command retries them:"
        sys.exit("\n".join([head, *failed]))


if __name__ == "__main__":
    main()
