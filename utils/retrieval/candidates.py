"""Candidates: the few training images with which a generated image is aligned.

A descriptor ranks them for several views of the generated image (as it is, mirrored, its centre),
and windows of both pictures rank them again; the best of both lists alternate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageOps

from utils.retrieval.descriptors.network import Extractor

if TYPE_CHECKING:
    import torch

CENTRE = 0.8  # of either side
PLAIN = "plain"


def _plain(picture: Image.Image) -> Image.Image:
    return picture


def _centre(picture: Image.Image) -> Image.Image:
    """The middle of a picture, at the picture's size."""
    across, down = ((1 - CENTRE) / 2 * side for side in picture.size)
    box = (across, down, picture.width - across, picture.height - down)
    return picture.resize(picture.size, Image.Resampling.BICUBIC, box=box)


def _mirrored_centre(picture: Image.Image) -> Image.Image:
    return ImageOps.mirror(_centre(picture))


# --views -> what the descriptor sees of a generated image, PIL RGB -> PIL RGB
VIEWS: dict[str, Callable[[Image.Image], Image.Image]] = {
    PLAIN: _plain,
    "mirrored": ImageOps.mirror,
    "centre": _centre,
    "mirrored_centre": _mirrored_centre,
}
TWO_VIEWS = (PLAIN, "mirrored")
# --pt_style -> views without --views; TWO_VIEWS for all others, whose networks take longer
ALL_VIEWS_OF = ("pixel", "timm")


def default_views(descriptor: str) -> tuple[str, ...]:
    """The views of a descriptor without --views."""
    return tuple(VIEWS) if descriptor in ALL_VIEWS_OF else TWO_VIEWS


@dataclass(frozen=True)
class _OfView:
    """A transform of a view of a picture; it runs in a worker, so it must be picklable."""

    view: str
    transform: Callable[[Image.Image], torch.Tensor]

    def __call__(self, picture: Image.Image) -> torch.Tensor:
        return self.transform(VIEWS[self.view](picture))


def feature_name(view: str) -> str:
    """The name of the features of a view: `descriptor` for the picture as it is."""
    return "descriptor" if view == PLAIN else f"descriptor:{view}"


def of_views(descriptor: Extractor, views: Sequence[str]) -> dict[str, Extractor]:
    """Extractors of the views other than the picture as it is. Returns: {feature_name:
    Extractor}."""
    return {
        feature_name(view): replace(
            descriptor,
            transform=_OfView(view, descriptor.transform),
            record={**descriptor.record, "view": view},
        )
        for view in views
        if view != PLAIN
    }


def best_of_views(scores: np.ndarray, indices: np.ndarray, k: int) -> np.ndarray:
    """The k best training images over all views, each once. scores, indices: [V, Q, n], the n best
    of each of V views. Returns: [Q, k] int64; -1 where there are fewer."""
    views, queries, _ = scores.shape
    found = np.full((queries, k), -1, np.int64)
    for q in range(queries):
        order = np.argsort(-scores[:, q].ravel(), kind="stable")
        distinct = list(dict.fromkeys(indices[:, q].ravel()[order].tolist()))
        kept = [i for i in distinct if i >= 0][:k]
        found[q, : len(kept)] = kept
    return found


def alternated(first: np.ndarray, second: np.ndarray, k: int) -> np.ndarray:
    """The k best of two rankings, which alternate, each training image once. first, second: [Q, n]
    and [Q, m] int64, -1 for none. Returns: [Q, k] int64; -1 where there are fewer."""
    found = np.full((len(first), k), -1, np.int64)
    for q, (a, b) in enumerate(zip(first, second, strict=True)):
        places = max(len(a), len(b))
        both = [row[i] for i in range(places) for row in (a, b) if i < len(row)]
        kept = [int(i) for i in dict.fromkeys(both) if i >= 0][:k]
        found[q, : len(kept)] = kept
    return found
