"""What the papers found, found again on the benchmark that this project carries: `make study`.

Nine findings, each a few trainings of tiny-sd on scenes and sets of images made with them, all
through the four scripts. What is finished is kept: a run by its folder, a set of images as a row of
docs/study.csv, keyed by all of its options, so a clone that holds some rows makes only the others.
docs/study.md and its figures are written anew from the rows at the end.

    python benchmarks/replication_study.py --only 1,6 --seeds 1      # two findings, one seed
    python benchmarks/replication_study.py --budget 60               # begin nothing after an hour;
go on another day
    python benchmarks/replication_study.py --smoke                   # all of it, too short to find
anything
    python benchmarks/replication_study.py --dry_run                 # print the commands
"""

import argparse
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.study import experiments, findings, measured, pages, rows, running  # noqa: E402
from utils.runtime.errors import DataError  # noqa: E402


def numbers(text):
    """Whole numbers separated by commas."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a list of whole numbers such as 1,2,3"
        ) from None


def seeds_of(text):
    chosen = numbers(text)
    if min(chosen) < 0:
        raise argparse.ArgumentTypeError(f"{text!r}: seeds are 0 or more")
    if experiments.REFERENCE_SEED in chosen:
        raise argparse.ArgumentTypeError(
            f"{text!r}: {experiments.REFERENCE_SEED} draws the scenes of the Frechet distance"
        )
    return chosen


def minutes(text):
    try:
        if float(text) >= 0:
            return float(text)
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"{text!r}; takes minutes, 0 or more")


def findings_of(text):
    chosen = numbers(text)
    if not set(chosen) <= set(experiments.EXPERIMENTS):
        raise argparse.ArgumentTypeError(
            f"{text!r}: findings are numbered 1 to {len(experiments.EXPERIMENTS)}"
        )
    return chosen


def make_training(plan, name, seed):
    running.run_command(*plan.training_command(name, seed))


def make_arm(plan, name, seed, machine):
    """Run an arm's commands. Returns: its Row."""
    started = time.perf_counter()
    for done, command in plan.arm_commands(name, seed):
        running.run_command(done, command)
    return measured.read_arm(
        plan,
        name,
        seed,
        machine=machine,
        seconds=time.perf_counter() - started,
        complexity=name in findings.CORRELATED,
    )


def tasks_of(plan, arms, seeds, found, machine):
    """Tasks of running.run_graph for the arms that have no row: data, then each training and what
    is made with it."""
    missing = {s: [a for a in arms if plan.key(a, s) not in found] for s in seeds}
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
                    (plan, arm, seed, machine),
                )
    return tasks


def run_all(tasks, path, *, names, budget):
    """Run tasks, writing each row into the table at `path` as it comes. Returns: lines of what
    failed."""
    started, failed, done = time.perf_counter(), [], 0

    def spent():
        return (time.perf_counter() - started) / 60

    with running.pool(names) as executor:
        graph = running.run_graph(
            executor,
            tasks,
            workers=len(names),
            may_start=lambda: budget is None or spent() < budget,
        )
        for name, result in graph:
            done += 1
            label = " ".join(map(str, name)) if isinstance(name, tuple) else str(name)
            if isinstance(result, BaseException):
                failed.append(f"{label}: {result}")
            elif isinstance(result, rows.Row):
                rows.add_row(path, result)
            print(
                f"{done}/{len(tasks)}"
                f" {label}{': failed' if isinstance(result, BaseException) else ''}  "
                f" ({spent():.1f} min)",
                flush=True,
            )
    return failed


def print_commands(plan, arms, seeds):
    for command in plan.data_commands(seeds, arms).values():
        print(running.line_of(command))
    for seed in seeds:
        for training in dict.fromkeys(plan.needs(a) for a in arms):
            print(running.line_of(plan.training_command(training, seed)[1]))
            for arm in (a for a in arms if plan.needs(a) == training):
                for _, command in plan.arm_commands(arm, seed):
                    print(running.line_of(command))


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--only",
        type=findings_of,
        default=tuple(experiments.EXPERIMENTS),
        help="numbers of findings: 1,6",
    )
    parser.add_argument(
        "--seeds",
        type=seeds_of,
        help=f"default: {','.join(map(str, experiments.SEEDS))}; 1 with --smoke",
    )
    parser.add_argument("--budget", type=minutes, help="minutes after which nothing more is begun")
    parser.add_argument(
        "--smoke", action="store_true", help="a few steps each: whether it runs, not what it finds"
    )
    parser.add_argument(
        "--workers", type=int, help="processes (default: one a GPU, else one a core)"
    )
    parser.add_argument(
        "--out",
        type=Path,
        help="folder of runs and images (default: runs/study, or runs/study-smoke)",
    )
    parser.add_argument(
        "--docs",
        type=Path,
        help="folder of study.csv, study.md and figures (default: docs; smoke: --out)",
    )
    parser.add_argument("--dry_run", action="store_true", help="print every command and stop")
    args = parser.parse_args(argv)
    if args.workers is not None and args.workers < 1:
        parser.error(f"argument --workers: {args.workers}; takes 1 or more")
    out = args.out or Path("runs/study-smoke" if args.smoke else "runs/study")
    docs = args.docs or (out if args.smoke else Path("docs"))
    plan = experiments.StudyPlan(out, experiments.SMOKE if args.smoke else experiments.Budget())
    seeds = args.seeds or (experiments.SEEDS[:1] if args.smoke else experiments.SEEDS)
    arms = list(
        dict.fromkeys(arm for number in args.only for arm in experiments.EXPERIMENTS[number])
    )
    if args.dry_run:
        print_commands(plan, arms, seeds)
        return
    names = running.devices()
    names = [names[i % len(names)] for i in range(args.workers or len(names))]
    try:
        table = rows.read_rows(docs / "study.csv")
    except DataError as error:
        parser.error(str(error))
    tasks = tasks_of(plan, arms, seeds, table, running.machine())
    print(
        f"{len(arms) * len(seeds)} sets of images, of which"
        f" {sum(t[0] == 'arm' for t in tasks if isinstance(t, tuple))} are to be made; {len(names)}"
        " processes"
    )
    try:
        failed = (
            run_all(tasks, docs / "study.csv", names=names, budget=args.budget) if tasks else []
        )
    finally:  # whatever ended it: the page is that of the rows there are, of all seeds
        found = rows.read_rows(docs / "study.csv").values()
        pages.write(docs, plan.budget, [row for row in found if plan.is_current(row)])
        print(f"look at {docs / 'study.md'}")
    if failed:
        sys.exit(
            "\n".join(
                ["study: error: what follows failed; the same command tries it again", *failed]
            )
        )


if __name__ == "__main__":
    main()
