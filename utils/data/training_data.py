"""Training data: captioned images, and the draw of every slot of every batch as a pure function of (seed, step, slot)."""

from dataclasses import dataclass

import torch

from utils import seeding
from utils.data import duplication
from utils.data.image_sets import open_image


@dataclass(frozen=True)
class CaptionedImages:
    """images: ImageSet; prompts: {key: list, own first}; duplicated: [N] bool, drawn more often (none under nodup)."""

    images: object
    prompts: dict
    duplicated: object
    weights: object  # [N] or None for a uniform shuffle


def captioned_images(images, prompts, *, style, share, weight, seed):
    """Choose the duplicated images. Returns: (CaptionedImages, keys that are or, under nodup, would be duplicated)."""
    chosen = duplication.duplicated_images(len(images), share, seed)
    keys = [images.keys[i] for i in chosen]
    duplicated, weights = torch.zeros(len(images), dtype=torch.bool), None
    if style != "nodup":
        duplicated[chosen] = True
        weights = torch.where(duplicated, weight, 1.0).double().numpy()
    return CaptionedImages(images, prompts, duplicated, weights), keys


class Draws(torch.utils.data.Dataset):
    """Item (step, slot): one image and its prompt, as slot `slot` of the global micro-batch `step` sees it.

    transform: (PIL RGB, rng=) -> tensor; choose_caption: (captions, duplicated, rng) -> str; partners: also return the
    prompt that mixup mixes with. Which image, crop, flip, caption and edit follow from (seed, shard, step, slot). A batch
    of P processes is therefore the batch of one process that is P times as large.
    """

    def __init__(self, data, *, seed, shard=0, global_batch, transform, choose_caption, partners=False):
        self.data, self.seed, self.shard, self.global_batch = data, seed, shard, global_batch
        self.transform, self.choose_caption, self.partners = transform, choose_caption, partners
        self.order = duplication.DrawOrder(len(data.images), weights=data.weights, seed=seed, shard=shard)

    def prompt(self, step, slot):
        index = self.order[step * self.global_batch + slot]
        rng = seeding.numpy_rng(self.seed, "caption", self.shard, step, slot)
        return self.choose_caption(self.data.prompts[self.data.images.keys[index]], bool(self.data.duplicated[index]), rng)

    def __getitem__(self, at):
        step, slot = at
        index = self.order[step * self.global_batch + slot]
        rng = seeding.numpy_rng(self.seed, "image", self.shard, step, slot)
        item = {
            "index": index,
            "slot": slot,
            "pixels": self.transform(open_image(self.data.images.path(index)), rng=rng),
            "prompt": self.prompt(step, slot),
        }
        if self.partners:
            partner = mixup_partners(self.seed, self.shard, step, self.global_batch)[slot]
            item["partner_prompt"] = self.prompt(step, int(partner))
        return item


def mixup_partners(seed, shard, step, global_batch):
    """The permutation of the global batch that mixup mixes with. Returns: int64 [global_batch]."""
    return seeding.numpy_rng(seed, "mixup", shard, step, 0).permutation(global_batch)


def collate(items):
    """Items of Draws -> {"pixels": [B, 3, R, R], "index": [B], "slot": list, "prompt": list, "partner_prompt": list}."""
    batch = {k: [item[k] for item in items] for k in items[0]}
    return batch | {"pixels": torch.stack(batch["pixels"]), "index": torch.tensor(batch["index"])}


class SlotBatches:
    """Keys of the batches of one process: slots process * batch_size ... of the micro-batches `steps` (a range)."""

    def __init__(self, steps, batch_size, process):
        self.steps, self.slots = steps, range(process * batch_size, (process + 1) * batch_size)

    def __len__(self):
        return len(self.steps)

    def __iter__(self):
        return ([(step, slot) for slot in self.slots] for step in self.steps)


def loader(draws, *, steps, batch_size, process=0, num_workers=0):
    """Batches of one process, in the order of `steps`."""
    batches = SlotBatches(steps, batch_size, process)
    return torch.utils.data.DataLoader(draws, batch_sampler=batches, num_workers=num_workers, collate_fn=collate)
