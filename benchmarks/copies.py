"""Measure which copies of real pictures are found, by descriptors alone and with alignment.

    python benchmarks/copies.py                        # everything; emoji are fetched with npm
    python benchmarks/copies.py --sets photographs     # without a network
    python benchmarks/copies.py --sets photographs --changes exact,mirrored --methods pixel \\
        --queries 5 --training 20 --innocents 20 --check 20      # seconds

Each set of pictures has training pictures, innocents that set the threshold and innocents that
check it. A number of training pictures is changed in twenty ways, most at two strengths, and
searched for. A copy is found when the best match is the picture that was changed and its score is
above the threshold that at most 1 % (or 5 %) of the innocents exceed. All methods see the same
pictures in one run, each alone and with alignment of its ten best candidates.

- photographs: those of scikit-image and one of matplotlib, in tiles that share no pixel. There are
  fourteen, and tiles of one photograph may lie in several parts: innocents then resemble training
  pictures as much as they can. photographs-apart gives whole photographs to one part.
- emoji: one picture of each family, so that no clock or skin tone has a sibling in another part.
  emoji-straddling draws among all of them.

Photographs come with the packages. Emoji are those of the npm package emoji-datasource-google
(Apache-2.0); none is stored here. A CNN of imagededup is not measured, because its weights come in
no package."""

import argparse
import itertools
import multiprocessing
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.copying import (  # noqa: E402
    changes,
    fetching,
    methods,
    picture_sets,
    results,
    searching,
)
from utils.cli.exits import exit_on_user_error  # noqa: E402
from utils.files.whole_files import write_json, write_text  # noqa: E402
from utils.reports import plots  # noqa: E402
from utils.reports.tables import markdown  # noqa: E402
from utils.runtime.errors import UsageError  # noqa: E402

# set -> (kind of pictures, whether families lie in one part only)
SETS = {
    "photographs": ("photographs", False),
    "photographs-apart": ("photographs", True),
    "emoji": ("emoji", True),
    "emoji-straddling": ("emoji", False),
}
MARGIN = 0.05  # a change of which alignment finds fewer copies by more than this is named
PLAIN_COLOUR, ALIGNED_COLOUR = "#9ab8d0", "#0072B2"


# Pictures -----------------------------------------------------------------------------------------


def load_set(name, args):
    """The pictures of a set, divided into its parts."""
    kind, apart = SETS[name]
    if kind == "emoji":
        pictures = picture_sets.emoji(fetching.emoji_folder(args.emoji, args.out / "npm"))
    else:
        pictures = picture_sets.photographs(args.tile, with_plain=args.plain_tiles)
    sizes = picture_sets.Sizes(args.training, args.innocents, args.check)
    return picture_sets.divide(name, pictures, sizes, seed=args.seed, apart=apart)


def cases_of(pictures, wanted):
    """(change, strength) of every case that is applicable to a set. wanted: names of changes."""
    return [
        (name, strength)
        for name in wanted
        if pictures.transparent is not None or not changes.CHANGES[name].transparent
        for strength in changes.CHANGES[name].strengths
    ]


def changed(pictures, case, *, queries, seed):
    """The first training pictures, changed. A picture's random numbers belong to it and the case,
    so that another choice of changes gives the same pictures.

    Returns: [queries] RGB."""
    name, strength = case
    change = changes.CHANGES[name]
    sources = pictures.transparent if change.transparent else pictures.training
    number = (list(changes.CHANGES).index(name), change.strengths.index(strength))
    made = []
    for i in range(queries):
        rng = np.random.default_rng([seed, *number, i])
        # the other picture is an innocent, so that one training picture is in it and no more
        other = pictures.innocents[int(rng.integers(len(pictures.innocents)))]
        made.append(change.apply(sources[i], strength, rng, other))
    return made


# Measuring ----------------------------------------------------------------------------------------


