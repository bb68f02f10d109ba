"""card.md: the memorization card as Markdown, to paste into the page of a model on a hub.

Captions, prompts and file names are untrusted: `plain` writes them so that no reader of Markdown
takes a part of them for markup, a link or an end of a table's cell."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from string import Template

from utils.files.whole_files import write_text
from utils.reports.card_tables import (
    CardJson,
    Column,
    answer_details,
    arm_columns,
    cells,
    effort_line,
    moment_label,
    offender_columns,
    trial_label,
    verdict,
    void_line,
)
from utils.reports.page_parts import resource
from utils.reports.tables import markdown

MISSING = "–"  # a cell without a value
MOST_OFFENDERS = 10  # rows of the table of worst offenders; the page has them all
MOST_LETTERS = 120  # of a caption
MARKUP = set("\\`*[]<>&|~#@${}")  # what Markdown or a hub may take for markup, anywhere
# what is markup at the start of a text, in an address, in a name of an emoji or around words
MARKUP_IN_PLACES = re.compile(
    r"^(?:\d+[.)](?=\s|$)|[-+=:])|:(?=[A-Za-z/+])|(?<=[wW]{3})\.|(?<![^\W_])_|_(?![^\W_])"
)
HIDDEN = {"Cc", "Cf", "Cs", "Co", "Cn"}  # categories of Unicode that draw nothing


def write_card_markdown(path: str | Path, card: CardJson) -> None:
    """Write the whole file. card: `Card.as_json()`."""
    sections = {title: body for title, body in _sections(card).items() if body}
    text = Template(resource("card.md")).substitute(
        answer=_answer(card["answer"]),
        sections="\n\n".join(f"### {title}\n\n{body}" for title, body in sections.items()),
        command=_block(card["command"]),
        effort=plain(effort_line(card)),
    )
    write_text(path, text)


def plain(text: str) -> str:
    """Untrusted text on one line, in which nothing is markup: characters that could be become
    references such as &#42;, and characters that draw nothing go."""
    text = " ".join(text.split())
    text = "".join(c for c in text if unicodedata.category(c) not in HIDDEN or _is_raw_byte(c))
    at_places = {i for m in MARKUP_IN_PLACES.finditer(text) for i in range(*m.span())}
    return "".join(
        f"&#{ord(c)};" if c in MARKUP or i in at_places else c for i, c in enumerate(text)
    )


def _is_raw_byte(letter: str) -> bool:
    """Whether it stands for a byte of a file name that is not UTF-8."""
    return "\udc80" <= letter <= "\udcff"


def _shortened(text: str) -> str:
    return text if len(text) <= MOST_LETTERS else f"{text[:MOST_LETTERS]}…"


def _block(command: str) -> str:
    """A command as a block of code, whose fence is longer than any run of backticks in it."""
    longest = max(map(len, re.findall("`+", command)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}bash\n{command}\n{fence}"


# Sections -----------------------------------------------------------------------------------------


def _answer(answer: CardJson) -> str:
    judged, void = verdict(answer), void_line(answer)
    first = f"**{plain(answer['sentence'])}**"
    words = [f"{plain(judged.words)}."] if judged.words else []
    details = " ".join([*words, *(plain(line) for line in answer_details(answer))])
    return "\n\n".join(filter(None, [plain(void), first, details]))


def _sections(card: CardJson) -> dict[str, str]:
    comparison, course, found = card["comparison"], card["course"], card["help"]
    return {
        "Numbers": _arms(
            [(arm["label"], arm) for arm in comparison["arms"]],
            comparison["findings"],
            head="model and prompts",
        ),
        "Pictures that come back most often": _offenders(card["offenders"]),
        "Over training": _arms(
            [(moment_label(m), m["arm"]) for m in course["moments"]],
            [course["finding"]],
            head="step",
        )
        if course
        else "",
        "What helps": _arms(
            [(trial_label(t), t["arm"]) for t in found["trials"]],
            [found["finding"]],
            head="mitigation",
            command=found["command"],
        )
        if found
        else "",
        "What to do next time": "\n\n".join(_advice(card["advice"])),
        "Left out": "\n".join(
            f"- {plain(part)}: {plain(why)}" for part, why in card["left_out"].items()
        ),
    }


def _arms(
    named: Sequence[tuple[str, CardJson]],
    findings: Iterable[str],
    *,
    head: str,
    command: str | None = None,
) -> str:
    """A table of sets of images with what follows from it, "" without a set."""
    if not named:
        return ""
    arms = [arm for _, arm in named]
    columns = arm_columns(arms)
    rows = zip(named, cells(columns, arms, empty=MISSING), strict=True)
    table = _table([head, *(c.title for c in columns)], [[label, *row] for (label, _), row in rows])
    words = "\n\n".join(plain(finding) for finding in findings)
    return "\n\n".join(filter(None, [table, words, _block(command) if command else ""]))


def _offenders(offenders: Sequence[CardJson]) -> str:
    if not offenders:
        return ""
    shown = offenders[:MOST_OFFENDERS]
    columns = [
        Column("training picture", lambda row: row["key"]),
        Column("caption", lambda row: _shortened(row["caption"] or MISSING)),
        *offender_columns(shown),
    ]
    table = _table([c.title for c in columns], cells(columns, shown, empty=MISSING))
    further = len(offenders) - len(shown)
    return f"{table}\n\nAnd {further:,} more." if further else table


def _table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return markdown([plain(t) for t in titles], [[plain(cell) for cell in row] for row in rows])


def _advice(advice: Iterable[CardJson]) -> Iterable[str]:
    for number, each in enumerate(advice, 1):
        yield f"**{number}. {plain(each['what'])}** {plain(each['reason'])}"
        if each["command"]:
            yield _block(each["command"])
