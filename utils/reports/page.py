"""report.html: a self-contained page that shows an evaluation: headline, matches, gallery, plots,
numbers and settings.

Its parts lie beside this module: report.html and report_matches.html are templates, report.css and
report.js are copied into each page. So a page opens without a network, wherever it is moved.
Prompts, captions and file names are untrusted: they are escaped here, and enter the table as text
only."""

from __future__ import annotations

import base64
import html
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

from utils.files.whole_files import write_text
from utils.reports.page_parts import (
    Nested,
    flat,
    image,
    links,
    listed,
    number,
    policy,
    resource,
    section,
)
from utils.reports.page_words import COUNTERFACTUAL, NamedNumbers, headline_parts, tiles

VERDICT_PLOT = "verdict.png"  # the histogram that stands beside that of similarity

MatchRow = dict[str, Any]  # see `MatchTable`

DUPLICATED_MARK = '"duplicated" speaks of the training image.'
COUNTERFACTUAL_MARK = (
    '"would be duplicated" speaks of training images that the seed would have duplicated; the run'
    " duplicated none."
)
MARKS = ' <span class="over">A marked score</span> is above the threshold of a copy.'
ALIGNED_MARKS = (
    ' <span class="over">A marked value</span> of aligned is above the calibrated threshold of a'
    " copy."
)
GALLERY = (
    "On the left a generated image, then the training images most similar to it, with scores; the"
    " frame is vermilion where the score is above the threshold. The most similar queries come"
    " first; further pages lie in gallery/ beside this page."
)
ALIGNED_GALLERY = (
    "On the left a generated image and the training image that it agrees with best, with the part"
    " that both share outlined; the dot is on the same corner in both. Then the training image"
    " again, in grey fog where it is not found in the generated image. Then the training"
    " images most similar by the descriptor, with scores. A vermilion frame is around what decides"
    " that it is a copy. The best agreement comes first; further pages"
    " lie in gallery/ beside this page."
)
NEAREST = "its nearest training image"
ALIGNED_NEAREST = (
    "the training image that it agrees with best once mirroring, crop, scale, rotation and shift"
    " are undone"
)


@dataclass(frozen=True)
class MatchTable:
    """The table of matches."""

    # one for each query with its best match, most similar first: query, match, score,
    # query_picture, match_picture, and prompt, caption, source_image, source_score, seed,
    # duplicated, clipscore, each of which may be None. With a second look or a verdict, the best
    # aligned first, also, each of which may be None: aligned, aligned_match, aligned_picture,
    # aligned_caption, aligned_duplicated, transformation, box_query and box_match ([x, y] of four
    # corners, in shares of width and height), copied_area, agreement_picture and
    # query_agreement_picture (maps over either image), copy (does it
    # count?), part (was a part copied?), group (number of near-duplicates, itself included)
    rows: list[MatchRow]
    pictures: dict[str, bytes]  # {name: JPEG}, which the rows name
    total: int  # number of queries, of which `rows` may hold the first ones only


@dataclass(frozen=True)
class Report:
    """What the page shows of an evaluation."""

    metrics: NamedNumbers
    words: dict[str, str]  # {name in metrics: what it means}
    settings: Nested  # of the evaluation
    counts: NamedNumbers
    left_out: dict[str, str]  # {metric: why it was not computed}
    # (PNG path, words for readers who cannot see it); the first is the histogram of similarity
    plots: Sequence[tuple[Path, str]]
    pages: Sequence[bytes]  # of the gallery, as JPEG
    table: MatchTable