def measure_set(pictures, chosen, args, second):
    """What each method found in a set, alone and, with a second look, with alignment.

    second: a searching.SecondLook or None

    Returns: a list of results.Side."""
    cases = cases_of(pictures, args.changes)
    queries = min(args.queries, len(pictures.training))
    made = [changed(pictures, case, queries=queries, seed=args.seed) for case in cases]
    sides = []
    for method in chosen:
        vectors = method.vectors(pictures.training)
        searcher = searching.Searcher(method, vectors, second)
        sides.append(measure_side(searcher, pictures, cases, made, aligned=False))
        if second is not None:
            sides.append(measure_side(searcher, pictures, cases, made, aligned=True))
        print(f"{pictures.name}: {sides[-1].name} done", flush=True)
    return sides


def measure_side(searcher, pictures, cases, made, *, aligned):
    """What a method found alone, or with alignment. made: the changed pictures of each case."""
    look = searcher.aligned if aligned else searcher.plain
    innocents, check = look(pictures.innocents), look(pictures.check)
    found = [look(queries) for queries in made]
    wanted = np.arange(len(made[0]))
    count = sum(len(queries) for queries in made)
    return results.Side(
        method=searcher.method.name,
        aligned=aligned,
        cases=cases,
        scores=np.stack([each.score for each in found]),
        right=np.stack([each.match == wanted for each in found]),
        innocents=innocents.score,
        check=check.score,
        seconds=sum(each.seconds for each in found) / count,
    )


# Reporting ----------------------------------------------------------------------------------------


def percent(share, ends=None):
    """A share in per cent, with its interval."""
    text = f"{100 * share:.0f}"
    return text if ends is None else f"{text} ({100 * ends[0]:.0f} to {100 * ends[1]:.0f})"


def summary_table(sides, shares):
    """A row for each side: means over changes, innocents above the threshold, seconds.

    shares: {(name of a side, asked): results.Shares}."""
    columns = ["method"]
    for asked in results.ASKED:
        columns += [f"found at {percent(asked)} %", f"innocents above, asked {percent(asked)} %"]
    columns += ["right match", "area under the curve", "seconds a picture"]
    rows = []
    for side in sides:
        weights = results.weights_of(side.cases)
        row = [side.name]
        for asked in results.ASKED:
            each = shares[side.name, asked]
            row += [percent(each.mean, each.mean_ends)]
            row += [
                f"{100 * each.check_rate:.1f} ({100 * each.check_ends[0]:.1f} to"
                f" {100 * each.check_ends[1]:.1f})"
            ]
        area = results.areas(side) @ weights
        rows.append(
            [*row, percent(side.right.mean(1) @ weights), f"{area:.3f}", f"{side.seconds:.3f}"]
        )
    return markdown(columns, rows)


def change_table(sides, shares, asked):
    """A row for each change and strength, a column for each side: share found with its interval."""
    rows = []
    for i, (name, strength) in enumerate(sides[0].cases):
        cells = [
            percent(shares[side.name, asked].each[i], shares[side.name, asked].each_ends[i])
            for side in sides
        ]
        rows.append([name, f"{strength:g} {changes.CHANGES[name].meaning}", *cells])
    return markdown(["change", "strength", *[side.name for side in sides]], rows)


def worse_lines(sides, shares):
    """A line for each method: the changes of which alignment finds fewer copies."""
    lines = []
    for asked in results.ASKED:
        by_name = {
            side.name: results.by_change(side.cases, shares[side.name, asked].each)
            for side in sides
        }
        for side in sides:
            if side.aligned:
                worse = results.lost(by_name[side.method], by_name[side.name], MARGIN)
                lines.append(
                    f"{side.name}, at {percent(asked)} %: more than {percent(MARGIN)} points below"
                    f" the method alone in: {', '.join(worse) or 'no change'}"
                )
    return lines


