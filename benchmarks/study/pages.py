"""Write docs/study.md and its figures from the rows alone: each finding, its measurements, its
verdict and the reasons."""

import re
from pathlib import Path

import numpy as np

from benchmarks.study import experiments, figures, findings
from benchmarks.study.rows import FD
from utils.files.whole_files import write_text
from utils.reports import plots
from utils.reports.tables import markdown

HERE = Path(__file__).parent
INTRODUCTION = HERE / "introduction.md"
REASONS = HERE / "reasons.md"
MEASURES = {"entropy": "entropy", "jpeg_kib": "JPEG size", "total_variation": "total variation"}
SIMILARITY = "similarity to the nearest training image"
# findings whose models are trained without duplicates: which images would be duplicated does not
# matter for them
WITHOUT_DUPLICATES = (3, 7)
# arms whose prompts are shared by many images, so that no prompt belongs to a duplicated image
SHARED_PROMPTS = ("nolevel", "classlevel")


class Table:
    """The rows by arm and seed, with their means and intervals, each computed once for tables and
    figures."""

    def __init__(self, rows):
        self.rows, self._kept = {}, {}
        for row in sorted(rows, key=lambda r: r.seed):
            self.rows.setdefault(row.arm, []).append(row)

    def share(self, arm, *, duplicated=False):
        """Return the per cent of images that are copies: (mean over seeds, low, high), or None."""
        return self._interval(
            arm, lambda row: 100.0 * findings.copied(row), duplicated, ("share", duplicated)
        )

    def agreement(self, arm, *, of="agreement"):
        """Return the per cent of the captions' attributes that the pictures show, or of their
        colours with of="colours". None if the prompts are not captions."""
        if np.isnan(self.rows[arm][0].agreement).any():
            return None
        return self._interval(arm, lambda row: 100 * getattr(row, of), False, of)

    def _interval(self, arm, values_of, duplicated, name):
        if (arm, name) not in self._kept:
            seeds = [
                findings.by_source(row, values_of(row), duplicated=duplicated)
                for row in self.rows[arm]
            ]
            seeds = [np.array(list(s.values())) for s in seeds if s]
            means = float(np.mean([s.mean() for s in seeds])) if seeds else None
            interval = findings.interval(seeds, findings.mean) if seeds else ()
            self._kept[arm, name] = (means, *interval) if seeds else None
        return self._kept[arm, name]

    def percentile(self, arm):
        """Return sim_95pc: (mean over seeds, low, high)."""
        if (arm, "percentile") not in self._kept:
            # [prompts, images per prompt]; every prompt of an arm has as many images
            seeds = [
                row.score[np.argsort(row.source, kind="stable")].reshape(
                    len(set(row.source.tolist())), -1
                )
                for row in self.rows[arm]
            ]
            value = float(np.mean([np.percentile(s, 95) for s in seeds]))
            self._kept[arm, "percentile"] = value, *findings.interval(seeds, findings.percentile_95)
        return self._kept[arm, "percentile"]

    def seeds(self, arm, number_of):
        """Return (mean, least, most) of a row's number over seeds, or None if a row lacks it."""
        numbers = [number_of(row) for row in self.rows[arm]]
        return None if None in numbers else (float(np.mean(numbers)), min(numbers), max(numbers))

    def distance(self, arm):
        return self.seeds(arm, lambda row: row.metrics["fd"])


def _dup_gap(row):
    both = row.metrics.get("sim_dup"), row.metrics.get("sim_nodup")
    return None if None in both else both[0] - both[1]


def _cell(estimate, digits):
    """Format (value, low, high), or None."""
    if estimate is None:
        return "-"
    value, low, high = (f"{number:.{digits}f}" for number in estimate)
    return f"{value} ({low} to {high})"


def columns_of(number):
    """Return the columns of a finding's table: {title: (table, arm) -> text}."""

    def of_duplicated(estimate, arm):
        return None if arm in SHARED_PROMPTS else estimate

    duplicates = {
        "of duplicated prompts, %": lambda t, arm: _cell(
            of_duplicated(t.share(arm, duplicated=True), arm), 1
        ),
        "sim_dup - sim_nodup": lambda t, arm: _cell(of_duplicated(t.seeds(arm, _dup_gap), arm), 3),
    }
    return {
        "copies, %": lambda t, arm: _cell(t.share(arm), 1),
        **({} if number in WITHOUT_DUPLICATES else duplicates),
        "sim_95pc": lambda t, arm: _cell(t.percentile(arm), 3),
        "agreement, %": lambda t, arm: _cell(t.agreement(arm), 1),
        "of colours, %": lambda t, arm: _cell(t.agreement(arm, of="colours"), 1),
        "Fréchet distance": lambda t, arm: _cell(t.distance(arm), 1),
    }


