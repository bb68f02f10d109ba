"""Claims about the experiment of unconditional models, and its page, docs/study_unconditional.md,
written from the rows alone.

The claims were written before the first run. Of every claim a seed is one number."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks.study import figures, findings, unconditional
from benchmarks.study.rows import FD
from benchmarks.study.unconditional_rows import MQ
from utils.files.whole_files import write_text
from utils.reports.tables import markdown

NAME = "study_unconditional"
INTRODUCTION = Path(__file__).parent / "unconditional.md"
REASONS = Path(__file__).parent / "unconditional_reasons.md"
# The threshold that claims are about. Of scenes outside a set of 52 the share below it is 0.8 %,
# below 0.2 it is 6 %, below 0.3 33 % and below 0.5 92 %: scenes of one background are near.
DECIDES = "mq_rate_015"


@dataclass(frozen=True)
class Lower:
    """`arm` has a smaller share of memorized images than `than`."""

    arm: str
    than: str
    decides: bool = True


@dataclass(frozen=True)
class BelowPlain:
    """`arm` has a smaller share than the plain training where it has the same Frechet distance,
    interpolated between its checkpoints, linearly; undefined outside of their distances."""

    arm: str
    decides: bool = False


METHODS = ("IET", "AGC", "both")
FINDING = findings.Finding(
    "Iterative ensembles and anti-gradient control lower the memorized quantity of DDPMs, both"
    " most, at no worse distance",
    (
        *(Lower(arm, "plain") for arm in METHODS),
        *(Lower("both", arm) for arm in METHODS[:2]),
        *(findings.NoWorse(arm, "plain") for arm in METHODS),
        Lower("both+", "both", decides=False),
        findings.NoWorse("both+", "both", decides=False),
        *(BelowPlain(arm) for arm in (*METHODS, "both+")),
    ),
)


def _hold(claim, by_arm):
    """Return the Result of a claim. by_arm: {arm: {seed: Row}}; None without a common seed."""
    arms = unconditional.PLAIN if isinstance(claim, BelowPlain) else (claim.than,)
    seeds = sorted(set.intersection(*(set(by_arm.get(arm, {})) for arm in (claim.arm, *arms))))
    if not seeds:
        return None
    if isinstance(claim, findings.NoWorse):
        result = findings.HOLD[findings.NoWorse](claim, by_arm.__getitem__)
        few = len(seeds) < findings.FEWEST_SEEDS
        return replace(result, word=findings.UNCLEAR) if few else result
    return findings.of_seeds(claim, [_effect(claim, by_arm, seed) for seed in seeds])


def _effect(claim, by_arm, seed):
    """Return by how much the share of a claim's arm is below the other one, of a seed."""
    own = by_arm[claim.arm][seed].metrics
    if isinstance(claim, Lower):
        return by_arm[claim.than][seed].metrics[DECIDES] - own[DECIDES]
    points = [by_arm[arm][seed].metrics for arm in unconditional.PLAIN]
    known, shares = zip(*sorted((p["fd"], p[DECIDES]) for p in points), strict=True)
    share = np.interp(own["fd"], known, shares, left=np.nan, right=np.nan)
    return float(share - own[DECIDES])


def hold(rows):
    """Test the claims whose arms have rows with a common seed. Returns: [Result]."""
    by_arm = {}
    for row in rows:
        by_arm.setdefault(row.arm, {})[row.seed] = row
    results = (_hold(claim, by_arm) for claim in FINDING.claims)
    return [result for result in results if result is not None]


# Tables -------------------------------------------------------------------------------------------


def _numbers(rows, arm, number_of):
    """Return (mean, least, most) over the seeds of an arm."""
    numbers = [number_of(row) for row in rows if row.arm == arm]
    return float(np.mean(numbers)), min(numbers), max(numbers)


def _cell(estimate, digits):
    value, low, high = (f"{number:.{digits}f}" for number in estimate)
    return value if low == high else f"{value} ({low} to {high})"