def report(pictures, sides, args):
    """The text of a set, and what the JSON file says of it."""
    shares = {
        (side.name, asked): results.shares(side, asked, seed=args.seed)
        for side in sides
        for asked in results.ASKED
    }
    families = "every family in one part only" if pictures.apart else "families straddle the parts"
    parts = [
        f"## {pictures.name}\n",
        f"{len(pictures.training)} training pictures, of which {sides[0].scores.shape[1]} are"
        f" changed and searched for; {len(pictures.innocents)} innocents set the threshold,"
        f" {len(pictures.check)} check it; {families}. Seed {args.seed}.\n",
        summary_table(sides, shares),
        "",
        *[f"- {line}" for line in worse_lines(sides, shares)],
    ]
    for asked in results.ASKED:
        parts += [
            f"\nFound at {percent(asked)} % of innocents, in per cent, with 95 % intervals:\n",
            change_table(sides, shares, asked),
        ]
    return "\n".join(parts), record_of(pictures, sides, shares)


def record_of(pictures, sides, shares):
    """What the JSON file says of a set."""
    return {
        "training": len(pictures.training),
        "innocents": len(pictures.innocents),
        "check": len(pictures.check),
        "queries": int(sides[0].scores.shape[1]),
        "families_apart": pictures.apart,
        "cases": [[name, strength] for name, strength in sides[0].cases],
        "sides": {
            side.name: {
                "method": side.method,
                "aligned": side.aligned,
                "seconds": side.seconds,
                "right": side.right.mean(1).tolist(),
                "area": results.areas(side).tolist(),
                "shares": {
                    f"{asked:g}": {
                        key: value.tolist() if isinstance(value, np.ndarray) else value
                        for key, value in asdict(shares[side.name, asked]).items()
                    }
                    for asked in results.ASKED
                },
            }
            for side in sides
        },
    }


def draw(path, records, method, asked):
    """A panel for each set: bars of the share found of each change, alone and aligned.

    records: {set: as `record_of` gives it}; method: whose bars are drawn; asked: the share of
    innocents that may count."""
    drawn = {
        name: record for name, record in records.items() if f"{method}, aligned" in record["sides"]
    }
    if not drawn:
        return
    rows = max(len({case[0] for case in record["cases"]}) for record in drawn.values())
    figure, grid = plots.new_axes(
        1,
        len(drawn),
        squeeze=False,
        figsize=(4.6 * len(drawn), 1.2 + 0.3 * rows),
        layout="constrained",
    )
    for axes, (name, record) in zip(grid[0], drawn.items(), strict=True):
        _draw_set(axes, record, method, f"{asked:g}")
        axes.set_title(name)
    grid[0][0].legend(loc="lower left", bbox_to_anchor=(0, 1.06), ncols=2)
    plots.save(figure, path)


def _draw_set(axes, record, method, asked):
    """The bars of a set. record: of `record_of`; asked: key of its shares."""
    sides = (("alone", method, PLAIN_COLOUR), ("aligned", f"{method}, aligned", ALIGNED_COLOUR))
    for offset, (label, side, colour) in zip((-0.2, 0.2), sides, strict=True):
        shares = np.array(record["sides"][side]["shares"][asked]["each"])
        each = results.by_change([tuple(case) for case in record["cases"]], shares)
        places = np.arange(len(each)) + offset
        axes.barh(
            places, [100 * v for v in each.values()], 0.4, color=colour, label=f"{method}, {label}"
        )
    axes.set_yticks(range(len(each)), list(each))
    axes.set_ylim(len(each) - 0.4, -0.6)  # the first change on top
    axes.set_xlim(0, 100)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel(f"copies found at {100 * float(asked):g} % of innocents, %")


# The command --------------------------------------------------------------------------------------


def names_of(choices):
    """A parser of names separated by commas."""

    def parse(text):
        names = text.split(",")
        for name in names:
            if name not in choices:
                raise argparse.ArgumentTypeError(f"{name!r} is none of: {', '.join(choices)}")
        return names

    return parse


