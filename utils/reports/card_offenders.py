"""The worst offenders of card.html: a table of training pictures with their copies, and what the
dialog shows of each pair. The rows stand in the page; its script sorts and filters them."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from string import Template

from utils.reports.card_drawings import outline, picture
from utils.reports.card_tables import CardJson, Column, cells, offender_columns
from utils.reports.page_parts import resource

MISSING = "–"  # a cell without a value
YES_NO = {True: "yes", False: "no"}


def offenders_section(offenders: Sequence[CardJson], pictures: Mapping[str, bytes]) -> str:
    """The table of offenders as HTML, "" without any. pictures: {name: JPEG}."""
    if not offenders:
        return ""
    columns = offender_columns(offenders)
    texts = cells(columns, offenders, empty=MISSING)
    rows = [
        _row(offender, columns, row, pictures)
        for offender, row in zip(offenders, texts, strict=True)
    ]
    return Template(resource("card_offenders.html")).substitute(
        headers="".join(
            f'<th role="columnheader" scope="col" class="number">{html.escape(c.title)}</th>'
            for c in columns
        ),
        rows="\n".join(rows),
    )


def _row(
    offender: CardJson,
    columns: Sequence[Column],
    texts: Sequence[str],
    pictures: Mapping[str, bytes],
) -> str:
    further = "".join(
        f'<td role="cell" class="number" data-label="{html.escape(column.title)}">'
        f"{html.escape(text)}</td>"
        for column, text in zip(columns, texts, strict=True)
    )
    pairs = "".join(_pair(offender, each, pictures) for each in offender["returned"])
    return (
        f'<tr role="row"><td role="cell" class="pictures">{_strip(offender, pictures)}<div hidden>'
        f'{pairs}</div></td><td role="cell" class="words">{_words(offender)}</td>{further}</tr>'
    )


def _strip(offender: CardJson, pictures: Mapping[str, bytes]) -> str:
    """The training picture and its copies, which open the dialog."""
    key, returned = offender["key"], offender["returned"]
    best = returned[0]["alignment"] if returned else None
    own = picture(
        pictures[offender["picture"]],
        f"training picture {key}",
        box=best["box_picture"] if best else None,
    )
    copies = "".join(
        picture(
            pictures[each["picture"]],
            f"generated image {each['image']}",
            box=each["alignment"]["box_image"] if each["alignment"] else None,
            copied=True,
        )
        for each in returned
    )
    label = html.escape(f"compare {key} with its copies")
    return (
        f'<button type="button" class="open" aria-label="{label}">{own}<span class="to"'
        f' aria-hidden="true"></span><span class="copies">{copies}</span></button>'
    )


def _words(offender: CardJson) -> str:
    caption = offender["caption"]
    text = MISSING if caption is None else html.escape(caption)
    return (
        f'<p class="caption"><bdi>{text}</bdi></p><bdi class="name">'
        f"{html.escape(offender['key'])}</bdi>"
    )


def _pair(offender: CardJson, returned: CardJson, pictures: Mapping[str, bytes]) -> str:
    """What the dialog shows of a copy, beyond the pictures of the table."""
    alignment = returned["alignment"]
    own = pictures[offender["picture"]]
    agreement = ""
    if alignment and alignment["agreement"]:
        agreement = picture(pictures[alignment["agreement"]], "where both pictures agree")
    facts = {
        "score": f"{returned['score']:.3f}",
        "what was done to it": alignment["transformation"] if alignment else None,
        "seed": returned["seed"],
        "duplicated on purpose": YES_NO.get(offender["training"]["duplicated"]),
        "near-duplicates": ", ".join(offender["training"]["near_duplicates"] or ()) or None,
    }
    listed = "".join(
        f"<div><dt>{name}</dt><dd><bdi>{html.escape(str(value))}</bdi></dd></div>"
        for name, value in facts.items()
        if value is not None
    )
    return (
        f'<div class="pair">{outline(own, alignment["box_picture"] if alignment else None)}'
        f'<dl>{listed}</dl><span class="agreement">{agreement}</span><span class="image-name">'
        f'{html.escape(returned["image"])}</span><span class="prompt">'
        f"{html.escape(returned['prompt'] or '')}</span></div>"
    )