def arms_table(rows, named):
    """Return the table of the arms. named: {arm: its name} of those that have rows."""
    columns = {
        f"MQ {name.removeprefix('mq_rate_').replace('0', '0.', 1)}, %": name for name in MQ[:5]
    }
    columns |= {"nL2, %": "nl2_share", "copies, %": "copy_share"}
    lines = []
    for arm, name in named.items():
        shares = [
            _cell(_numbers(rows, arm, lambda row, key=key: 100 * row.metrics[key]), 1)
            for key in columns.values()
        ]
        skipped = [row.skipped for row in rows if row.arm == arm]
        distance = _cell(_numbers(rows, arm, lambda row: row.metrics["fd"]), 1)
        share = "-" if None in skipped else f"{100 * np.mean(skipped):.1f}"
        lines.append([name, *shares, distance, share])
    return markdown(("", *columns, "Fréchet distance", "draws skipped, %"), lines)


def _in_words(claim):
    if isinstance(claim, Lower):
        return f"{claim.than} > {claim.arm}"
    if isinstance(claim, BelowPlain):
        return f"plain > {claim.arm} at equal Fréchet distance"
    return f"Fréchet distance: {claim.arm} no worse than {claim.than}"


def claims_table(results):
    """Return the table of the claims and their results."""
    lines = []
    for result in results:
        effect, low, high = (
            "-" if np.isnan(number) else f"{100 * number:+.1f}"
            for number in (result.effect, result.low, result.high)
        )
        decides = result.claim.decides
        lines.append(
            [
                _in_words(result.claim) + ("" if decides else " (beside)"),
                effect,
                "-" if low == "-" else f"{low} to {high}",
                f"**{result.word}**" if decides else result.word,
            ]
        )
    return markdown(("claim", "effect", "seeds", "here"), lines)


# The page -----------------------------------------------------------------------------------------


def _draw(path, rows, named):
    """Draw the memorized quantity against the distance: the plain training as a line, its last
    point as the baseline."""
    points = [
        (
            name,
            "checkpoints" if arm in unconditional.PLAIN[:-1] else arm,
            _numbers(rows, arm, lambda row: 100 * row.metrics[DECIDES]),
            {"fd": _numbers(rows, arm, lambda row: row.metrics["fd"])},
        )
        for arm, name in named.items()
    ]
    points.sort(key=lambda point: point[1] != "plain")  # the baseline first
    panels = [("fd", "Fréchet distance to other scenes (left: better)")]
    figures.trade_off(path, points, ylabel="memorized (r < 0.15), % of images", panels=panels)


def _measured(docs, budget, rows):
    """The part of the page below the introduction, of rows that exist."""
    results = hold(rows)
    have = {row.arm for row in rows}
    named = {arm: n for arm, n in unconditional.names(budget).items() if arm in have}
    word = findings.verdict(FINDING, results)
    seeds = sorted({row.seed for row in rows})
    trained = {(r.seed, unconditional.ARMS[r.arm].training): r.training_seconds for r in rows}
    hours = (sum(trained.values()) + sum(row.seconds for row in rows)) / 3600
    machines = " and ".join(sorted({row.machine for row in rows}))
    of = "Seeds" if len(seeds) > 1 else "Seed"
    parts = [
        f"## {FINDING.title}: {word}",
        f"{of} {', '.join(map(str, seeds))}; {hours:.1f} hours of a core (or GPU) on {machines}.",
        arms_table(rows, named),
        claims_table(results),
    ]
    if "plain" in named:
        _draw(docs / "images" / f"{NAME}.png", rows, named)
        parts.append(f"![Memorized quantity and distance](images/{NAME}.png)")
    if budget == unconditional.Budget() and REASONS.exists():
        parts.append(REASONS.read_text(encoding="utf-8").strip())
    return parts


def write(docs, budget, rows):
    """Write docs/study_unconditional.md and its figure from the rows that exist."""
    visits = budget.steps * budget.batch // unconditional.BINS
    head = INTRODUCTION.read_text(encoding="utf-8").format(
        fd=FD, visits=visits, copy_visits=visits // unconditional.COPIES, **vars(budget)
    )
    parts = [head.strip()]
    if budget != unconditional.Budget():
        parts.append("**A smoke run: too short to find anything. Its words mean nothing.**")
    parts += _measured(docs, budget, rows) if rows else [f"## {FINDING.title}\n\nNot run."]
    write_text(Path(docs) / f"{NAME}.md", "\n\n".join(parts) + "\n")
