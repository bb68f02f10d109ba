"""Image sets to features: every image is read once, for all extractors together."""

import torch

from utils.data.image_sets import open_image
from utils.errors import DataError


class _Inputs(torch.utils.data.Dataset):
    """Item i: (i, {extractor: tensor}) of image i, or (i, the reason why it cannot be read)."""

    def __init__(self, images, transforms):
        self.images, self.transforms = images, transforms

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        try:
            image = open_image(self.images.path(index))
        except DataError as error:
            return index, str(error)
        return index, {name: transform(image) for name, transform in self.transforms.items()}


def _as_list(items):
    return items


def _in_groups(tensors, network):
    """Run a network over tensors whose shapes may differ, one shape at a time. Returns: [B, D] in the given order."""
    rows = [None] * len(tensors)
    for shape in dict.fromkeys(t.shape for t in tensors):
        members = [i for i, t in enumerate(tensors) if t.shape == shape]
        out = network(torch.stack([tensors[i] for i in members])).cpu()
        for i, row in zip(members, out, strict=True):
            rows[i] = row
    return torch.stack(rows)


@torch.no_grad()
def extract(images, extractors, *, prepare=None, batch_size, num_workers, wrap=iter):
    """Features of every readable image by every extractor, in one pass.

    images: ImageSet; extractors: {key: Extractor}; prepare: {key: PIL -> PIL} applied before that extractor's transform;
    wrap: takes the iterable of batches, for a progress bar. Returns: ({key: [N, D] float32 on the CPU}, indices of the N
    readable images, [(key, reason)] of the others).
    """
    prepare = prepare or {}
    steps = {k: _Chain(prepare[k], e.transform) if k in prepare else e.transform for k, e in extractors.items()}
    loader = torch.utils.data.DataLoader(
        _Inputs(images, steps), batch_size=batch_size, num_workers=num_workers, collate_fn=_as_list
    )
    kept, bad, parts = [], [], {k: [] for k in extractors}
    for batch in wrap(loader):
        bad += [(images.keys[i], found) for i, found in batch if isinstance(found, str)]
        good = [(i, found) for i, found in batch if not isinstance(found, str)]
        kept += [i for i, _ in good]
        for key, extractor in extractors.items():
            if good:
                parts[key].append(_in_groups([found[key] for _, found in good], extractor.network))
    return {k: torch.cat(p) if p else torch.empty(0, 0) for k, p in parts.items()}, kept, bad


class _Chain:
    """Two transforms in a row; a class, so that spawned workers can unpickle it."""

    def __init__(self, first, second):
        self.first, self.second = first, second

    def __call__(self, image):
        return self.second(self.first(image))