def arms_table(table, number, named):
    """Return the table of a finding's arms. named: {arm: its name} of the arms that have rows."""
    columns = columns_of(number)
    return markdown(
        ("", *columns),
        [[name, *(text(table, arm) for text in columns.values())] for arm, name in named.items()],
    )


def _in_words(claim, named):
    """Return a claim in words."""
    if isinstance(claim, findings.NoWorse):
        return f"Fréchet distance: {named[claim.arm]} no worse than {named[claim.than]}"
    if isinstance(claim, findings.AtEqualDistance):
        more, less = (named[arms[-1]].split(",")[0] for arms in (claim.more, claim.less))
        return f"{more} > {less} at equal Fréchet distance"
    if isinstance(claim, findings.Correlation):
        return f"similarity falls with {MEASURES[claim.measure]}: {named[claim.arm]}"
    more, less = (
        " and ".join([named[a] for a in arms]) if len(arms) < 3 else "the mean of the others"
        for arms in (claim.more, claim.less)
    )
    compared = f"{more} {'other than' if claim.either else '>'} {less}"
    return f"{compared}, duplicated prompts" if claim.duplicated else compared


def claims_table(results, named):
    """Return the table of a finding's claims and their results."""
    lines = []
    for r in results:
        scale, digits = (1, 2) if isinstance(r.claim, findings.Correlation) else (100, 1)
        low, high = f"{scale * r.low:+.{digits}f}", f"{scale * r.high:+.{digits}f}"
        lines.append(
            [
                _in_words(r.claim, named) + ("" if r.claim.decides else " (beside)"),
                f"{scale * r.effect:+.{digits}f}",
                f"seeds: {low} to {high}" if r.p is None else f"{low} to {high}",
                "-" if r.p is None else f"{r.plus} : {r.minus}",
                "-" if r.p is None else f"{r.p:.2g}",
                "-" if r.score is None else f"{r.score:+.3f}",
                f"**{r.word}**" if r.claim.decides else r.word,
            ]
        )
    return markdown(
        ("claim", "effect", "95 %", "for : against", "p", "difference of sim_mean", "here"), lines
    )


# Figures ------------------------------------------------------------------------------------------


def _bars(path, table, number, named, budget):
    kinds = {"copies, %": table.share, "similarity, 95th percentile": table.percentile}
    if number not in WITHOUT_DUPLICATES:
        kinds["copies among images of duplicated prompts, %"] = lambda arm: (
            None if arm in SHARED_PROMPTS else table.share(arm, duplicated=True)
        )
    panels = [
        (title, [(name, *(estimate(arm) or (None,) * 3)) for arm, name in named.items()])
        for title, estimate in kinds.items()
    ]
    plots.metric_bars(path, panels)


def _sizes(path, table, number, named, budget):
    places = [experiments.TRAININGS[arm].images or budget.images for arm in named]
    _against(
        path,
        table,
        named,
        places,
        xlabel=f"training images, each model trained for {budget.steps:,} steps",
        log=True,
    )


