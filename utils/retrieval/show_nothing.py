"""Generated images that show nothing, as a broken model makes them: of one colour, which is found
while they are read, or noted as such by the generation. They are left out of all numbers, as images
that cannot be read are: they resemble no training image, so that they would make a model look as if
it copied nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from utils.retrieval.descriptors.network import Extractor
from utils.retrieval.evaluation_sets import Sets
from utils.runtime.errors import DataError

if TYPE_CHECKING:
    import torch
    from PIL import Image

    from utils.runtime.parallel import Processes

SPREAD = "spread"  # name of the features that hold the spread of every image
MOST_SPREAD = 1  # levels of 255 by which the pixels of an image of one colour may differ
VOID_SHARE = 0.5  # of images that show nothing, above which the verdict on the others is void
NAMED = 3  # images that a line names


def extractor() -> Extractor:
    """Reads the spread of an image in the same pass as all features: the largest difference of two
    pixels in one channel, 0 to 255, [B, 1]."""
    return Extractor(_spread, _unchanged, {"spread": 1}, is_network=False)


def _spread(picture: Image.Image) -> torch.Tensor:
    import torch

    channels = np.asarray(picture.convert("RGB")).reshape(-1, 3)
    spread = int((channels.max(0) - channels.min(0)).max())
    return torch.tensor([spread], dtype=torch.float32)


def _unchanged(spreads: torch.Tensor) -> torch.Tensor:
    return spreads


def of_one_colour(spreads: torch.Tensor) -> torch.Tensor:
    """Which images are of one colour, [N] bool. spreads: [N, 1], the features of `extractor`."""
    return (spreads <= MOST_SPREAD).all(1)


def leave_out(
    sets: Sets, read: Mapping[str, torch.Tensor], processes: Processes
) -> tuple[Sets, dict[str, torch.Tensor]]:
    """Leave the generated images that show nothing out of the sets and of the features: those of
    one colour, and those that the generation noted (`Query.shows_nothing`).

    sets: whose generated images are those that were read, Q of them
    read: {name of features: [Q, D]} with those of `extractor`; empty on processes other than the
        main one

    Every process calls this. DataError if all generated images show nothing. Returns: the
    sets, with the keys that were left out; the features without those of `extractor`."""
    flat = processes.share(of_one_colour(read[SPREAD]).tolist() if processes.main else None)
    flat = [one or query.shows_nothing for one, query in zip(flat, sets.queries, strict=True)]
    features = {name: rows for name, rows in read.items() if name != SPREAD}
    if not any(flat):
        return sets, features
    names = tuple(query.key for query, one in zip(sets.queries, flat, strict=True) if one)
    if all(flat):
        raise DataError(
            f"{sets.generated.root}: all {len(flat)} generated images show nothing, first"
            f" {names[0]!r}: there is nothing to measure, and the model gives no pictures"
        )
    kept = [place for place, one in enumerate(flat) if not one]
    left = replace(
        sets,
        queries=[sets.queries[place] for place in kept],
        generated=sets.generated.take(kept),
        show_nothing=names,
    )
    return left, {name: rows[kept] for name, rows in features.items()}


def settings_of(sets: Sets) -> dict[str, dict[str, int | bool]]:
    """What `settings` of metrics.json says of images that show nothing; nothing without one.

    `void`: whether they are most of the images, so that the others say nothing of the model."""
    count = len(sets.show_nothing)
    if not count:
        return {}
    total = count + len(sets.queries)
    return {"show_nothing": {"images": count, "of": total, "void": count > VOID_SHARE * total}}


def note(names: Sequence[str]) -> str | None:
    """A line that counts images that show nothing and names the first ones; None without one."""
    if not names:
        return None
    return (
        "generated images that show nothing (of one colour, or not finite), which are left out of"
        f" all numbers: {_counted(names)}"
    )


def innocents_note(names: Sequence[str]) -> str | None:
    """The same of innocents of one colour."""
    return f"innocents of one colour, which are left out: {_counted(names)}" if names else None


def _counted(names: Sequence[str]) -> str:
    first = ", ".join(repr(name) for name in names[:NAMED])
    more = f" and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
    return f"{len(names):,} ({first}{more})"
