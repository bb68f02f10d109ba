"""Training data: captioned images, and the draw of every slot of every batch as a pure function of
(seed, step, slot)."""

import os
from dataclasses import dataclass

import numpy as np
import torch

from utils.data import duplication, transforms
from utils.runtime import seeding, signals


@dataclass(frozen=True)
class CaptionedImages:
    """images: ImageSet; prompts: {key: list, own first}; duplicated: [N] bool, drawn more often
    (none under nodup).

    weights: [N] float64 of draws with replacement, or None for a uniform shuffle; rows: [N] int64,
    the images' numbers in the run's whole list, of which a split is a part."""

    images: object
    prompts: dict
    duplicated: object
    weights: object
    rows: object

    def take(self, indices):
        """The images at `indices`; what belongs to an image (prompts, weight, number) goes with
        it."""
        weights = None if self.weights is None else self.weights[indices]
        return CaptionedImages(
            self.images.take(indices),
            self.prompts,
            self.duplicated[indices],
            weights,
            self.rows[indices],
        )


def captioned_images(images, prompts, *, style, share, weight, seed, weights=None):
    """Choose the duplicated images, or take `weights` [N] as given (--weights_file, under nodup
    alone).

    Returns: (CaptionedImages, keys that are or, under nodup, would be duplicated).
    """
    chosen = duplication.duplicated_images(len(images), share, seed)
    keys = [images.keys[i] for i in chosen]
    duplicated = torch.zeros(len(images), dtype=torch.bool)
    if style != "nodup":
        duplicated[chosen] = True
        weights = torch.where(duplicated, weight, 1.0).double().numpy()
    return CaptionedImages(images, prompts, duplicated, weights, np.arange(len(images))), keys


def split_images(count, splits, seed):
    """Indices of each split, ascending: seeded, disjoint, covering all, sizes that differ by at
    most one."""
    permuted = seeding.numpy_rng(seed, "shards").permutation(count)
    return [np.sort(part) for part in np.array_split(permuted, splits)]


class Draws(torch.utils.data.Dataset):
    """Item (step, slot): one image and its prompt, as slot `slot` of the global micro-batch `step`
    sees it.

    transform: (PIL RGB, rng=) -> tensor, or None where pixels are not needed: the item then says
    only whether the draw is mirrored; choose_caption: (captions, duplicated, rng) -> str; partners:
    also return the prompt that mixup mixes with. Which image, crop, flip, caption and edit follow
    from (seed, split, step, slot). A batch of P processes is therefore the batch of one process
    that is P times as large."""

    def __init__(
        self,
        data,
        *,
        seed,
        split=0,
        global_batch,
        transform,
        choose_caption,
        partners=False,
        random_flip=False,
    ):
        self.data, self.seed, self.split, self.global_batch = data, seed, split, global_batch
        self.transform, self.choose_caption, self.partners = transform, choose_caption, partners
        self.random_flip = random_flip
        self.order = duplication.DrawOrder(
            len(data.images), weights=data.weights, seed=seed, split=split
        )

    def prompt(self, step, slot):
        index = self.order[step * self.global_batch + slot]
        rng = seeding.numpy_rng(self.seed, "caption", self.split, step, slot)
        return self.choose_caption(
            self.data.prompts[self.data.images.keys[index]], bool(self.data.duplicated[index]), rng
        )

    def __getitem__(self, at):
        step, slot = at
        index = self.order[step * self.global_batch + slot]
        item = {
            "index": index,
            "row": int(self.data.rows[index]),
            "slot": slot,
            "prompt": self.prompt(step, slot),
        }
        rng = seeding.numpy_rng(self.seed, "image", self.split, step, slot)
        if self.transform is None:
            item["flipped"] = transforms.flip_drawn(rng, self.random_flip)
        else:
            item["pixels"] = self.transform(self.data.images.open(index), rng=rng)
        if self.partners:
            partner = mixup_partners(self.seed, self.split, step, self.global_batch)[slot]
            item["partner_prompt"] = self.prompt(step, int(partner))
        return item


def mixup_partners(seed, split, step, global_batch):
    """The permutation of the global batch that mixup mixes with. Returns: int64 [global_batch]."""
    return seeding.numpy_rng(seed, "mixup", split, step, 0).permutation(global_batch)


def collate(items):
    """Items of Draws -> one dict: "pixels" [B, 3, R, R] where there are any, everything else a list
    of B."""
    batch = {k: [item[k] for item in items] for k in items[0]}
    return batch | ({"pixels": torch.stack(batch["pixels"])} if "pixels" in batch else {})


class SlotBatches:
    """Keys of the batches of one process: slots process * batch_size ... of the micro-batches
    `steps` (a range)."""

    def __init__(self, steps, batch_size, process):
        self.steps, self.slots = steps, range(process * batch_size, (process + 1) * batch_size)

    def __len__(self):
        return len(self.steps)

    def __iter__(self):
        return ([(step, slot) for slot in self.slots] for step in self.steps)


def usable_workers(asked):
    """As many loader processes as asked, but no more than this process has cores: more would wait
    for one another."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(asked, cores)


def loader(draws, *, steps, batch_size, process=0, num_workers=0):
    """Batches of one process, in the order of `steps`."""
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
