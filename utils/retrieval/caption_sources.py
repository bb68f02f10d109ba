"""The training image of a prompt that no manifest names: the one whose caption it is."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from utils.retrieval.evaluation_sets import Query

if TYPE_CHECKING:
    from utils.runtime.parallel import Say


def _plain(text: str) -> str:
    return " ".join(text.split())


def with_sources(
    queries: list[Query], captions: Mapping[str, Sequence[str]], say: Say
) -> list[Query]:
    """Name the training image of every generated image whose prompt is a caption of exactly one
    training image, and say of how many. White space may differ.

    captions: {key of a training image: its captions}. Returns: the queries in their order."""
    owners: dict[str, set[str]] = {}
    for key, texts in captions.items():
        for text in texts:
            owners.setdefault(_plain(text), set()).add(key)
    owned = {text: next(iter(keys)) for text, keys in owners.items() if len(keys) == 1}
    sources = [owned.get(_plain(q.source_prompt or "")) for q in queries]
    prompted = sum(q.source_prompt is not None for q in queries)
    found = sum(source is not None for source in sources)
    if found:
        say(
            f"{found} of {prompted} prompts are the caption of one training image, which counts as"
            " the prompt's own"
        )
    return [
        query if source is None else dataclasses.replace(query, source_image=source)
        for query, source in zip(queries, sources, strict=True)
    ]
