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

VERDICT_PLOT = "verdict.png"  # the histogram that stands beside that of similarity

NamedNumbers = dict[str, Any]  # name: number
MatchRow = dict[str, Any]  # see `MatchTable`
Tile = tuple[str, list[tuple[str, str]], bool]  # title, (value, words) of each line, stressed?

# endings of keys that are no metrics of their own
ADDED_ENDS = ("_lo", "_hi", "_n", "_dcr")
MARKS = ' <span class="over">A marked score</span> is above the threshold of a copy.'


@dataclass(frozen=True)
class MatchTable:
    """The table of matches."""

    # one for each query with its best match, most similar first: query, match, score,
    # query_picture, match_picture, and prompt, caption, source_image, source_score, seed,
    # duplicated, clipscore, each of which may be None
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


def headline(metrics: NamedNumbers, settings: Nested) -> str:
    """One sentence that says how much was copied; "" without a measure of similarity."""
    if "copy_share" not in metrics:
        return (
            f"The 95th percentile of similarity is {metrics['sim_95pc']:.3f}."
            if "sim_95pc" in metrics
            else ""
        )
    share = (
        f"{_percent(metrics, 'copy_share')} of {metrics['copy_share_n']} images count as copies of"
        " a training image"
    )
    threshold = settings.get("copy_threshold")
    where = (
        f": their {settings.get('pt_style', '')} similarity is above {threshold:g}"
        if threshold is not None
        else ""
    )
    return f"{share} (95 % interval {_interval(metrics, 'copy_share')}){where}."


def tiles(metrics: NamedNumbers) -> list[Tile]:
    """The most important of the numbers that were computed. Returns: (title, [(value, words)],
    whether to stress it because there are copies) for each."""
    shown = _copies_tiles(metrics)
    pairs = {
        "Similarity, 95th percentile": {
            "sim_95pc": "generated images",
            "bg_95pc": "training images among themselves",
        },
        "CLIP score": {"clipscore": "image and prompt", "clipscore_bg": "training images"},
    }
    for title, keys in pairs.items():
        if next(iter(keys)) in metrics:
            values = [(f"{metrics[k]:.3f}", words) for k, words in keys.items() if k in metrics]
            shown.append((title, values, False))
    distances = [
        k
        for k in metrics
        if k in ("fid", "fid_dcr") or (k.startswith("fd_") and not k.endswith(ADDED_ENDS))
    ]
    if distances:
        shown.append(("Frechet distance", [(number(metrics[k]), k) for k in distances], False))
    return shown


def _copies_tiles(metrics: NamedNumbers) -> list[Tile]:
    """The tiles of the share of copies: of all images, and by duplication of the prompt's image."""
    shown: list[Tile] = []
    if "copy_share" in metrics:
        words = (
            f"95 % interval {_interval(metrics, 'copy_share')}, {metrics['copy_share_n']} images"
        )
        shown.append(
            ("Copies", [(_percent(metrics, "copy_share"), words)], metrics["copy_share"] > 0)
        )
    split = {"copy_share_dup": "where it was duplicated", "copy_share_nodup": "where it was not"}
    by_source = [
        (_percent(metrics, k), f"{words} ({_interval(metrics, k)})")
        for k, words in split.items()
        if k in metrics
    ]
    if by_source:
        shown.append(("Copies by the prompt's own image", by_source, False))
    return shown


def _percent(metrics: NamedNumbers, key: str) -> str:
    return f"{100 * metrics[key]:.1f} %"


def _interval(metrics: NamedNumbers, key: str) -> str:
    return f"{100 * metrics[f'{key}_lo']:.1f} to {100 * metrics[f'{key}_hi']:.1f} %"


def script_json(data: Any) -> str:
    """JSON for a script element, without <, > and &. It is ASCII, so that U+2028, U+2029 and lone
    surrogates are escaped."""
    text = json.dumps(data, allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _table_data(table: MatchTable, threshold: float | None) -> str:
    finite = [
        {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
        for row in table.rows
    ]
    encoded = {name: base64.b64encode(data).decode() for name, data in table.pictures.items()}
    return script_json({"threshold": threshold, "rows": finite, "pictures": encoded})


def _plot(path: Path, words: str) -> str:
    return image(path.read_bytes(), "png", words)


def _gallery(pages: Sequence[bytes]) -> str:
    images = [
        image(page, "jpeg", f"gallery page {i}: queries and their matches")
        for i, page in enumerate(pages, 1)
    ]
    rest = (
        f"<details><summary>{len(images) - 1} more</summary>{''.join(images[1:])}</details>"
        if images[1:]
        else ""
    )
    return (
        '<p class="faint">On the left a generated image, then the training images most similar to'
        " it, with scores; the frame is vermilion where the score is above the threshold. The most"
        " similar queries come first; further pages lie in gallery/ beside this"
        f" page.</p>{images[0]}{rest}"
    )


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
    data = _table_data(report.table, report.settings.get("copy_threshold"))
    write_text(path, _page(report, _sections(report), data))


def _sections(report: Report) -> dict[str, str]:
    """The sections of the page below its headline. Returns: {title: HTML}, "" for an empty one."""
    plots = [_plot(*plot) for plot in report.plots]
    table, numbers = report.table, report.metrics.items()
    return {
        "Similarity": "".join(plots[:1]),
        "Matches": _matches(table, report.settings.get("copy_threshold")) if table.rows else "",
        "Gallery": _gallery(report.pages) if report.pages else "",
        "Plots": "".join(plots[1:]),
        "Numbers": listed(
            [(k, report.words.get(k, ""), number(v)) for k, v in numbers], kind="number"
        ),
        "Skipped": listed([(k, "", why) for k, why in report.left_out.items()]),
        "Counts": listed([(k, "", v) for k, v in flat(report.counts)], kind="number"),
        "Settings": listed([(k, "", v) for k, v in flat(report.settings)]),
    }


def _page(report: Report, sections: dict[str, str], data: str) -> str:
    """The HTML of the page. sections: {title: HTML}, of which empty ones are skipped; data: JSON of
    the table."""
    settings = report.settings
    sections = {title: body for title, body in sections.items() if body}
    script, style = resource("report.js"), resource("report.css")
    return Template(resource("report.html")).substitute(
        policy=policy(style=style, script=script),
        style=style,
        headline=html.escape(headline(report.metrics, settings)),
        query_dir=html.escape(str(settings.get("query_dir", ""))),
        val_dir=html.escape(str(settings.get("val_dir", ""))),
        tiles="".join(_tile(*tile) for tile in tiles(report.metrics)),
        links=links(sections),
        sections="".join(section(title, body) for title, body in sections.items()),
        data=data,
        script=script,
    )


def _matches(table: MatchTable, threshold: float | None) -> str:
    shown, total = len(table.rows), table.total
    which = f"The {shown:,} most similar of {total:,}" if total > shown else f"All {total:,}"
    text = Template(resource("report_matches.html")).substitute(
        which=f"{which} generated images", marks="" if threshold is None else MARKS
    )
    return text.removesuffix("\n")
