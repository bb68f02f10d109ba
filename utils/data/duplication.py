"""Duplication: images that are drawn more often in training, and the order of draws.

An image of weight w is drawn w times as often as one of weight 1: 5 % of the images at weight 5 are
20.8 % of the draws (Somepalli et al. 2023). All is a pure function of the seed and of the images in
natural order."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from utils.data.caption_edits import all_captions
from utils.data.image_sets import ImageSet
from utils.data.key_matching import match_keys
from utils.files.text_files import read_json
from utils.runtime import seeding
from utils.runtime.errors import UsageError, require_file


@dataclass(frozen=True)
class CaptionChoice:
    """Which of an image's captions a draw uses, an entry of DUPLICATIONS.

    choose: (captions, duplicated, rng) -> caption. duplicated: whether the image is drawn more
        often.
    prompts: (captions) -> the captions that `choose` may return.
    duplicates: whether images are drawn more often; if not, the images that would be are recorded.
    varies: whether `choose` may return another caption than caption 0.
    """

    choose: Callable[..., str]
    prompts: Callable[[Sequence[str]], Sequence[str]]
    duplicates: bool = True
    varies: bool = False

    def __call__(self, captions: Sequence[str], duplicated: bool, rng: np.random.Generator) -> str:
        """The caption of a draw, see `choose`."""
        return self.choose(captions, duplicated, rng)


def own_caption(captions: Sequence[str], duplicated: bool, rng: np.random.Generator) -> str:
    """Caption 0 of the image, at every draw."""
    return captions[0]


def varied_caption(captions: Sequence[str], duplicated: bool, rng: np.random.Generator) -> str:
    """A random caption of the image at every draw if it is duplicated, else caption 0."""
    return captions[int(rng.integers(len(captions)))] if duplicated else captions[0]


def first_caption_alone(captions: Sequence[str]) -> Sequence[str]:
    """A list of caption 0."""
    return captions[:1]


# --duplication -> which of an image's captions a draw takes
DUPLICATIONS: dict[str, CaptionChoice] = {
    "nodup": CaptionChoice(own_caption, first_caption_alone, duplicates=False),
    "dup_both": CaptionChoice(own_caption, first_caption_alone),
    "dup_image": CaptionChoice(varied_caption, all_captions, varies=True),
}


def share_of(count: int, share: float) -> int:
    """floor(share * count), without rounding errors of floats: 0.29 of 100 is 29, not 28."""
    return math.floor(round(share * count, 9))


def require_holdout(count: int, share: float) -> int:
    """How many of `count` images --holdout sets aside; UsageError unless at least one is, and one
    is left to train on. A share of 0 sets none aside."""
    held = share_of(count, share)
    if not share or 1 <= held < count:
        return held
    accepted, problem = "a smaller share", "leaves none to train on"
    if count < 2:
        accepted, problem = "0, or more images", "needs an image on each side"
    elif not held:
        # rounded up: the rounded share must be accepted itself
        accepted = f"at least {math.ceil(10_000 / count) / 10_000:g}, or 0 for none"
        problem = "sets none aside"
    raise UsageError(f"--holdout={share} of {count} images {problem}; use {accepted}")


def held_out(count: int, share: float, seed: int) -> np.ndarray:
    """Indices of the images of --holdout, which are never drawn: floor(share * count) images,
    drawn without replacement.

    share: in [0, 1). Returns: int64 [floor(share * count)], ascending; none for a share of 0."""
    held = require_holdout(count, share)
    return np.sort(seeding.numpy_rng(seed, "holdout").permutation(count)[:held])


def require_subset(count: int, share: float) -> int:
    """How many of `count` images --trainsubset keeps; UsageError if it keeps none."""
    kept = share_of(count, share)
    if kept < 1:
        raise UsageError(
            f"--trainsubset={share} keeps none of {count} images; use at least {1 / count:.3g}"
        )
    return kept


def subset(count: int, share: float, seed: int) -> np.ndarray:
    """Indices of the images of --trainsubset: floor(share * count) images drawn without
    replacement.

    share: in (0, 1]. Returns: int64 [floor(share * count)], ascending."""
    kept = require_subset(count, share)
    return np.sort(seeding.numpy_rng(seed, "subset").permutation(count)[:kept])


def duplicated_images(count: int, share: float, seed: int) -> np.ndarray:
    """Indices of the duplicated images: floor(share * count) images drawn without replacement.

    A run under `nodup` records the same images as the counterfactual: those that its seed would
    duplicate. Returns: int64 [floor(share * count)], ascending."""
    return np.sort(
        seeding.numpy_rng(seed, "duplication").permutation(count)[: share_of(count, share)]
    )


class DrawOrder:
    """The endless order of draws: epochs of `count` draws, each a function of (seed, split, epoch).

    count: number of images;
    weights: [count], for draws with replacement; None shuffles all images in every epoch;
    split: number of the ensemble's split that the images belong to, from 0."""

    def __init__(
        self, count: int, *, weights: np.ndarray | None = None, seed: int, split: int = 0
    ) -> None:
        self.count, self.seed, self.split = count, seed, split
        self.probabilities = (
            None if weights is None else np.asarray(weights, float) / np.sum(weights)
        )
        self._epoch: int | None = None
        self._order = np.empty(0, np.int64)  # of that epoch

    def epoch(self, number: int) -> np.ndarray:
        """Indices of the images of an epoch, in the order of draws. Returns: int64 [count]."""
        rng = seeding.numpy_rng(self.seed, "order", self.split, number)
        if self.probabilities is None:
            return rng.permutation(self.count)
        return rng.choice(self.count, self.count, p=self.probabilities)

    def __getitem__(self, position: int) -> int:
        """Index of the image of draw number `position`, counted from 0 over all epochs."""
        epoch, offset = divmod(position, self.count)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, self.epoch(epoch)
        return int(self._order[offset])


def read_weights(flag: str, path: str | Path, images: ImageSet) -> tuple[np.ndarray, int]:
    """Sampling weights of an image set from a JSON file: {image path: number >= 0}.

    An image that the file does not name has weight 1. UsageError, which names `flag`, for a wrong
    value, if no image is named, or if all weights are 0. Returns: float64 [N]; number of images
    that are not named."""
    data = read_json(require_file(flag, path), unique=True)
    if not isinstance(data, dict) or not data:
        raise UsageError(f"{flag}={str(path)!r} holds no weights; use JSON, image path -> weight")
    wrong = [k for k, v in data.items() if type(v) not in (int, float) or not 0 <= v < math.inf]
    if wrong:
        raise UsageError(
            f"{flag}={str(path)!r}: {wrong[0]!r} has {data[wrong[0]]!r}; use a number, at least 0"
        )
    matches, _ = match_keys(path, data, images.root, images.keys)
    weights = np.array([data[matches[k]] if k in matches else 1.0 for k in images.keys], float)
    if not matches or not weights.sum():
        problem = "leaves no image to draw" if matches else "names none of the images"
        raise UsageError(
            f"{flag}={str(path)!r} {problem}; use JSON, image path -> weight, with paths as in a"
            " captions file"
        )
    return weights, len(images) - len(matches)
