"""Image sets to features: every image is read and decoded once, for all extractors together, by all
processes."""

from dataclasses import dataclass

import torch
from torch.utils.data import default_collate

from utils.data import transforms
from utils.data.image_files import STORED_SIZE
from utils.data.training_data import usable_workers
from utils.retrieval.feature_cache import change_stamp
from utils.runtime import signals
from utils.runtime.errors import DataError, UnreadError


class _Unread(str):
    """Why the disk or a server did not give an image: no fault of the image's."""


class _Inputs(torch.utils.data.Dataset):
    """Item i: (index, {extractor: tensor}, (width, height) as stored), or (index, why the image
    cannot be read, None)."""

    def __init__(self, images, indices, steps, side):
        self.images, self.indices, self.steps, self.side = images, indices, steps, side

    def __len__(self):
        return len(self.indices)

    def __getitem__(self, item):
        index = self.indices[item]
        try:
            image = self.images.open(index)
        # raised here it would reach the user as the worker's traceback
        except UnreadError as error:
            return index, _Unread(error), None
        except DataError as error:
            return index, str(error), None
        cut = transforms.as_generated(image, self.side) if self.side else None
        found = {
            name: step(cut if as_generated else image)
            for name, (step, as_generated) in self.steps.items()
        }
        return index, found, image.info[STORED_SIZE]


def _batch(items):
    """Items of a batch, stacked in the worker by shape: a tensor sent costs what a file descriptor
    does.

    Returns: (indices of readable images, [(width, height)] of them, [(index, reason)], {extractor:
    [(their places in the batch, tensor)]})."""
    good = [item for item in items if not isinstance(item[1], str)]
    stacks = {}
    for key in good[0][1] if good else ():
        shapes = {}
        for place, (_, found, _) in enumerate(good):
            shapes.setdefault(found[key].shape, []).append(place)
        # torch's own stacking writes into memory that the main process shares
        stacks[key] = [
            (places, default_collate([good[p][1][key] for p in places]))
            for places in shapes.values()
        ]
    bad = [(i, reason) for i, reason, _ in items if isinstance(reason, str)]
    return [i for i, *_ in good], [size for *_, size in good], bad, stacks


@dataclass(frozen=True)
class ReaderSettings:
    """How images are read. processes: devices.Processes; cache: FeatureCache; wrap: takes the
    batches, for a bar."""

    batch_size: int
    num_workers: int
    processes: object
    cache: object
    wrap: object = iter


def _rows(stacks, network):
    """A network over stacks of images of one shape each. Returns: [B, D] on the CPU, in the order
    of the batch."""
    places = torch.tensor([p for group, _ in stacks for p in group])
    return torch.cat([network(stack).cpu() for _, stack in stacks])[places.argsort()]


def batches(images, indices, extractors, reading, side=None):
    """A loader of `indices`, whose workers read, decode and transform. Yields: as `_batch`."""
    steps = {k: (e.transform, bool(side and e.as_generated)) for k, e in extractors.items()}
    cut = side if any(as_generated for _, as_generated in steps.values()) else None
    return torch.utils.data.DataLoader(
        _Inputs(images, indices, steps, cut),
        batch_size=reading.batch_size,
        collate_fn=_batch,
        num_workers=min(
            usable_workers(reading.num_workers), -(-len(indices) // reading.batch_size)
        ),
        worker_init_fn=signals.worker_init(),
    )


@dataclass(frozen=True)
class Found:
    """features: {extractor: [n, D] float32 on the CPU}, [0, 0] of no image; indices: of the n
    readable images, in the order asked for; sizes: [(width, height)] of them as stored; bad: [(key,
    reason)] of the others."""

    features: dict
    indices: list
    sizes: list
    bad: list


@torch.no_grad()
def read_pass(images, indices, extractors, reading, *, side=None):
    """Features of the readable ones of `indices`, by this process alone; nothing is kept for a
    later run. UnreadError when the disk fails: what it does not give now is no bad image. Returns:
    Found."""
    kept, sizes, bad, parts = [], [], [], {k: [] for k in extractors}
    for good, shapes, unreadable, stacks in reading.wrap(
        batches(images, indices, extractors, reading, side)
    ):
        if unread := next(
            (reason for _, reason in unreadable if isinstance(reason, _Unread)), None
        ):
            raise UnreadError(unread)
        kept += good
        sizes += shapes
        bad += [(images.keys[i], reason) for i, reason in unreadable]
        for key, stack in stacks.items():
            parts[key].append(_rows(stack, extractors[key].network))
    return Found(
        {k: torch.cat(p) if p else torch.empty(0, 0) for k, p in parts.items()}, kept, sizes, bad
    )


def extract(images, extractors, reading, *, side=None):
    """Features of every readable image by every extractor; what an earlier run kept is not computed
    again.

    images: ImageSet; extractors: {key: Extractor}; side: of the generations, to which training
    images are cut for the extractors that want it. Every process reads a consecutive share.
    Returns: ({key: [N, D] float32 on the CPU, in the order of the images}, indices of the N
    readable images, [(key, reason)] of the others); on other processes than the main one ({},
    indices, bad)."""
    processes, cache = reading.processes, reading.cache
    paths, found = {}, {}
    if cache.folder is not None and processes.main:
        state = change_stamp(images)  # once for all: it asks the disk for every file
        for key, extractor in extractors.items():
            paths[key] = cache.path(
                state, extractor, {"side": side if extractor.as_generated else None}
            )
            found[key] = cache.read(paths[key])
    # the main process says what is missing: another may see the folder later than it does, or not
    # at all
    kept_before = processes.share({k: (f[1], f[2]) for k, f in found.items() if f is not None})
    missing = [k for k in extractors if k not in kept_before]
    features = {k: f[0] for k, f in found.items() if f is not None}
    readable = [tuple(indices) for indices, _ in kept_before.values()]
    indices, bad = next(iter(kept_before.values()), (None, None))
    if missing:
        fresh, indices, bad = _shared_pass(
            images, {k: extractors[k] for k in missing}, reading, side
        )
        features |= fresh
        readable.append(tuple(indices))
    if len(set(readable)) > 1:
        # an image could be read once and not another time: rows of one pass alone belong together
        missing = list(extractors)
        features, indices, bad = _shared_pass(images, extractors, reading, side)
    if processes.main:
        for key in missing:
            cache.write(paths.get(key), features[key], indices, bad)
    return features, indices, bad


def _shared_pass(images, extractors, reading, side):
    """A pass over all images, a share each process. Returns: as `extract`."""
    processes = reading.processes
    first, last = (len(images) * (processes.index + n) // processes.count for n in (0, 1))
    with processes.together():
        own = read_pass(images, range(first, last), extractors, reading, side=side)
    indices = [i for part in processes.gather(own.indices) for i in part]
    bad = [b for part in processes.gather(own.bad) for b in part]
    features = {key: processes.gather_rows(own.features[key]) for key in extractors}
    if not processes.main:
        return {}, indices, bad
    for rows in features.values():
        require_finite(images, indices, rows)
    return features, indices, bad


def require_finite(images, indices, rows):
    """DataError naming the first image whose features are not finite: a nearest neighbour of such
    has no meaning.

    rows: [n, D], of the images at `indices`.
    """
    wrong = (~rows.isfinite().all(1)).nonzero()[:, 0].tolist()
    if wrong:
        raise DataError(
            f"{images.root}: the network gives numbers that are not finite for {len(wrong)} images,"
            f" first {images.keys[indices[wrong[0]]]!r}; in half precision they overflow, give"
            " --mixed_precision no"
        )