def parse_flags(argv):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add, every = parser.add_argument, ",".join
    add("--sets", type=names_of(SETS), default=["photographs", "emoji"], help=every(SETS))
    add(
        "--changes",
        type=names_of(changes.CHANGES),
        default=list(changes.CHANGES),
        help=every(changes.CHANGES),
    )
    add(
        "--methods",
        type=names_of(methods.METHODS),
        default=list(methods.METHODS),
        help=every(methods.METHODS),
    )
    add("--emoji", help="folder of the unpacked npm package (default: fetched with npm)")
    add("--sscd_weights", help="TorchScript file of SSCD; without it sscd is left out")
    add("--no_align", action="store_true", help="methods alone")
    add("--training", type=int, default=300, help="training pictures of a set, at most")
    add("--innocents", type=int, default=300, help="innocents that set the threshold, at most")
    add("--check", type=int, default=300, help="innocents that check it, at most")
    add("--queries", type=int, default=100, help="training pictures that are changed")
    add("--tile", type=int, default=96, help="side of a tile of a photograph, in pixels")
    add("--plain_tiles", action="store_true", help="also tiles of sky, cloth or border alone")
    add("--seed", type=int, default=0, help="of the parts and of the changes")
    add("--device", default="cpu", help="cpu or cuda")
    add("--processes", type=int, default=1, help="sets that are measured at the same time")
    add("--threads", type=int, default=1, help="of each process")
    add("--out", type=Path, default=Path("runs/copies"), help="folder of the results")
    add("--plot", type=Path, help="the figure (default: copies.png in --out)")
    return parser.parse_args(argv)


def build_methods(args):
    """The methods that can run here. UsageError if none can."""
    import torch

    left_out = reasons(args)
    if len(left_out) == len(args.methods):
        raise UsageError(f"--methods={','.join(args.methods)}: none of them can run here")
    return [
        methods.METHODS[name](torch.device(args.device), args.sscd_weights)
        for name in args.methods
        if name not in left_out
    ]


def reasons(args):
    """{method that cannot run here: the reason}."""
    each = {name: methods.reason_to_leave_out(name, args.sscd_weights) for name in args.methods}
    return {name: reason for name, reason in each.items() if reason is not None}


def build_second_look(training, args):
    """The alignment of the toolkit. training: RGB pictures."""
    import torch

    from utils.retrieval.aligning import geometry
    from utils.retrieval.aligning.align import Aligner
    from utils.retrieval.aligning.windows import WindowSearch

    device = torch.device(args.device)
    small = torch.stack([geometry.thumbnail(picture) for picture in training])
    return searching.SecondLook(Aligner(small, device), WindowSearch(small, device).scores)


def work(name, args):
    """Measure a set. Returns: (its text, its part of the JSON file)."""
    import torch

    torch.set_num_threads(args.threads)
    pictures = load_set(name, args)
    second = None if args.no_align else build_second_look(pictures.training, args)
    sides = measure_set(pictures, build_methods(args), args, second)
    return report(pictures, sides, args)


def work_on_all(args):
    """Measure every set, some at a time in processes of their own. Yields what `work` returns, in
    order."""
    if args.processes == 1:
        yield from (work(name, args) for name in args.sets)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(args.processes, mp_context=context) as pool:
        yield from pool.map(work, args.sets, itertools.repeat(args))


def main(argv=None):
    args, started = parse_flags(argv), time.perf_counter()
    with exit_on_user_error("copies"):
        for name, reason in reasons(args).items():
            print(f"{name} is left out: {reason}")
        first = build_methods(args)[0]
        if any(SETS[name][0] == "emoji" for name in args.sets):
            fetching.emoji_folder(args.emoji, args.out / "npm")  # before processes ask for it
        records, texts = {}, []
        for name, (text, record) in zip(args.sets, work_on_all(args), strict=True):
            records[name] = record
            texts.append(text)
            print(f"\n{text}\n", flush=True)
        write_text(args.out / "copies.md", "\n\n".join(texts) + "\n")
        write_json(args.out / "copies.json", records)
        draw(args.plot or args.out / "copies.png", records, first.name, results.ASKED[0])
        print(f"{args.out / 'copies.md'}   ({time.perf_counter() - started:.0f} s)")


if __name__ == "__main__":
    main()
