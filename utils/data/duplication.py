"""Duplication: which images are drawn more often, and the order of draws.

An image of weight w is drawn w times as often as one of weight 1: 5 % of the images at weight 5 are
20.8 % of the draws (Somepalli et al. 2023). Everything is a pure function of the seed and of the
list of images in natural order."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from utils.data.captions import match_keys
from utils.files.whole_files import read_json
from utils.runtime import seeding
from utils.runtime.errors import UsageError, require_file


@dataclass(frozen=True)
class CaptionChoice:
    """Which of an image's captions a draw takes, a line of DUPLICATIONS.

    choose: (captions, duplicated, rng) -> caption. duplicated: whether the image is drawn more
        often.
    prompts: (captions) -> the captions that `choose` may return.
    """

    choose: Callable[..., str]
    prompts: Callable[[list], list]

    def __call__(self, captions, duplicated, rng):
        return self.choose(captions, duplicated, rng)


def own_caption(captions, duplicated, rng):
    """Caption 0."""
    return captions[0]


def varied_caption(captions, duplicated, rng):
    """A duplicated image draws one of all its captions each time, the others keep caption 0."""
    return captions[int(rng.integers(len(captions)))] if duplicated else captions[0]


def first_caption_alone(captions):
    """A list of caption 0."""
    return captions[:1]


def all_captions(captions):
    """The image's whole list."""
    return captions


# --duplication -> which of an image's captions a draw takes
DUPLICATIONS = {
    "nodup": CaptionChoice(own_caption, first_caption_alone),
    "dup_both": CaptionChoice(own_caption, first_caption_alone),
    "dup_image": CaptionChoice(varied_caption, all_captions),
}


def share_of(count, share):
    """floor(share * count), where 0.29 of 100 is 29 although the product of the floats is
    28.999..."""
    return math.floor(round(share * count, 9))


def require_subset(count, share):
    """How many images --trainsubset keeps; UsageError if none."""
    kept = share_of(count, share)
    if kept < 1:
        raise UsageError(
            f"--trainsubset={share} keeps none of {count} images; takes at least {1 / count:.3g}"
        )
    return kept


def subset(count, share, seed):
    """Indices of the first floor(share * count) images of a seeded permutation, ascending. share:
    above 0, to 1."""
    kept = require_subset(count, share)
    return np.sort(seeding.numpy_rng(seed, "subset").permutation(count)[:kept])


def duplicated_images(count, share, seed):
    """Indices of floor(share * count) images drawn without replacement, ascending.

    A `nodup` run records the same set: the images that its seed would duplicate, as the
    counterfactual."""
    return np.sort(
        seeding.numpy_rng(seed, "duplication").permutation(count)[: share_of(count, share)]
    )


class DrawOrder:
    """The endless order of draws: epoch after epoch of `count` draws, each a function of (seed,
    split, epoch).

    weights: None for a uniform shuffle, else [count] weights of draws with replacement.
    """

    def __init__(self, count, *, weights=None, seed, split=0):
        self.count, self.seed, self.split = count, seed, split
        self.probabilities = (
            None if weights is None else np.asarray(weights, float) / np.sum(weights)
        )
        self._epoch, self._order = None, None

    def epoch(self, number):
        """Indices of one epoch. Returns: int64 [count]."""
        rng = seeding.numpy_rng(self.seed, "order", self.split, number)
        if self.probabilities is None:
            return rng.permutation(self.count)
        return rng.choice(self.count, self.count, p=self.probabilities)

    def __getitem__(self, position):
        """Index of the image at a position of the endless order, counted from 0."""
        epoch, offset = divmod(position, self.count)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, self.epoch(epoch)
        return int(self._order[offset])


def read_weights(flag, path, images):
    """Sampling weights of an ImageSet from JSON, path -> number of at least 0; an image that is not
    named has weight 1.

    UsageError naming the flag on a wrong value, when no image is named, or when nothing is left to
    draw. Returns: (float64 [N], number of images that are not named)."""
    data = read_json(require_file(flag, path))
    if not isinstance(data, dict) or not data:
        raise UsageError(f"{flag}={str(path)!r} holds no weights; takes JSON, image path -> weight")
    wrong = [k for k, v in data.items() if type(v) not in (int, float) or not 0 <= v < math.inf]
    if wrong:
        raise UsageError(
            f"{flag}={str(path)!r}: {wrong[0]!r} has {data[wrong[0]]!r}; takes a number, at least 0"
        )
    found, _ = match_keys(path, data, images.root, images.keys)
    weights = np.array([data[found[k]] if k in found else 1.0 for k in images.keys], float)
    if not found or not weights.sum():
        what = "names none of the images" if not found else "leaves no image to draw"
        raise UsageError(
            f"{flag}={str(path)!r} {what}; takes JSON, image path -> weight, paths as in a captions"
            " file"
        )
    return weights, len(images) - len(found)
