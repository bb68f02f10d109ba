"""Parts that the self-contained pages share: files beside this module, tables, pictures, sections
and the policy that lets a page run its own script alone."""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent

Nested = dict[str, Any]  # name: JSON value, or such a dict


def resource(*names: str) -> str:
    """The text of the files with these names beside this module, one after the other."""
    return "".join((HERE / name).read_text(encoding="utf-8") for name in names)


def policy(*, style: str, script: str) -> str:
    """The Content-Security-Policy of a page with one style element and one script. With it, the
    browser refuses any other script, and any request."""
    return (
        f"default-src 'none'; img-src data:; style-src 'sha256-{sha256(style)}'; script-src"
        f" 'sha256-{sha256(script)}'"
    )


def sha256(text: str) -> str:
    """SHA-256 of a text in base64, as a Content-Security-Policy names a script."""
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def number(value: Any) -> str:
    """A number as text: an integer in full, others with four significant digits."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:d}" if isinstance(value, int) else f"{value:.4g}"


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


def data_address(data: bytes, kind: str) -> str:
    """The address of a picture that travels within the page. kind: "jpeg" or "png"."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def image(data: bytes, kind: str, words: str) -> str:
    """A paragraph with a picture. words: for readers who cannot see it."""
    return f'<p><img src="{data_address(data, kind)}" alt="{html.escape(words)}"></p>'


def listed(triples: Iterable[tuple[Any, str, Any]], *, kind: str = "text") -> str:
    """A table of (name, words, value), "" without rows. kind: "number" aligns values right."""
    rows = "\n".join(
        f'<tr><th scope="row"><code>{html.escape(str(key))}</code> <span'
        f' class="faint">{html.escape(words)}</span></th><td'
        f' class="{kind}">{html.escape(str(value))}</td></tr>'
        for key, words, value in triples
    )
    return f'<table class="list">{rows}</table>' if rows else ""


def anchor(title: str) -> str:
    """The id of the section with this title."""
    return title.replace(" ", "-").lower()


def section(title: str, body: str) -> str:
    """A section, to which a link can jump. title, body: HTML."""
    return f'<section id="{anchor(title)}"><h2>{title}</h2>{body}</section>'


def links(titles: Iterable[str]) -> str:
    """Links to the sections with these titles."""
    return " ".join(f'<a href="#{anchor(title)}">{title}</a>' for title in titles)
