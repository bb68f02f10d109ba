"""card.html: the memorization card as a self-contained page, the answer first.

Its parts lie beside this module: card.html and card_offenders.html are templates; card.css, which
adds to report.css, and card.js are copied into each page. Captions, prompts and file names are
untrusted: they are escaped here, and the page's script handles them as text only. Everything can be
read without the script, which sorts, filters, enlarges and copies."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template

from utils.files.whole_files import write_text
from utils.reports.card_drawings import axis_top, bar, examples, scale
from utils.reports.card_offenders import MISSING, offenders_section
from utils.reports.card_tables import (
    CardJson,
    Text,
    answer_details,
    arm_columns,
    effort_line,
    moment_label,
    provenance_rows,
    trial_source,
    verdict,
    void_line,
)
from utils.reports.page_parts import flat, image, links, listed, policy, resource, section

LEGEND = (
    "A bar is the share of copies, the line along it its 95 % interval, the dotted line the limit."
)
MOST_KEYS = 12  # names of training pictures that an advice lists before the rest is folded away


@dataclass(frozen=True)
class CardPictures:
    """The pictures of a card."""

    named: Mapping[str, bytes]  # {name of a picture in the record: JPEG}
    course: bytes | None  # PNG of what happened over training; None: was not measured


@dataclass(frozen=True)
class _Row:
    """A row of a table of sets of images."""

    label: str
    note: str  # below the label; "" for none
    arm: CardJson
    mark: str  # words that single the row out; "" for none


def write_card_page(path: str | Path, card: CardJson, pictures: CardPictures) -> None:
    """Write the whole page. card: `Card.as_json()`."""
    sections = {title: body for title, body in _sections(card, pictures).items() if body}
    script, style = resource("card.js"), resource("report.css", "card.css")
    page = Template(resource("card.html")).substitute(
        policy=policy(style=style, script=script),
        style=style,
        model=html.escape(card["model"]),
        date=html.escape(card["effort"]["date"]),
        answer=_answer(card["answer"]),
        links=links(sections),
        sections="".join(section(title, body) for title, body in sections.items()),
        script=script,
    )
    write_text(path, page)


def _sections(card: CardJson, pictures: CardPictures) -> dict[str, str]:
    """The sections below the answer. Returns: {title: HTML}, "" for an empty one."""
    limit = card["answer"]["max_copy_share"]
    return {
        "Worst offenders": offenders_section(card["offenders"], pictures.named),
        "Against the base model": _comparison(card["comparison"], pictures.named, limit),
        "Over training": _course(card["course"], pictures.course),
        "What helps here": _help(card["help"], pictures.named, limit),
        "What to do next time": _advice(card["advice"]),
        "How it was made": _made(card),
        "Left out": listed([(part, "", why) for part, why in card["left_out"].items()]),
    }


# 1. The answer ------------------------------------------------------------------------------------


def _answer(answer: CardJson) -> str:
    judged, void, share = verdict(answer), void_line(answer), answer["share"]
    parts = [
        f'<p class="void">{html.escape(void)}</p>' if void else "",
        f'<p class="verdict">{html.escape(judged.words)}</p>' if judged.words else "",
        f'<p class="sentence">{html.escape(answer["sentence"])}</p>',
        "" if share is None else scale(share, limit=answer["max_copy_share"]),
        *(f'<p class="detail">{html.escape(line)}</p>' for line in answer_details(answer)),
    ]
    return f'<div class="answer is-{judged.kind}">{"".join(parts)}</div>'


# 3. to 5. Comparisons -----------------------------------------------------------------------------


def _comparison(comparison: CardJson, pictures: Mapping[str, bytes], limit: float | None) -> str:
    rows = [
        _Row(arm["label"], _prompts(arm["prompts"]), arm, mark="") for arm in comparison["arms"]
    ]
    if not rows:
        return ""
    return (
        _sentences(comparison["findings"])
        + _arms_table(rows, limit, head="model and prompts")
        + _examples(rows, pictures)
        + _commands_of(rows)
    )


def _course(course: CardJson | None, figure: bytes | None) -> str:
    if course is None:
        return ""
    rows = [
        _Row(
            moment_label(moment),
            note="",
            arm=moment["arm"],
            mark="last one below the limit" if moment["step"] == course["stop_at"] else "",
        )
        for moment in course["moments"]
    ]
    words = "copy share, similarity and distance at each checkpoint; the table has the numbers"
    drawn = image(figure, "png", words) if figure is not None else ""
    return (
        _sentences([course["finding"]])
        + drawn
        + _arms_table(rows, course["max_copy_share"], head="step")
        + _commands_of(rows)
    )


def _help(found: CardJson | None, pictures: Mapping[str, bytes], limit: float | None) -> str:
    if found is None:
        return ""
    rows = [
        _Row(trial["arm"]["label"], trial_source(trial), trial["arm"], mark="")
        for trial in found["trials"]
    ]
    return (
        _sentences([found["finding"]])
        + _command(found["command"])
        + f'<p class="faint">Measured on the {_prompts(found["prompts"])} that copy most.</p>'
        + _arms_table(rows, limit, head="mitigation")
        + _examples(rows, pictures)
        + _detectors(found["detectors"])
        + _commands_of(rows)
    )


def _detectors(detectors: Mapping[str, str]) -> str:
    rows = listed([(name, "", words) for name, words in detectors.items()])
    return f"<h3>What detectors see</h3>{rows}" if rows else ""


def _prompts(count: int) -> str:
    return f"{count:,} prompt{'' if count == 1 else 's'}"


def _sentences(sentences: Iterable[str]) -> str:
    return "".join(f'<p class="finding">{html.escape(s)}</p>' for s in sentences)


def _arms_table(rows: Sequence[_Row], limit: float | None, *, head: str) -> str:
    """A table of sets of images, with a bar for each share of copies. head: of the first column."""
    columns = arm_columns([row.arm for row in rows])
    top = axis_top([row.arm["numbers"]["share"] for row in rows], limit)
    headers = "".join(
        f'<th role="columnheader" scope="col" class="number">{html.escape(c.title)}</th>'
        for c in columns
    )
    lines = []
    for row in rows:
        share = row.arm["numbers"]["share"]
        drawn = {"copies": bar(share, top=top, limit=limit)}
        texts = "".join(
            _number_cell(c.title, c.text(row.arm), drawn.get(c.title, "")) for c in columns
        )
        lines.append(f'<tr role="row">{_row_header(row)}{texts}</tr>')
    return (
        f'<div class="scroll"><table role="table" class="cards arms"><caption>{LEGEND}</caption>'
        '<thead role="rowgroup"><tr'
        f' role="row"><th role="columnheader" scope="col">{head}</th>{headers}</tr></thead><tbody'
        f' role="rowgroup">{"".join(lines)}</tbody></table></div>'
    )


def _row_header(row: _Row) -> str:
    note = f'<span class="name">{html.escape(row.note)}</span>' if row.note else ""
    mark = f'<span class="mark">{html.escape(row.mark)}</span>' if row.mark else ""
    return f'<th role="rowheader" scope="row">{html.escape(row.label)} {mark}{note}</th>'


def _number_cell(title: str, text: Text, drawn: str) -> str:
    shown = MISSING if text is None else html.escape(text)
    kind = "number share" if drawn else "number"
    return (
        f'<td role="cell" class="{kind}" data-label="{html.escape(title)}"><span>{shown}</span>'
        f"{drawn}</td>"
    )


def _examples(rows: Sequence[_Row], pictures: Mapping[str, bytes]) -> str:
    """Images of the same noise, a line for each set that has some."""
    lines = "".join(
        f"<figure><figcaption>{html.escape(row.label)}</figcaption><div"
        f' class="strip">{examples(row.arm["examples"], pictures, row.label)}</div></figure>'
        for row in rows
        if row.arm["examples"]
    )
    if not lines:
        return ""
    return (
        '<h3>Examples, from the same noise in each</h3><div class="scroll examples" tabindex="0"'
        f' role="group" aria-label="example images">{lines}</div>'
    )


def _commands_of(rows: Iterable[_Row]) -> str:
    """The commands that made each set of images, folded away."""
    shown = "".join(
        f"<h3>{html.escape(row.label)}</h3>{_command(chr(10).join(row.arm['commands']))}"
        for row in rows
        if row.arm["commands"]
    )
    summary = "Commands that make and measure these images"
    return f"<details><summary>{summary}</summary>{shown}</details>" if shown else ""


def _command(text: str | None) -> str:
    """A command to paste, with a button that copies it; "" without one."""
    if not text:
        return ""
    return (
        f'<div class="command"><pre tabindex="0"><code>{html.escape(text)}</code></pre><button'
        ' type="button" class="copy" hidden>Copy</button></div>'
    )


# 6. and 7. ----------------------------------------------------------------------------------------


def _advice(advice: Sequence[CardJson]) -> str:
    items = "".join(
        f'<li><p class="finding">{html.escape(each["what"])}</p><p>{html.escape(each["reason"])}'
        f"</p>{_command(each['command'])}{_file(each['file'])}{_keys(each['keys'])}</li>"
        for each in advice
    )
    return f'<ol class="advice">{items}</ol>' if items else ""


def _file(name: str | None) -> str:
    if name is None:
        return ""
    return f'<p class="faint">File beside this card: <code>{html.escape(name)}</code></p>'


def _keys(keys: Sequence[str]) -> str:
    """The training pictures that an advice is about."""
    names = [f"<code><bdi>{html.escape(key)}</bdi></code>" for key in keys]
    if not names:
        return ""
    if len(names) <= MOST_KEYS:
        return f'<p class="faint">{", ".join(names)}</p>'
    summary = f"{len(names):,} training pictures"
    return f"<details><summary>{summary}</summary><p>{', '.join(names)}</p></details>"


def _made(card: CardJson) -> str:
    tables = "".join(
        f"<details><summary>{title}</summary>{listed([(k, '', v) for k, v in flat(rows)])}"
        "</details>"
        for title, rows in provenance_rows(card).items()
    )
    return f"<p>{html.escape(effort_line(card))}</p>{_command(card['command'])}{tables}"
