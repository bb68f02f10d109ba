"""report.html: a self-contained page that shows an evaluation: headline, matches, gallery, plots,
numbers and settings.

Its parts lie beside this module: report.html and report_matches.html are templates, report.css and
report.js are copied into each page. So a page opens without a network, wherever it is moved.
Prompts, captions and file names are untrusted: they are escaped here, and enter the table as text
only."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

from utils.files.whole_files import write_text

HERE = Path(__file__).parent

NamedNumbers = dict[str, Any]  # name: number
Nested = dict[str, Any]  # name: JSON value, or such a dict
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


def number(value: Any) -> str:
    """A number as text: an integer in full, others with four significant digits."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:d}" if isinstance(value, int) else f"{value:.4g}"


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


def flat(nested: Nested, *, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield settings as (name, text). A nested name is a.b, lists are JSON, None is skipped."""
    for key, value in nested.items():
        if isinstance(value, dict):
            yield from flat(value, prefix=f"{prefix}{key}.")
        elif value is not None:
            yield (
                f"{prefix}{key}",
                (
                    json.dumps(value, default=str)
                    if isinstance(value, list | tuple)
                    else number(value)
                ),
            )


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


def _image(data: bytes, kind: str, words: str) -> str:
    return (
        f'<p><img src="data:image/{kind};base64,{base64.b64encode(data).decode()}"'
        f' alt="{html.escape(words)}"></p>'
    )


def _plot(path: Path, words: str) -> str:
    return _image(path.read_bytes(), "png", words)


def _gallery(pages: Sequence[bytes]) -> str:
    images = [
        _image(page, "jpeg", f"gallery page {i}: queries and their matches")
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


def _list(triples: Iterable[tuple[Any, str, Any]], *, kind: str = "text") -> str:
    """A table of (name, words, value), "" without rows. kind: "number" aligns values right."""
    rows = "\n".join(
        f'<tr><th scope="row"><code>{html.escape(str(key))}</code> <span'
        f' class="faint">{html.escape(words)}</span></th><td'
        f' class="{kind}">{html.escape(str(value))}</td></tr>'
        for key, words, value in triples
    )
    return f'<table class="list">{rows}</table>' if rows else ""


def _sha256(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


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
        "Numbers": _list(
            [(k, report.words.get(k, ""), number(v)) for k, v in numbers], kind="number"
        ),
        "Skipped": _list([(k, "", why) for k, why in report.left_out.items()]),
        "Counts": _list([(k, "", v) for k, v in flat(report.counts)], kind="number"),
        "Settings": _list([(k, "", v) for k, v in flat(report.settings)]),
    }


def _page(report: Report, sections: dict[str, str], data: str) -> str:
    """The HTML of the page. sections: {title: HTML}, of which empty ones are skipped; data: JSON of
    the table."""
    settings = report.settings
    sections = {title: body for title, body in sections.items() if body}
    script, style = _resource("report.js"), _resource("report.css")
    # with it, the browser refuses any other script, and any request
    policy = (
        f"default-src 'none'; img-src data:; style-src 'sha256-{_sha256(style)}'; script-src"
        f" 'sha256-{_sha256(script)}'"
    )
    return Template(_resource("report.html")).substitute(
        policy=policy,
        style=style,
        headline=html.escape(headline(report.metrics, settings)),
        query_dir=html.escape(str(settings.get("query_dir", ""))),
        val_dir=html.escape(str(settings.get("val_dir", ""))),
        tiles="".join(_tile(*tile) for tile in tiles(report.metrics)),
        links=" ".join(f'<a href="#{_anchor(title)}">{title}</a>' for title in sections),
        sections="".join(_section(title, body) for title, body in sections.items()),
        data=data,
        script=script,
    )


def _resource(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")


def _matches(table: MatchTable, threshold: float | None) -> str:
    shown, total = len(table.rows), table.total
    which = f"The {shown:,} most similar of {total:,}" if total > shown else f"All {total:,}"
    text = Template(_resource("report_matches.html")).substitute(
        which=f"{which} generated images", marks="" if threshold is None else MARKS
    )
    return text.removesuffix("\n")


def _anchor(title: str) -> str:
    return title.replace(" ", "-").lower()


def _section(title: str, body: str) -> str:
    return f'<section id="{_anchor(title)}"><h2>{title}</h2>{body}</section>'
