"""Aspect-ratio buckets: images of about one shape share micro-batches, so that little of each is
cropped away."""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from utils.data.image_sets import ImageSet
from utils.runtime import seeding

AUTO = "auto"  # the sizes that follow from --resolution
STEP = 64  # pixels between sides of automatic sizes, from 512 px on
LONGEST = 2  # times the shorter side: the longer side of an automatic size
LEAST_AREA = 0.75  # times --resolution squared: the area of an automatic size

Size = tuple[int, int]  # (height, width) in pixels


def in_words(size: Size) -> str:
    """A size as the flag spells it: height,width."""
    return f"{size[0]},{size[1]}"


def listed(text: str) -> list[Size] | None:
    """The sizes of a list such as "64,64;48,80;80,48"; None where it is no such list."""
    try:
        numbers = [[int(number) for number in part.split(",")] for part in text.split(";")]
    except ValueError:
        return None
    if not all(len(pair) == 2 and min(pair) > 0 for pair in numbers):
        return None
    return [(height, width) for height, width in numbers]


def automatic(resolution: int, multiple: int) -> list[Size]:
    """The sizes that follow from --resolution: the square first, then ascending in height.

    Sides are multiples of STEP, or below 512 px of an eighth of `resolution`, rounded up to
    multiples of `multiple`; no side is longer than LONGEST times the other; no size has more pixels
    than the square, nor less than LEAST_AREA of them. Each size is the widest of its height or the
    highest of its width.

    resolution: in pixels; multiple: what must divide a side, of the model's family."""
    unit = math.ceil(min(STEP, resolution / 8) / multiple) * multiple
    found = set()
    for side in range(unit, LONGEST * resolution, unit):
        other = min(resolution**2 // side, LONGEST * side) // unit * unit
        if side <= LONGEST * other and side * other >= LEAST_AREA * resolution**2:
            found |= {(side, other), (other, side)}
    square = (resolution, resolution)
    return [square, *sorted(size for size in found if size[0] != size[1])]


def nearest(shape: tuple[int, int], sizes: Sequence[Size]) -> int:
    """The number of the size whose aspect ratio is nearest to that of a picture: of the ratios'
    quotient the logarithm is smallest. Of equal ones the first. shape: (width, height)."""
    wanted = math.log(shape[0] / shape[1])
    distances = [abs(math.log(width / height) - wanted) for height, width in sizes]
    return distances.index(min(distances))


@dataclass(frozen=True)
class Buckets:
    """The bucket of each image."""

    sizes: tuple[Size, ...]  # of the buckets; some may have no image
    of: np.ndarray  # [N] int64, the number of the bucket of each image

    def take(self, indices: np.ndarray) -> Buckets:
        """The buckets of the images at `indices`."""
        return Buckets(self.sizes, self.of[indices])

    def size(self, index: int) -> Size:
        """What is shown of an image: the size of its bucket."""
        return self.sizes[self.of[index]]

    @property
    def counts(self) -> dict[Size, int]:
        """Images of each bucket that has some."""
        counted = np.bincount(self.of, minlength=len(self.sizes)).tolist()
        return {size: count for size, count in zip(self.sizes, counted, strict=True) if count}

    def record(self, keys: Iterable[str]) -> dict[str, Any]:
        """The buckets with their numbers of images, and the bucket of each image, as JSON types.
        keys: of the N images."""
        return {
            "counts": {in_words(size): count for size, count in self.counts.items()},
            "images": {key: in_words(self.sizes[b]) for key, b in zip(keys, self.of, strict=True)},
        }


def assigned(images: ImageSet, sizes: Sequence[Size]) -> Buckets:
    """Put each image into the bucket nearest to its aspect ratio."""
    of = [nearest(images.shape(index), sizes) for index in range(len(images))]
    return Buckets(tuple(sizes), np.array(of, np.int64))


def counts_line(buckets: Buckets) -> str:
    """A line with the number of images of each bucket."""
    counted = "; ".join(f"{in_words(size)}: {count}" for size, count in buckets.counts.items())
    return f"aspect-ratio buckets (height,width: images): {counted}"


def small_line(splits: Sequence[Buckets], batch: int) -> str | None:
    """A line about buckets with fewer images than a micro-batch; None where all have enough.

    splits: the buckets of each split of an ensemble; batch: images of a micro-batch of all
    processes of a copy."""
    small = [
        f"{in_words(size)} ({count}{f' in split {number}' if len(splits) > 1 else ''})"
        for number, split in enumerate(splits)
        for size, count in split.counts.items()
        if count < batch
    ]
    if not small:
        return None
    return (
        f"buckets with fewer images than the {batch} of a micro-batch, which then shows some of"
        f" them more than once: {', '.join(small)}"
    )


class BucketOrder:
    """The endless order of draws in micro-batches that hold one bucket each, a function of (seed,
    split, micro-batch).

    Without weights: in every epoch the images of each bucket are shuffled and put behind those that
    the epoch before left over; of these, full micro-batches are taken, and the rest waits for the
    next epoch. The micro-batches of all buckets come in random order. So after E epochs no image
    was drawn more than E times, fewer than `batch` draws of each bucket are missing, and over many
    epochs all images are drawn equally often. A bucket with fewer images than a micro-batch waits
    until enough have come together: its micro-batch then holds images more than once.

    With weights there are no epochs. Each micro-batch draws its bucket with the sum of the weights
    in it as the probability, and then its images, with replacement and by their weights within the
    bucket; so the probability of an image at any draw is its weight over the sum of all.

    of: [N], the number of the bucket of each image;
    batch: images of a micro-batch of all processes of a copy;
    weights: [N], for draws with replacement; None shuffles;
    split: number of the ensemble's split that the images belong to, from 0."""

    def __init__(
        self,
        of: np.ndarray,
        *,
        batch: int,
        weights: np.ndarray | None = None,
        seed: int,
        split: int = 0,
    ) -> None:
        self.batch, self.seed, self.split = batch, seed, split
        self.members = [np.flatnonzero(of == bucket) for bucket in range(int(of.max()) + 1)]
        self._cumulated = None  # sums of weights, over the buckets and over the images of each
        if weights is not None:
            weights = np.asarray(weights, float)
            self._cumulated = [weights[members].cumsum() for members in self.members]
            self._buckets = np.cumsum([weights[members].sum() for members in self.members])
        # what was computed last: micro-batch, epoch (its buckets and their micro-batches), and the
        # shuffled images of each bucket
        self._micro_batch: tuple[int, np.ndarray] | None = None
        self._epoch: tuple[int, np.ndarray, np.ndarray] | None = None
        self._shuffled: dict[int, tuple[int, np.ndarray]] = {}

    def __getitem__(self, position: int) -> int:
        """Index of the image of draw number `position`, counted from 0: slot position % batch of
        micro-batch position // batch."""
        number, slot = divmod(position, self.batch)
        if self._micro_batch is None or self._micro_batch[0] != number:
            self._micro_batch = number, self.micro_batch(number)
        return int(self._micro_batch[1][slot])

    def micro_batch(self, number: int) -> np.ndarray:
        """Indices of the images of a micro-batch, all of one bucket. Returns: int64 [batch]."""
        if self._cumulated is not None:
            return self._drawn(number)
        first, buckets, numbers = self._epoch_of(number)
        return self._next_images(int(buckets[number - first]), int(numbers[number - first]))

    def _drawn(self, number):
        rng = seeding.numpy_rng(self.seed, "buckets", self.split, number)
        bucket = int(_by_weight(self._buckets, rng.random(1))[0])
        chosen = _by_weight(self._cumulated[bucket], rng.random(self.batch))
        return self.members[bucket][chosen]

    # Without weights ------------------------------------------------------------------------------

    def _until(self, epoch):
        """Number of micro-batches of each bucket in the epochs before `epoch`."""
        return [epoch * len(members) // self.batch for members in self.members]

    def _epoch_of(self, number):
        """The epoch of a micro-batch. Returns: (the number of its first micro-batch; of each of its
        micro-batches the bucket; and the number of it among those of the bucket)."""
        if self._epoch is not None and 0 <= number - self._epoch[0] < len(self._epoch[1]):
            return self._epoch
        images = sum(map(len, self.members))
        latest = (number + len(self.members)) * self.batch // images + 2
        epoch = bisect.bisect(range(latest), number, key=lambda e: sum(self._until(e))) - 1
        firsts, lasts = self._until(epoch), self._until(epoch + 1)
        buckets = np.repeat(np.arange(len(firsts)), np.subtract(lasts, firsts))
        buckets = seeding.numpy_rng(self.seed, "buckets", self.split, epoch).permutation(buckets)
        numbers = np.empty(len(buckets), np.int64)
        for bucket, (first, last) in enumerate(zip(firsts, lasts, strict=True)):
            numbers[buckets == bucket] = np.arange(first, last)
        self._epoch = sum(firsts), buckets, numbers
        return self._epoch

    def _next_images(self, bucket, number):
        """The images of a bucket's micro-batch `number`: a part of its shuffled images, of which
        each epoch brings all."""
        members = self.members[bucket]
        taken, position = [], number * self.batch
        end = position + self.batch
        while position < end:
            epoch, offset = divmod(position, len(members))
            taken.append(self._images(bucket, epoch)[offset : offset + end - position])
            position += len(taken[-1])
        return np.concatenate(taken)

    def _images(self, bucket, epoch):
        """All images of a bucket, as an epoch shuffles them."""
        if bucket not in self._shuffled or self._shuffled[bucket][0] != epoch:
            rng = seeding.numpy_rng(self.seed, "bucket-images", self.split, bucket, epoch)
            self._shuffled[bucket] = epoch, rng.permutation(self.members[bucket])
        return self._shuffled[bucket][1]


def _by_weight(cumulated: np.ndarray, uniform: np.ndarray) -> np.ndarray:
    """Indices drawn with probabilities in proportion to weights. cumulated: sums of the weights;
    uniform: numbers in [0, 1)."""
    return np.searchsorted(cumulated / cumulated[-1], uniform, side="right")
