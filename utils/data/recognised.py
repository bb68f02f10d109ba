"""What was recognised of a set of images and its captions, as --dry_run shows it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from utils.data.image_sets import ImageSet
from utils.data.prompt_styles import class_of

SHOWN = 20  # classes and skipped images that are named; the others are counted


def _named(names: Sequence[Any]) -> list[Any]:
    """The first SHOWN of some names, and how many more there are."""
    more = len(names) - SHOWN
    return [*names[:SHOWN], *([f"and {more} more"] if more > 0 else [])]


def of_images(images: ImageSet) -> dict[str, Any]:
    """What was recognised of images, as JSON types: where they lie, how many of which suffix, how
    many of each class (the folder they lie in), which were skipped and why, and how many other
    files lie beside them by kind."""
    formats = Counter(os.path.splitext(key)[1].lower() or "no suffix" for key in images.keys)
    names = (class_of(key, images.classes) for key in images.keys)
    classes = Counter(name for name in names if name is not None)
    inside = len({file for file, _ in images.places})
    return {
        "layout": f"inside {inside} files" if images.places else "files in a folder",
        "images": len(images),
        "formats": dict(formats.most_common()),
        "classes": dict(classes.most_common(SHOWN)),
        "classes_in_all": len(classes),
        "skipped": _named([f"{key} ({reason})" for key, reason in images.bad]),
        "skipped_in_all": len(images.bad),
        "other_files": dict(images.left_out),
    }


def of_weights(weights: np.ndarray | None) -> dict[float, int]:
    """How many images have each weight in the draw, the heaviest first; at most SHOWN weights.

    weights: [N] of --weights_file and of folders such as 10_cat; None: all are drawn alike."""
    counts = Counter([] if weights is None else weights.tolist())
    return dict(sorted(counts.items(), reverse=True)[:SHOWN])


def of_captions(captions: Mapping[str, Sequence[str]], source: str) -> dict[str, Any]:
    """What was recognised of captions, as JSON types: how many images have some, how many each has,
    and how many captions are empty.

    captions: {image key: captions}; source: where they were found, in words."""
    counts = [len(texts) for texts in captions.values()]
    return {
        "from": source,
        "images": len(counts),
        "captions_an_image": {"fewest": min(counts, default=0), "most": max(counts, default=0)},
        "empty": sum(not text.strip() for texts in captions.values() for text in texts),
    }
