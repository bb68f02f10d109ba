"""docs/study.md and its figures, from rows alone: what was asked, what was measured, one word, and why."""

import re
from pathlib import Path

import numpy as np

from benchmarks.study import experiments, figures, findings
from benchmarks.study.rows import FD
from utils.manifest import write_text
from utils.reports import plots
from utils.reports.tables import markdown

HERE = Path(__file__).parent
STYLES = {"nolevel": "`An image` alone", "classlevel": "name of the class", "instancelevel_random": "four random tokens"}
# mitigations at inference: what there is one of, and several
WORDS = {"RT": ("random word", "random words"), "CWR": ("word repeated", "words repeated"), "RNA": ("number", "numbers")}
MEASURES = {"entropy": "entropy", "jpeg_kib": "JPEG size", "total_variation": "total variation"}
SIMILARITY = "similarity to the nearest training image"


def label(arm, budget, number=None):
    """An arm's name in a table or figure; number: of the finding it stands in."""
    kind, _, rest = arm.partition(" ")
    if arm == "base":
        return "base model"
    if arm == "dup_both":
        return {1: "dup_both", 2: "its own caption", 4: f"{budget.steps:,} steps", 8: "dup_both",
                9: f"guidance 3, {budget.sampling_steps} steps"}.get(number, "none")  # fmt: skip
    if arm == "nodup":
        return {3: f"{budget.images} images", 7: "none (K = 1)"}.get(number, "nodup")
    if arm in STYLES:
        return STYLES[arm]
    if arm.startswith("dup_both at"):
        return f"{budget.steps // budget.rounds * int(arm[-3]):,} steps"
    if arm in ("fewer steps", "more steps"):
        return f"{budget.fewer_steps if kind == 'fewer' else budget.more_steps} steps"
    if kind == "train":
        return rest
    if kind == "GNI":
        return f"{kind}, noise {rest}"
    if kind in WORDS:
        return f"{kind}, {rest} {WORDS[kind][rest != '1']}"
    return arm.replace("IET ", "K = ").replace("AGC ", "ρ = ").replace(" ρ", ", ρ")


class Table:
    """Rows by arm and seed, with their means and intervals."""

    def __init__(self, rows):
        self.rows = {}
        for row in sorted(rows, key=lambda r: r.seed):
            self.rows.setdefault(row.arm, []).append(row)

    def has(self, arm):
        return arm in self.rows

    def share(self, arm, *, duplicated=False):
        """Per cent of images that are copies: (mean over seeds, low, high)."""
        return self._interval(arm, lambda row: 100.0 * findings.copied(row), duplicated)

    def agreement(self, arm, *, of="agreement"):
        """Per cent of what captions ask for, or `of` their "colours", or None for prompts that are no captions."""
        if np.isnan(self.rows[arm][0].agreement).any():
            return None
        return self._interval(arm, lambda row: 100 * getattr(row, of), False)

    def _interval(self, arm, values_of, duplicated):
        seeds = [findings.by_source(row, values_of(row), duplicated=duplicated) for row in self.rows[arm]]
        seeds = [np.array(list(s.values())) for s in seeds if s]
        return (float(np.mean([s.mean() for s in seeds])), *findings.interval(seeds, np.mean)) if seeds else None

    def seeds(self, arm, number_of):
        """(mean, least, most) over seeds of a number of a row, or None where some row has none."""
        found = [number_of(row) for row in self.rows[arm]]
        return None if None in found else (float(np.mean(found)), min(found), max(found))


def _dup_gap(row):
    both = row.metrics.get("sim_dup"), row.metrics.get("sim_nodup")
    return None if None in both else both[0] - both[1]


def _cell(found, digits):
    return "-" if found is None else f"{found[0]:.{digits}f} ({found[1]:.{digits}f} to {found[2]:.{digits}f})"