def _checkpoints(path, table, number, named, budget):
    parts = [0 if arm == "base" else experiments.ARMS[arm].part or budget.rounds for arm in named]
    _against(
        path,
        table,
        named,
        [budget.steps // budget.rounds * part for part in parts],
        xlabel="optimizer steps",
    )


def _against(path, table, arms, places, **words):
    count = min(len(table.rows[arm]) for arm in arms)
    seeds = [
        [100 * findings.copied(table.rows[arm][i]).mean() for arm in arms] for i in range(count)
    ]
    means = [table.share(arm) for arm in arms]
    figures.against(
        path, places, seeds=seeds, means=means, ylabel="copies, % of generated images", **words
    )


def _trade_off(path, table, number, named, budget):
    group_of = {arm: group for group, arms in experiments.GROUPS.items() for arm in arms}
    points = [
        (
            name,
            group_of.get(arm, arm),
            table.share(arm),
            {"agreement": table.agreement(arm), "fd": table.distance(arm)},
        )
        for arm, name in named.items()
        if arm != "base"
    ]
    panels = [
        ("agreement", "agreement with the caption, % (right: better)"),
        ("fd", f"Fréchet distance to {budget.reference:,} other scenes (left: better)"),
    ]
    figures.trade_off(path, points, ylabel="copies, % of generated images", panels=panels)


def _cloud(path, table, number, named, budget):
    seeds = [findings.by_prompt(row, "entropy") for row in table.rows["nodup"]]
    figures.cloud(
        path,
        seeds,
        xlabel="entropy of the matched training images, nats",
        ylabel=SIMILARITY,
        r=float(np.mean([findings.pearson(pairs) for pairs in seeds])),
    )


def _ranks(path, table, number, named, budget):
    trainings = {"full": "dup_both", **{f"rank {r}": f"LoRA {r}" for r in experiments.RANKS}}
    group_of = {
        arm: name for name, training in trainings.items() for arm in experiments.along(training)
    }
    # every line begins at the base model; its last point alone is named
    points = [
        (
            group_of.get(arm, name) if arm in ("base", *trainings.values()) else "",
            group_of.get(arm, name),
            table.share(arm),
            {"fd": table.distance(arm)},
        )
        for arm, name in named.items()
    ]
    panels = [("fd", f"Fréchet distance to {budget.reference:,} other scenes (left: better)")]
    figures.trade_off(path, points, ylabel="copies, % of generated images", panels=panels)


# {number of the finding: function that draws its figure}
DRAWN = {
    1: _bars,
    2: _bars,
    3: _sizes,
    4: _checkpoints,
    5: _trade_off,
    6: _trade_off,
    7: _trade_off,
    8: _cloud,
    9: _bars,
    10: _ranks,
}


# The page -----------------------------------------------------------------------------------------


def read_reasons(path=REASONS):
    """Read the reasons from a file with headings `## <number> <words>`.

    Returns: {number of the finding: (words for the summary, Markdown below its figure)}."""
    parts = re.split(r"^## (\d+) +(.*)$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    return {
        int(n): (short.strip(), body.strip())
        for n, short, body in zip(*(parts[i::3] for i in range(3)), strict=True)
    }


def _machine(rows):
    return " and ".join(sorted({row.machine for row in rows}))


def _spent(rows):
    """Return the hours of all workers: each training once, and all arms."""
    trainings = {
        (experiments.ARMS[r.arm].training or "dup_both", r.seed): r.training_seconds for r in rows
    }
    return (sum(trainings.values()) + sum(r.seconds for r in rows)) / 3600


def _section(number, finding, rows, named, budget, path, text):
    """Draw the figure of a finding that has rows. Returns: (word, Markdown)."""
    seeds = findings.seeds_of(finding, rows)
    rows = [row for row in rows if row.seed in seeds]
    measured = {row.arm for row in rows}
    named = {arm: name for arm, name in named.items() if arm in measured}
    results = findings.hold(finding, rows)
    word = findings.verdict(finding, results)
    table = Table(rows)
    DRAWN[number](path, table, number, named, budget)
    if len(seeds) > 1:
        seeds_line = f"Seeds {', '.join(map(str, seeds))}."
    else:
        seeds_line = f"Seed {seeds[0]} alone: the intervals say nothing of how trainings differ."
    parts = [
        f"## {number}. {finding.title}: {word}",
        seeds_line,
        arms_table(table, number, named),
        claims_table(results, named),
        f"![Finding {number}](images/{path.name})",
        text,
    ]
    return word, "\n\n".join(part for part in parts if part) + "\n"


def write(docs, budget, rows):
    """Write docs/study.md and docs/images/study_<n>.png from the rows that exist."""
    reasons, parts, words = read_reasons(), [], []
    named = experiments.names(budget)
    for number, finding in findings.FINDINGS.items():
        seeds = findings.seeds_of(finding, rows)
        # the reasons are about the study's own rows; beside other rows, such as those of a smoke
        # run, they would be read as their results
        about_these_rows = budget == experiments.Budget() and set(experiments.SEEDS) <= set(seeds)
        short, text = reasons.get(number, ("", "")) if about_these_rows else ("", "")
        if seeds:
            path = docs / "images" / f"study_{number}.png"
            word, part = _section(number, finding, rows, named[number], budget, path, text)
            words.append([str(number), finding.title, f"**{word}**", short])
        else:
            part = f"## {number}. {finding.title}\n\nNot run.\n"
            words.append([str(number), finding.title, "not run", ""])
        parts.append(part)
    head = introduction(budget, rows)
    summary = markdown(("", "finding, as published", "here", "in short"), words)
    write_text(docs / "study.md", "\n".join([head, summary + "\n", *parts]))


def introduction(budget, rows):
    """Return the head of the page, with the sizes of the study filled in."""
    head = INTRODUCTION.read_text(encoding="utf-8").format(
        hours=f"{_spent(rows):.1f}",
        machine=_machine(rows) or "no machine",
        steps=budget.steps,
        rounds=budget.rounds,
        batch=budget.batch,
        images=budget.images,
        rate=budget.learning_rate,
        generated=budget.generated,
        prompts=budget.prompts,
        sampling=budget.sampling_steps,
        reference=budget.reference,
        fd=FD,
    )
    if budget != experiments.Budget():
        head += "\n**A smoke run: too short to find anything. Its words mean nothing.**\n"
    return head
