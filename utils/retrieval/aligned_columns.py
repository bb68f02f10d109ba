"""What matches.csv says of the second look."""

from __future__ import annotations

from typing import Any

import numpy as np

from utils.retrieval.aligning.aligned_pair import Box
from utils.retrieval.decided import Decided
from utils.retrieval.measured import Measured


def unranked(measured: Measured, query: int) -> list[tuple[None, int, None]]:
    """The training image that a generated image agrees with best, as a row without rank and score,
    if it is none of the descriptor's best matches."""
    look = measured.second_look
    pair = None if look is None else look.pairs[query]
    if pair is None or pair.match in measured.matches.indices[query]:
        return []
    return [(None, pair.match, None)]


def aligned_columns(measured: Measured, decided: Decided, query: int, match: int) -> dict[str, Any]:
    """The columns of a generated image and one of its matches: `aligned` of every candidate; what
    was done to it, its boxes and its copied area of the one that it agrees with best.

    Nothing without a second look; a match that was no candidate has empty columns."""
    look = measured.second_look
    if look is None:
        return {}
    places = np.flatnonzero(look.candidates[query] == match)
    aligned = look.aligned[query, places[0]] if len(places) else np.nan
    pair = look.pairs[query]
    is_best = pair is not None and pair.match == match
    groups = decided.near_duplicates
    columns = {
        "aligned": None if np.isnan(aligned) else f"{aligned:.6f}",
        "best_aligned": int(is_best),
        "near_duplicates": None if groups is None else int(groups[match]),
    }
    if pair is not None and is_best:
        columns |= {
            "transformation": pair.transformation.in_words(),
            "box_query": _corners(pair.box_query),
            "box_match": _corners(pair.box_match),
            "copied_area": f"{pair.copied_area:.4f}",
        }
    return columns


def _corners(box: Box) -> str:
    """Corners as text: "0.100 0.000;0.900 0.000;...", shares of width and height."""
    return ";".join(f"{x:.3f} {y:.3f}" for x, y in box)
