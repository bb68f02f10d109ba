"""The second look for readers: its words, and its part of the page's rows."""

from __future__ import annotations

from typing import Any

from utils.retrieval.aligning.aligned_pair import AlignedPair, Box
from utils.retrieval.decided import Decided
from utils.retrieval.evaluation_sets import Sets
from utils.retrieval.measured import Measured

FLAT_NAMED = 3  # pictures that a line names
PLACES = 4  # decimals of a corner on the page


def flat_queries(measured: Measured) -> list[int]:
    """The generated images whose aligned search found only flat overlap; none without a second
    look."""
    look = measured.second_look
    return [] if look is None else [q for q, pair in enumerate(look.pairs) if pair is None]


def flat_note(measured: Measured, sets: Sets) -> str | None:
    """A line that counts the images whose aligned search found only flat overlap, and names the
    first ones; None if there are none."""
    found = flat_queries(measured)
    if not found:
        return None
    names = ", ".join(repr(sets.queries[q].key) for q in found[:FLAT_NAMED])
    more = f" and {len(found) - FLAT_NAMED:,} more" if len(found) > FLAT_NAMED else ""
    return (
        "generated images without an aligned score, because they share only flat areas with their"
        f" candidates: {len(found):,} ({names}{more})"
    )


def group_in_words(size: int | None) -> str:
    """What is said of a training image with near-duplicates: "one of 3 near-duplicates"; "" of
    another. size: as `Decided.group_of` returns it."""
    return "" if size is None else f"one of {size:,} near-duplicates"


def pair_of(measured: Measured, query: int) -> AlignedPair | None:
    """The best aligned pair of a generated image; None without one."""
    return None if measured.second_look is None else measured.second_look.pairs[query]


def page_columns(measured: Measured, sets: Sets, decided: Decided, query: int) -> dict[str, Any]:
    """What the page's row of a generated image says of its best aligned pair. Every value is None
    where there is nothing to align, except for the group, which is then that of the descriptor's
    best match."""
    pair = pair_of(measured, query)
    names = ("aligned", "aligned_match", "aligned_picture", "aligned_caption", "aligned_duplicated")
    more = ("transformation", "box_query", "box_match", "copied_area")
    maps = ("agreement_picture", "query_agreement_picture")
    if pair is None:
        match = int(measured.matches.indices[query, 0])
        return {**dict.fromkeys((*names, *more, *maps)), "group": decided.group_of(match)}
    key = sets.training_images.keys[pair.match]
    return {
        "aligned": round(float(pair.aligned), 6),
        "aligned_match": key,
        "aligned_picture": f"training/{key}",
        "aligned_caption": sets.known.captions.get(key),
        "aligned_duplicated": measured.origins.is_duplicated(pair.match),
        "transformation": pair.transformation.in_words(),
        "box_query": _rounded(pair.box_query),
        "box_match": _rounded(pair.box_match),
        "copied_area": round(float(pair.copied_area), 4),
        "agreement_picture": f"agreement/training/{sets.queries[query].key}",
        "query_agreement_picture": f"agreement/generated/{sets.queries[query].key}",
        "group": decided.group_of(pair.match),
    }


def _rounded(box: Box) -> list[list[float]]:
    return [[round(float(x), PLACES), round(float(y), PLACES)] for x, y in box]
