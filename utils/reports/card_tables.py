"""The words and tables of a memorization card, as card.html and card.md both show them.

A card is read as the JSON of its record, whose fields `utils/card/card_record.py` describes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

CardJson = Mapping[str, Any]  # `Card.as_json()`, or a part of it
Text = str | None  # a cell; None: not measured

SOURCES = {  # of innocents
    "innocent_dir": "pictures of --innocent_dir",
    "holdout": "pictures that training set aside",
    "base_dir": "images of the base model",
    "training": "training pictures against each other",
}
FEW_PERCENT = 0.1  # shares below it are written with a decimal


@dataclass(frozen=True)
class Column:
    """A column of a table."""

    title: str
    text: Callable[[CardJson], Text]  # of the row's cell


@dataclass(frozen=True)
class Verdict:
    """How the share of copies compares with the limit."""

    kind: str  # "over", "under", "open" (cannot be told) or "unknown" (nothing to compare)
    words: str  # "" for an unknown one


# Numbers in words ---------------------------------------------------------------------------------


def percent(value: float) -> str:
    """A share as text: "12 %", and "1.6 %" below 10 %."""
    shown = f"{100 * value:.{int(value < FEW_PERCENT)}f}"
    return f"{shown.removesuffix('.0')} %"


def share_text(share: CardJson | None) -> Text:
    """A share with its interval: "12 % (8 to 17)", and "1.6 % (0.4 to 3.9)" where all of it lies
    below 10 %."""
    if share is None:
        return None
    digits = int(share["hi"] < FEW_PERCENT)
    value, lo, hi = (f"{100 * share[k]:.{digits}f}" for k in ("value", "lo", "hi"))
    return f"{value} % ({lo} to {hi})"


def _decimals(value: float | None, digits: int) -> Text:
    return None if value is None else f"{value:.{digits}f}"


def _count(value: int | None) -> Text:
    return None if value is None else f"{value:,}"


def duration(seconds: float) -> str:
    """A time as text: "48 s", "12 min" or "3 h 5 min"."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


# The answer ---------------------------------------------------------------------------------------


def verdict(answer: CardJson) -> Verdict:
    """Whether the whole interval of the share of copies lies above or below the limit."""
    share, limit = answer["share"], answer["max_copy_share"]
    if share is None or limit is None:
        return Verdict("unknown", "Void" if answer.get("void") else "")
    if share["lo"] > limit:
        return Verdict("over", f"Over the limit of {percent(limit)}")
    if share["hi"] <= limit:
        return Verdict("under", f"Under the limit of {percent(limit)}")
    return Verdict(
        "open",
        f"Cannot be told yet: the limit of {percent(limit)} lies within the interval",
    )


def void_line(answer: CardJson) -> str:
    """The line that comes first where the fixed threshold means nothing here; else ""."""
    threshold = answer["threshold"]
    innocents = threshold and threshold["innocents"]
    if answer.get("void"):  # the answer itself says that nothing can be said
        return ""
    if not innocents or not innocents["void"]:
        return ""
    counted = (
        f"of {innocents['count']:,} pictures that nobody copied"
        f" ({SOURCES.get(innocents['source'], innocents['source'])}),"
        f" {percent(innocents['fixed_share'])} would count as copies by the descriptor's fixed"
        " threshold"
    )
    if threshold["calibrated"]:
        return f"A verdict by the usual threshold is void here: {counted}. This card uses its own."
    return f"This verdict is void: {counted}."


def answer_details(answer: CardJson) -> list[str]:
    """Sentences below the answer: the origin of the threshold, parts, the gate."""
    lines = []
    if answer["threshold"] is not None:
        lines.append(_threshold_line(answer["threshold"]))
    if answer["parts"] is not None:
        lines.append(
            f"A further {share_text(answer['parts'])} hold a part of a training picture; they are"
            " not counted as copies."
        )
    if answer["gate"] is not None:
        lines.append(_gate_line(answer["gate"]))
    return lines


def _threshold_line(threshold: CardJson) -> str:
    interval = (
        f" (95 % interval {threshold['lo']:.3f} to {threshold['hi']:.3f})"
        if threshold["lo"] is not None and threshold["hi"] is not None
        else ""
    )
    return (
        f"An image counts as a copy where its score ({threshold['of']}) is above"
        f" {threshold['value']:.3f}{interval}. Origin of the threshold: {threshold['source']}."
    )