def arms_table(table, number, budget):
    columns = ("", "copies, %", "of duplicated prompts, %", "sim_95pc", "sim_dup - sim_nodup", "agreement, %",
               "of colours, %", "Fréchet distance")  # fmt: skip
    lines = [
        [label(arm, budget, number), _cell(table.share(arm), 1), _cell(table.share(arm, duplicated=True), 1),
         _cell(table.seeds(arm, lambda r: r.metrics["sim_95pc"]), 3), _cell(table.seeds(arm, _dup_gap), 3),
         _cell(table.agreement(arm), 1), _cell(table.agreement(arm, of="colours"), 1),
         _cell(table.seeds(arm, lambda r: r.metrics["fd"]), 1)]
        for arm in experiments.EXPERIMENTS[number] if table.has(arm)
    ]  # fmt: skip
    return markdown(columns, lines)


def _said(claim, budget, number):
    """A claim in words."""
    if isinstance(claim, findings.NoWorse):
        return f"Fréchet distance: {label(claim.arm, budget, number)} no worse than {label(claim.than, budget, number)}"
    if isinstance(claim, findings.Correlation):
        return f"similarity falls with {MEASURES[claim.measure]}: {label(claim.arm, budget, number)}"
    more, less = (" and ".join([label(a, budget, number) for a in arms]) if len(arms) < 3 else "the mean of the others"
                  for arms in (claim.more, claim.less))  # fmt: skip
    return f"{more} {'other than' if claim.either else '>'} {less}" + ", duplicated prompts" * claim.duplicated


def claims_table(results, budget, number):
    lines = []
    for r in results:
        scale, digits = (1, 2) if isinstance(r.claim, findings.Correlation) else (100, 1)
        lines.append([
            _said(r.claim, budget, number) + ("" if r.claim.decides else " (beside)"), f"{scale * r.effect:+.{digits}f}",
            f"{scale * r.low:+.{digits}f} to {scale * r.high:+.{digits}f}", f"{r.plus} : {r.minus}", f"{r.p:.2g}",
            "-" if r.score is None else f"{r.score:+.3f}", f"**{r.word}**" if r.claim.decides else r.word,
        ])  # fmt: skip
    return markdown(("claim", "effect", "95 %", "for : against", "p", "of similarity", "here"), lines)


# Figures -------------------------------------------------------------------------------------------------------------


def _bars(path, table, number, budget):
    arms = [a for a in experiments.EXPERIMENTS[number] if table.has(a)]
    kinds = {
        "copies, %": table.share,
        "copies among images of duplicated prompts, %": lambda a: table.share(a, duplicated=True),
        "similarity, 95th percentile": lambda a: table.seeds(a, lambda r: r.metrics["sim_95pc"]),
    }
    panels = [(title, [(label(a, budget, number), *(of(a) or (None,) * 3)) for a in arms]) for title, of in kinds.items()]
    plots.metric_bars(path, panels)


def _sizes(path, table, number, budget):
    arms = [a for a in experiments.EXPERIMENTS[number] if table.has(a)]
    places = [experiments.TRAININGS[a].images or budget.images for a in arms]
    _against(path, table, arms, places, xlabel=f"training images, each model trained for {budget.steps:,} steps", log=True)


def _checkpoints(path, table, number, budget):
    arms = [a for a in experiments.EXPERIMENTS[number] if table.has(a)]
    places = [
        0 if a == "base" else budget.steps // budget.rounds * (experiments.ARMS[a].part or budget.rounds) for a in arms
    ]
    _against(path, table, arms, places, xlabel="optimizer steps")


def _against(path, table, arms, places, **words):
    means = [table.share(a) for a in arms]
    common = sorted(set.intersection(*({r.seed for r in table.rows[a]} for a in arms)))
    seeds = [[100 * findings.copied(r).mean() for a in arms for r in table.rows[a] if r.seed == s] for s in common]
    figures.against(path, places, seeds=seeds, means=means, ylabel="copies, % of generated images", **words)


