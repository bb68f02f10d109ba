"""Pictures with boxes, and bars of shares, as HTML for card.html. Bars are drawn in per cent of the
page's width, so that they fit a phone and paper, and take their colours from the page's style."""

from __future__ import annotations

import html
import io
from collections.abc import Sequence
from typing import Any

from PIL import Image

from utils.reports.card_tables import CardJson
from utils.reports.page_parts import data_address

TOPS = (0.01, 0.02, 0.04, 0.06, 0.1, 0.2, 0.3, 0.4, 0.6, 0.8, 1.0)  # ends of an axis of shares
HEADROOM = 1.1  # an axis ends at least so many times above what it shows

Box = Sequence[Sequence[float]]  # corners (x, y), shares of width and height


def picture(data: bytes, words: str, *, box: Box | None = None, copied: bool = False) -> str:
    """A picture that keeps its shape in any square.

    data: JPEG; words: for readers who cannot see it; box: drawn over it; copied: whether to give it
    the frame of a copy."""
    kind = "pic copied" if copied else "pic"
    return (
        f'<span class="{kind}"><img src="{data_address(data, "jpeg")}" alt="{html.escape(words)}">'
        f"{outline(data, box)}</span>"
    )


def outline(data: bytes, box: Box | None) -> str:
    """The drawing of a box that lies exactly on its picture; without lines if there is no box.
    data: JPEG, whose size it takes."""
    with Image.open(io.BytesIO(data)) as image:
        width, height = image.size
    corners = " ".join(f"{x * width:.2f},{y * height:.2f}" for x, y in box or ())
    # a dark line below a bright one is seen on any picture
    lines = "".join(f'<polygon class="{c}" points="{corners}"/>' for c in ("below", "line") if box)
    return f'<svg class="box" viewBox="0 0 {width} {height}" aria-hidden="true">{lines}</svg>'


def axis_top(shares: Sequence[CardJson | None], limit: float | None) -> float:
    """The end of an axis that holds all intervals and the limit, at most 1."""
    highest = max([*(s["hi"] for s in shares if s is not None), limit or 0.0])
    return next((top for top in TOPS if top >= HEADROOM * highest), 1.0)


def bar(share: CardJson | None, *, top: float, limit: float | None) -> str:
    """A share as a bar with its interval, and the limit as a line across. top: the axis' end."""
    if share is None:
        return ""
    return (
        '<svg class="share-bar" aria-hidden="true"><rect class="track" width="100%" height="100%"/>'
        f"{_marks(share, top=top, limit=limit)}</svg>"
    )


def scale(share: CardJson, *, limit: float | None) -> str:
    """The answer's share on an axis with numbers, beside the limit."""
    top = axis_top([share], limit)
    ticks = "".join(
        f'<text x="{100 * at:g}%" y="58" text-anchor="{anchor}">{100 * at * top:g} %</text>'
        for at, anchor in ((0, "start"), (0.5, "middle"), (1, "end"))
    )
    named = ""
    if limit is not None:
        at = 100 * limit / top
        side = "start" if at < 50 else "end"
        named = f'<text x="{at:.2f}%" y="12" text-anchor="{side}">limit {100 * limit:g} %</text>'
    return (
        f'<svg class="scale" aria-hidden="true">{named}<svg y="18" height="24" width="100%"><rect'
        ' class="track" width="100%" height="100%"/>'
        f"{_marks(share, top=top, limit=limit)}</svg>{ticks}</svg>"
    )


def _marks(share: CardJson, *, top: float, limit: float | None) -> str:
    value, lo, hi = (_at(share[key], top) for key in ("value", "lo", "hi"))
    marks = [
        f'<rect class="value" width="{value}" height="100%"/>',
        f'<line class="interval" x1="{lo}" x2="{hi}" y1="50%" y2="50%"/>',
        *(f'<line class="interval" x1="{x}" x2="{x}" y1="25%" y2="75%"/>' for x in (lo, hi)),
    ]
    if limit is not None:
        at = _at(limit, top)
        marks.append(f'<line class="limit" x1="{at}" x2="{at}" y1="0" y2="100%"/>')
    return "".join(marks)


def _at(share: float, top: float) -> str:
    return f"{100 * min(share / top, 1.0):.2f}%"


def examples(names: Sequence[str], pictures: Any, label: str) -> str:
    """A strip of example pictures. names: of `pictures`; label: of the set that they are from."""
    return "".join(
        picture(pictures[name], f"{label}: example {n} of {len(names)}")
        for n, name in enumerate(names, 1)
    )
