"""Training data: captioned images, and what each slot of each batch draws, as a pure function of
(seed, step, slot)."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from utils.data import buckets, duplication, transforms
from utils.data.buckets import Buckets
from utils.data.image_sets import ImageSet
from utils.runtime import seeding, signals


@dataclass(frozen=True)
class CaptionedImages:
    """Images with their prompts and their weights in the draw."""

    images: ImageSet  # N images
    prompts: Mapping[str, list]  # {image key: its prompts, its own first}
    duplicated: torch.Tensor  # [N] bool: drawn more often (none under nodup)
    # [N] float64, weights of draws with replacement; None for a uniform shuffle
    weights: np.ndarray | None
    # [N] int64, the numbers of the images in the run's whole list, of which a split is a part
    rows: np.ndarray
    # the aspect-ratio bucket of each image; None where all are shown as squares
    buckets: Buckets | None = None

    def take(self, indices: np.ndarray) -> CaptionedImages:
        """The images at `indices`, with all that belongs to each."""
        return CaptionedImages(
            self.images.take(indices.tolist()),
            self.prompts,
            self.duplicated[indices],
            None if self.weights is None else self.weights[indices],
            self.rows[indices],
            None if self.buckets is None else self.buckets.take(indices),
        )


def captioned_images(
    images: ImageSet,
    prompts: Mapping[str, list],
    *,
    style: str,
    share: float,
    weight: float,
    seed: int,
    weights: np.ndarray | None = None,
    in_buckets: Buckets | None = None,
) -> tuple[CaptionedImages, list[str]]:
    """Choose the duplicated images and set the weights of the draw.

    style: --duplication, a key of DUPLICATIONS; under nodup no image is duplicated.
    share: of the images that are duplicated, in [0, 1].
    weight: of a duplicated image in the draw; another image has 1.
    weights: [N], of the images before duplication; None: all are equal.
    in_buckets: the aspect-ratio buckets of the images, or None.
    Returns: (CaptionedImages, keys that are or, under nodup, would be duplicated).
    """
    chosen = duplication.duplicated_images(len(images), share, seed)
    keys = [images.keys[i] for i in chosen]
    duplicated = torch.zeros(len(images), dtype=torch.bool)
    if duplication.DUPLICATIONS[style].duplicates:
        duplicated[chosen] = True
        drawn = torch.where(duplicated, weight, 1.0).double().numpy()
        weights = drawn if weights is None else drawn * weights
    rows = np.arange(len(images))
    return CaptionedImages(images, prompts, duplicated, weights, rows, in_buckets), keys


def split_images(
    count: int, splits: int, seed: int, *, groups: Sequence[str] | None = None
) -> list[np.ndarray]:
    """Indices of the images of each split of an ensemble, ascending. Splits are seeded and disjoint
    and cover all images; their sizes differ by at most one.

    groups: [count], the class of each image; the number of images of a class then differs by at
        most one as well. None: images are split as one."""
    permuted = seeding.numpy_rng(seed, "shards").permutation(count)
    if groups is None:
        return [np.sort(part) for part in np.array_split(permuted, splits)]
    # one class after the other, dealt like cards
    dealt = permuted[np.argsort(np.array(groups)[permuted], kind="stable")]
    return [np.sort(dealt[k::splits]) for k in range(splits)]


class Draws(torch.utils.data.Dataset):
    """The draws of one split: item (step, slot) is the image and the prompt in slot `slot` of the
    global micro-batch `step`.

    Which image, crop, flip, caption and edit follow from (seed, split, step, slot). So the batch of
    P processes is the batch of one process that is P times as large."""

    def __init__(
        self,
        data: CaptionedImages,
        *,
        seed: int,
        split: int = 0,
        global_batch: int,
        views: transforms.Views,
        pixels: bool = True,
        choose_caption: Callable[[list, bool, np.random.Generator], str],
        dropout: float = 0.0,
        partners: bool = False,
        beside: Mapping[str, Draws] | None = None,
    ):
        """data: of the split.
        global_batch: images of a micro-batch over all processes of the copy.
        views: how images are shown.
        pixels: whether items hold pixels, for which images are read.
        choose_caption: (captions, duplicated, rng) -> caption.
        dropout: share of the draws whose prompt is empty, in [0, 1).
        partners: whether items also hold the prompt of a partner, for mixup.
        beside: {name: other draws}, whose item of the same step and slot an item also holds."""
        self.seed, self.split, self.global_batch = seed, split, global_batch
        self.views, self.pixels = views, pixels
        self.choose_caption, self.partners, self.dropout = choose_caption, partners, dropout
        self.beside = dict(beside or {})
        self.take_over(data)

    def take_over(self, data: CaptionedImages) -> None:
        """Draw from other images from now on, as if they had been those of the split before."""
        self.data = data
        self.order = self._order()

    def _order(self):
        """The image of each draw, by the draw's number."""
        draw = {"weights": self.data.weights, "seed": self.seed, "split": self.split}
        if self.data.buckets is None:
            return duplication.DrawOrder(len(self.data.images), **draw)
        return buckets.BucketOrder(self.data.buckets.of, batch=self.global_batch, **draw)

    @property
    def reads(self) -> bool:
        """Whether an item needs the pixels of an image."""
        return self.pixels or any(other.reads for other in self.beside.values())

    def prompt(self, step: int, slot: int) -> str:
        """The prompt of a draw; "" where it is dropped."""
        if self._dropped(step, slot):
            return ""
        index = self.order[step * self.global_batch + slot]
        rng = seeding.numpy_rng(self.seed, "caption", self.split, step, slot)
        return self.choose_caption(
            self.data.prompts[self.data.images.keys[index]], bool(self.data.duplicated[index]), rng
        )

    def _dropped(self, step: int, slot: int) -> bool:
        # a stream of its own: the other random numbers of a run are those without dropout
        if not self.dropout:
            return False
        rng = seeding.numpy_rng(self.seed, "caption-dropout", self.split, step, slot)
        return rng.random() < self.dropout

    def __getitem__(self, at: tuple[int, int]) -> dict[str, Any]:
        step, slot = at
        index = self.order[step * self.global_batch + slot]
        item = {
            "index": index,
            "row": int(self.data.rows[index]),
            "slot": slot,
            "prompt": self.prompt(step, slot),
            **self._shown(index, seeding.numpy_rng(self.seed, "image", self.split, step, slot)),
        }
        if self.partners:
            partner = mixup_partners(self.seed, self.split, step, self.global_batch)[slot]
            item["partner_prompt"] = self.prompt(step, int(partner))
        return item | {name: other[at] for name, other in self.beside.items()}

    def _shown(self, index, rng):
        """How a draw shows its image, with the pixels where they are needed. Sizes are (height,
        width) in pixels; an image that is read at half its sides (image_files.LARGE) has that
        size."""
        image = self.data.images.open(index) if self.pixels else None
        shape = self.data.images.shape(index) if image is None else image.size
        side = self.views.resolution
        size = (side, side) if self.data.buckets is None else self.data.buckets.size(index)
        view = self.views.draw(shape, size, rng)
        shown = {
            "original_size": (shape[1], shape[0]),
            "crop": view.crop,  # (top, left) in the scaled image
            "target_size": size,
            "flipped": view.flipped,
        }
        return shown if image is None else shown | {"pixels": view.pixels(image)}