def _trade_off(path, table, number, budget):
    order = [a for a in experiments.EXPERIMENTS[number] if table.has(a) and a != "base"]
    points = [
        (_short(a, budget, number), _group(a), table.share(a),
         {"agreement": table.agreement(a), "fd": table.seeds(a, lambda r: r.metrics["fd"])})
        for a in order
    ]  # fmt: skip
    panels = [("agreement", "agreement with the caption, % (right: better)"),
              ("fd", "Fréchet distance to 2,000 other scenes (left: better)")]  # fmt: skip
    figures.trade_off(path, points, ylabel="copies, % of generated images", panels=panels)


def _short(arm, budget, number):
    return arm if arm.partition(" ")[0] in (*WORDS, "GNI") else label(arm, budget, number)


def _group(arm):
    """What a line joins: the strengths of one mitigation."""
    kind = arm.partition(" ")[0]
    return arm if kind == "train" or " AGC" in arm else kind


def _scatter(path, table, number, budget):
    rows = table.rows["nodup"]
    x, y = (np.concatenate([getattr(r, name) for r in rows]) for name in ("entropy", "score"))
    plots.scatter(path, x, y, xlabel="entropy of the matched training image, nats", ylabel=SIMILARITY,
                  r=findings.pearson(np.stack([x, y], 1)), p=None)  # fmt: skip


DRAWN = {1: _bars, 2: _bars, 3: _sizes, 4: _checkpoints, 5: _trade_off, 6: _trade_off, 7: _trade_off, 8: _scatter, 9: _bars}


# The page ------------------------------------------------------------------------------------------------------------

INTRODUCTION = HERE / "introduction.md"
REASONS = HERE / "reasons.md"


def read_reasons(path=REASONS):
    """{number of the finding: (words for the summary, Markdown below its figure)} of a file of `## <number> <words>`."""
    parts = re.split(r"^## (\d+) +(.*)$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    return {int(n): (short.strip(), body.strip()) for n, short, body in zip(*(parts[i::3] for i in range(3)), strict=True)}


def _machine(rows):
    return " and ".join(sorted({row.machine for row in rows}))


def _spent(rows):
    """Hours of all workers: trainings once each, and what was made with them."""
    trainings = {(experiments.ARMS[r.arm].training, r.seed): r.training_seconds for r in rows}
    return (sum(trainings.values()) + sum(r.seconds for r in rows)) / 3600


def write(docs, budget, rows):
    """Write docs/study.md and docs/images/study_<n>.png from rows, as far as there are any."""
    table, reasons, parts, words = Table(rows), read_reasons(), [], []
    for number, finding in findings.FINDINGS.items():
        if not all(table.has(a) for a in experiments.EXPERIMENTS[number]):
            parts.append(f"## {number}. {finding.title}\n\nNot run.\n")
            words.append([str(number), finding.title, "not run", ""])
            continue
        results = findings.hold(finding, rows)
        word = findings.verdict(finding, results)
        short, text = reasons.get(number, ("", ""))
        words.append([str(number), finding.title, f"**{word}**", short])
        DRAWN[number](docs / "images" / f"study_{number}.png", table, number, budget)
        parts.append("\n\n".join([
            f"## {number}. {finding.title}: {word}", arms_table(table, number, budget),
            claims_table(results, budget, number), f"![Finding {number}](images/study_{number}.png)", text.strip(),
        ]).rstrip() + "\n")  # fmt: skip
    b = budget
    head = INTRODUCTION.read_text(encoding="utf-8").format(
        hours=f"{_spent(rows):.1f}", machine=_machine(rows) or "no machine",
        steps=b.steps, batch=b.batch, images=b.images, rate=b.learning_rate, generated=b.generated, prompts=b.prompts,
        sampling=b.sampling_steps, seeds=", ".join(str(s) for s in sorted({r.seed for r in rows})) or "none",
        reference=b.reference, fd=FD,
    )  # fmt: skip
    if budget != experiments.Budget():
        head += "\n**A smoke run: too short to find anything. Its words mean nothing.**\n"
    summary = markdown(("", "finding, as published", "here", "in short"), words)
    write_text(docs / "study.md", "\n".join([head, summary + "\n", *parts]))