def _gate_line(gate: CardJson) -> str:
    if gate["lower_bound"] is None:
        return "Gate failed: the verdict is void; the command ended with status 3."
    lower = f"the lower end of the interval, {percent(gate['lower_bound'])},"
    limit = f"the limit of {percent(gate['max_copy_share'])}"
    if gate["passed"]:
        return f"Gate passed: {lower} is not above {limit}."
    return f"Gate failed: {lower} is above {limit}; the command ended with status 3."


# Tables -------------------------------------------------------------------------------------------


def filled(columns: Iterable[Column], rows: Sequence[CardJson]) -> list[Column]:
    """The columns in which at least one row has a text."""
    return [c for c in columns if any(c.text(row) is not None for row in rows)]


def cells(columns: Iterable[Column], rows: Iterable[CardJson], *, empty: str) -> list[list[str]]:
    """The texts of a table, row by row. empty: stands for a cell without a text."""
    columns = list(columns)
    return [[empty if (t := c.text(row)) is None else t for c in columns] for row in rows]


def _numbers(key: str, digits: int) -> Callable[[CardJson], Text]:
    return lambda arm: _decimals(arm["numbers"][key], digits)


def arm_columns(arms: Sequence[CardJson]) -> list[Column]:
    """Columns of a table of sets of images, copies first. Empty ones are left out."""
    names = [arm["numbers"]["distance_name"] for arm in arms]
    distance = next(filter(None, names), None)
    return filled(
        [
            Column("copies", lambda arm: share_text(arm["numbers"]["share"])),
            Column("similarity, 95th percentile", _numbers("sim_95pc", 3)),
            Column(f"distance ({distance})", _numbers("distance", 1)),
            Column("agreement with the caption (CLIP)", _numbers("clipscore", 3)),
            Column("images", lambda arm: _count(arm["images"])),
        ],
        arms,
    )


def offender_columns(offenders: Sequence[CardJson]) -> list[Column]:
    """Columns of the table of training pictures that are handed back most often."""
    return filled(
        [
            Column("copies", lambda row: _count(row["copies"])),
            Column("its images", lambda row: _count(row["images"])),
            Column("best score", lambda row: _decimals(row["best"], 3)),
            Column("near-duplicates", _near_duplicates),
            Column("drawn", lambda row: _count(row["training"]["drawn"])),
            Column("skipped", lambda row: _count(row["training"]["skipped"])),
        ],
        offenders,
    )


def _near_duplicates(offender: CardJson) -> Text:
    keys = offender["training"]["near_duplicates"]
    return None if keys is None else f"{len(keys):,}"


def moment_label(moment: CardJson) -> str:
    """The name of a checkpoint: "400", and "1,600 (last)"."""
    return f"{moment['step']:,}{' (last)' if moment['final'] else ''}"


def trial_label(trial: CardJson) -> str:
    """The name of a mitigation, with its flags and where its strength comes from."""
    return ", ".join(filter(None, [trial["arm"]["label"], trial_source(trial)]))


def trial_source(trial: CardJson) -> str:
    """The flags of a mitigation and where its strength was published; "" without either."""
    source = f"strength of {trial['source']}" if trial["source"] else ""
    return ", ".join(filter(None, [" ".join(trial["flags"]), source]))


def effort_line(card: CardJson) -> str:
    """What the card cost, in a sentence."""
    effort = card["effort"]
    return (
        f"{effort['images']:,} images, {effort['images_new']:,} of them made by this command, in"
        f" {duration(effort['seconds'])}; finished {effort['date']}."
    )


def provenance_rows(card: CardJson) -> dict[str, dict[str, Any]]:
    """What would have to be the same for the same numbers. Returns: {title: {name: value}}."""
    made = card["provenance"]
    titles = {
        "Settings": "settings",
        "Hashes": "hashes",
        "Seeds": "seeds",
        "Versions and machine": "environment",
    }
    return {title: dict(made[key]) for title, key in titles.items() if made[key]}