def mixup_partners(seed: int, split: int, step: int, global_batch: int) -> np.ndarray:
    """The partner of each slot of the global micro-batch, a permutation. Returns: int64
    [global_batch]."""
    return seeding.numpy_rng(seed, "mixup", split, step, 0).permutation(global_batch)


def collate(items: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Join B items of Draws: "pixels" (if items have them) to a tensor [B, 3, height, width], items
    of other draws beside them to a batch of their own, everything else to lists of B."""
    batch: dict[str, Any] = {k: [item[k] for item in items] for k in items[0]}
    for name, values in batch.items():
        if name == "pixels":
            batch[name] = torch.stack(values)
        elif isinstance(values[0], dict):
            batch[name] = collate(values)
    return batch


class SlotBatches:
    """The batches of one process, as keys of Draws: of each micro-batch, slots process * batch_size
    to (process + 1) * batch_size - 1."""

    def __init__(self, steps: range, batch_size: int, process: int):
        """steps: the micro-batches."""
        self.steps, self.slots = steps, range(process * batch_size, (process + 1) * batch_size)

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return ([(step, slot) for slot in self.slots] for step in self.steps)


def usable_workers(asked: int) -> int:
    """The number of loader processes: as many as asked, but at most the cores of this process,
    because more would wait for each other."""
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    return min(asked, cores)


def loader(
    draws: Draws, *, steps: range, batch_size: int, process: int = 0, num_workers: int = 0
) -> torch.utils.data.DataLoader:
    """The batches of one process, in the order of `steps`, as `collate` joins them.

    steps: micro-batches; batch_size: images of a micro-batch of this process; process: number of
    this process in the team of its copy."""
    batches = SlotBatches(steps, batch_size, process)
    return torch.utils.data.DataLoader(
        draws,
        batch_sampler=batches,
        num_workers=usable_workers(num_workers),
        collate_fn=collate,
        # a signal to the whole group of processes stops the training loop, which then still needs
        # its workers
        worker_init_fn=signals.worker_init(ignoring=signals.StopSignal.SIGNALS),
    )