def script_json(data: Any) -> str:
    """JSON for a script element, without <, > and &. It is ASCII, so that U+2028, U+2029 and lone
    surrogates are escaped."""
    text = json.dumps(data, allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _table_data(report: Report) -> str:
    finite = [
        {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
        for row in report.table.rows
    ]
    pictures = report.table.pictures
    encoded = {name: base64.b64encode(data).decode() for name, data in pictures.items()}
    settings, metrics = report.settings, report.metrics
    data = {
        "threshold": settings.get("copy_threshold"),
        "descriptor": settings.get("pt_style"),
        "rows": finite,
        "pictures": encoded,
    }
    if _is_counterfactual(report):
        data[COUNTERFACTUAL] = True
    if _was_calibrated(report):
        data["calibrated"] = {
            "of": settings.get("threshold_of"),
            **{name: metrics[name] for name in ("threshold", "threshold_lo", "threshold_hi")},
        }
    return script_json(data)


def _was_calibrated(report: Report) -> bool:
    return "copy_share_calibrated" in report.metrics


def _was_aligned(table: MatchTable) -> bool:
    """Whether the second look ran and found anything."""
    return any(row.get("aligned") is not None for row in table.rows)


def _plot(path: Path, words: str) -> str:
    return image(path.read_bytes(), "png", words)


def _gallery(pages: Sequence[bytes], *, aligned: bool) -> str:
    words = ALIGNED_GALLERY if aligned else GALLERY
    images = [
        image(page, "jpeg", f"gallery page {i}: queries and their matches")
        for i, page in enumerate(pages, 1)
    ]
    rest = (
        f"<details><summary>{len(images) - 1} more</summary>{''.join(images[1:])}</details>"
        if images[1:]
        else ""
    )
    return f'<p class="faint">{words}</p>{images[0]}{rest}'


def _tile(title: str, values: list[tuple[str, str]], accent: bool) -> str:
    inside = "".join(
        f"<p><strong>{html.escape(v)}</strong> <span>{html.escape(w)}</span></p>" for v, w in values
    )
    return (
        "<div"
        f' class="tile{" accent" if accent else ""}"><h3>{html.escape(title)}</h3>{inside}</div>'
    )


def write_report(path: str | Path, report: Report) -> None:
    """Write the whole page."""
    data = _table_data(report)
    write_text(path, _page(report, _sections(report), data))


def _sections(report: Report) -> dict[str, str]:
    """The sections of the page below its headline. Returns: {title: HTML}, "" for an empty one."""
    first, beside, further = _sorted_plots(report.plots)
    table, numbers = report.table, report.metrics.items()
    return {
        "Similarity": f'<div class="beside">{first}{beside}</div>' if beside else first,
        "Matches": _matches(report) if table.rows else "",
        "Gallery": _gallery(report.pages, aligned=_was_aligned(table)) if report.pages else "",
        "Plots": further,
        "Numbers": listed(
            [(k, report.words.get(k, ""), number(v)) for k, v in numbers], kind="number"
        ),
        "Skipped": listed([(k, "", why) for k, why in report.left_out.items()]),
        "Counts": listed(
            [(k, _count_words(k, report), v) for k, v in flat(report.counts)], kind="number"
        ),
        "Settings": listed([(k, "", v) for k, v in flat(report.settings)]),
    }


def _is_counterfactual(report: Report) -> bool:
    return bool(report.settings.get(COUNTERFACTUAL))


def _count_words(key: str, report: Report) -> str:
    """What a count means, where its name would say something else."""
    if key == "duplicated" and _is_counterfactual(report):
        return "images that the seed would have duplicated; the run duplicated none"
    return ""


def _sorted_plots(plots: Sequence[tuple[Path, str]]) -> tuple[str, str, str]:
    """HTML of the histogram of similarity, of the one beside it, and of the other plots."""
    beside = [plot for plot in plots[1:] if plot[0].name == VERDICT_PLOT]
    further = [plot for plot in plots[1:] if plot not in beside]
    first, second, others = (
        "".join(_plot(*plot) for plot in shown) for shown in (plots[:1], beside, further)
    )
    return first, second, others


def _page(report: Report, sections: dict[str, str], data: str) -> str:
    """The HTML of the page. sections: {title: HTML}, of which empty ones are skipped; data: JSON of
    the table."""
    settings = report.settings
    sections = {title: body for title, body in sections.items() if body}
    script, style = resource("report.js"), resource("report.css")
    return Template(resource("report.html")).substitute(
        policy=policy(style=style, script=script),
        style=style,
        headline=_lead(*headline_parts(report.metrics, settings)),
        query_dir=html.escape(str(settings.get("query_dir", ""))),
        val_dir=html.escape(str(settings.get("val_dir", ""))),
        tiles="".join(_tile(*tile) for tile in tiles(report.metrics, settings)),
        links=links(sections),
        sections="".join(section(title, body) for title, body in sections.items()),
        data=data,
        script=script,
    )


def _lead(first: str, further: str) -> str:
    paragraph = f'<p class="lead">{html.escape(first)}</p>'
    return f"{paragraph}\n<p>{html.escape(further)}</p>" if further else paragraph


def _matches(report: Report) -> str:
    table = report.table
    shown, total, aligned = len(table.rows), table.total, _was_aligned(table)
    which = f"The {shown:,} most similar of {total:,}" if total > shown else f"All {total:,}"
    marks = MARKS if report.settings.get("copy_threshold") is not None else ""
    if _was_calibrated(report):
        marks = ALIGNED_MARKS if report.settings.get("threshold_of") == "aligned" else MARKS
    text = Template(resource("report_matches.html")).substitute(
        which=f"{which} generated images",
        nearest=ALIGNED_NEAREST if aligned else NEAREST,
        marks=marks,
        duplicated=COUNTERFACTUAL_MARK if _is_counterfactual(report) else DUPLICATED_MARK,
    )
    return text.removesuffix("\n")
