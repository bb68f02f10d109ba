"""Extract features: every image is read and decoded once, for all extractors together, and all
processes share the images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import default_collate

from utils.data import transforms
from utils.data.image_files import STORED_SIZE
from utils.data.image_sets import ImageSet
from utils.data.training_data import usable_workers
from utils.reports import progress
from utils.retrieval.descriptors.network import Extractor
from utils.retrieval.feature_cache import Bad, FeatureCache, change_stamp
from utils.runtime import signals
from utils.runtime.errors import DataError, UnreadError
from utils.runtime.parallel import Processes

if TYPE_CHECKING:
    from PIL import Image

Extractors = Mapping[str, Extractor]
Size = tuple[int, int]  # width, height in pixels, as stored
# tensors of one shape of a batch: (their places in the batch, [n, ...])
Stack = tuple[list[int], torch.Tensor]
# a batch: indices and sizes of its readable images, (index, reason) of the others,
# {extractor: stacks of the readable ones}
Batch = tuple[list[int], list[Size], list[tuple[int, str]], dict[str, list[Stack]]]


class _Unread(str):
    """Why a disk or a server did not deliver an image; the image may be good."""


class _Inputs(torch.utils.data.Dataset):
    """Item i: (index, {extractor: tensor}, (width, height) as stored), or (index, why the image
    cannot be read, None).

    steps: {extractor: (its transform, whether the image is first cut to `side`)}"""

    def __init__(
        self,
        images: ImageSet,
        indices: Sequence[int],
        steps: Mapping[str, tuple[Callable, bool]],
        side: int | None,
    ) -> None:
        self.images, self.indices, self.steps, self.side = images, indices, steps, side

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, item: int) -> tuple[int, dict[str, torch.Tensor] | str, Size | None]:
        index = self.indices[item]
        try:
            image = self.images.open(index)
        # an error that is raised here reaches the user as a worker's traceback
        except UnreadError as error:
            return index, _Unread(error), None
        except DataError as error:
            return index, str(error), None
        cut = transforms.as_generated(image, self.side) if self.side else None
        tensors = {
            name: step(cut if as_generated else image)
            for name, (step, as_generated) in self.steps.items()
        }
        return index, tensors, image.info[STORED_SIZE]


def _batch(items: Sequence[tuple[int, Any, Any]]) -> Batch:
    """Stack the items of a batch by shape, in the worker: every tensor that is sent costs a file
    descriptor."""
    good = [item for item in items if not isinstance(item[1], str)]
    stacks = {}
    for key in good[0][1] if good else ():
        shapes: dict[torch.Size, list[int]] = {}
        for place, (_, tensors, _) in enumerate(good):
            shapes.setdefault(tensors[key].shape, []).append(place)
        # torch's own stacking writes into memory that the main process shares
        stacks[key] = [
            (places, default_collate([good[p][1][key] for p in places]))
            for places in shapes.values()
        ]
    bad = [(i, reason) for i, reason, _ in items if isinstance(reason, str)]
    return [i for i, *_ in good], [size for *_, size in good], bad, stacks


def _as_they_come(batches: Iterable[Batch]) -> Iterable[Batch]:
    return batches


@dataclass(frozen=True)
class ReaderSettings:
    """How images are read."""

    batch_size: int
    num_workers: int
    processes: Processes  # that share the images
    cache: FeatureCache | None  # None: for `read_pass` alone
    wrap: Callable[[Any], Iterable[Batch]] = _as_they_come  # of the batches, for a bar


def _rows(stacks: Sequence[Stack], network: Callable) -> torch.Tensor:
    """Apply a network to stacks of images of one shape each. Returns: [B, D] on the CPU, in the
    order of the batch."""
    places = torch.tensor([p for group, _ in stacks for p in group])
    return torch.cat([network(stack).cpu() for _, stack in stacks])[places.argsort()]


def batches(
    images: ImageSet,
    indices: Sequence[int],
    extractors: Extractors,
    reading: ReaderSettings,
    side: int | None = None,
) -> Iterable[Batch]:
    """A loader of some images, whose workers read, decode and transform. side: as `extract`."""
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
class ReadPass:
    """The result of a pass over some images; n of them are readable."""

    features: dict[str, torch.Tensor]  # extractor -> [n, D] float32 on the CPU; [0, 0] if n is 0
    indices: list[int]  # [n], in the order asked for
    sizes: list[Size]  # [n]
    bad: list[Bad]  # (key, reason) of the others


@torch.no_grad()
def read_pass(
    images: ImageSet,
    indices: Sequence[int],
    extractors: Extractors,
    reading: ReaderSettings,
    *,
    side: int | None = None,
) -> ReadPass:
    """Extract features of some images, by this process alone; nothing is cached for a later run.

    UnreadError when the disk or the server fails: an image that it does not give now is no bad
    image."""
    kept: list[int] = []
    sizes: list[Size] = []
    bad: list[Bad] = []
    parts: dict[str, list[torch.Tensor]] = {k: [] for k in extractors}
    loader = batches(images, indices, extractors, reading, side)
    for good, shapes, unreadable, stacks in reading.wrap(loader):
        for _, reason in unreadable:
            if isinstance(reason, _Unread):
                raise UnreadError(reason)
        kept += good
        sizes += shapes
        bad += [(images.keys[i], reason) for i, reason in unreadable]
        for key, stack in stacks.items():
            parts[key].append(_rows(stack, extractors[key].network))
    features = {k: torch.cat(p) if p else torch.empty(0, 0) for k, p in parts.items()}
    return ReadPass(features, kept, sizes, bad)


@torch.no_grad()
def of_pictures(pictures: Sequence[Image.Image], extractors: Extractors) -> dict[str, torch.Tensor]:
    """Extract features of pictures in memory, one at a time: the last bits do not depend on how
    many there are.

    pictures: N of PIL RGB, at least one. Returns: {extractor: [N, D] on the CPU}."""
    return {
        name: torch.cat([each.network(each.transform(p)[None]).cpu() for p in pictures])
        for name, each in extractors.items()
    }


def extract(
    images: ImageSet, extractors: Extractors, reading: ReaderSettings, *, side: int | None = None
) -> tuple[dict[str, torch.Tensor], list[int], list[Bad]]:
    """Extract features of every readable image by every extractor; features that an earlier run
    cached are not computed again. Every process reads a consecutive share of the images.

    side: of the generations in pixels, to which training images are cut for the extractors that
        ask for it; None: no image is cut

    Returns: {extractor: [N, D] float32 on the CPU, in the order of the images}, empty on processes
    other than the main one; indices of the N readable images; (key, reason) of the others."""
    processes = reading.processes
    paths, records = _kept_features(images, extractors, reading, side)
    # the main process decides what is missing: another may see the folder of the cache later, or
    # not at all
    kept = processes.share({k: (r[1], r[2]) for k, r in records.items() if r is not None})
    missing = [k for k in extractors if k not in kept]
    features = {k: r[0] for k, r in records.items() if r is not None}
    readable = [tuple(indices) for indices, _ in kept.values()]
    indices, bad = next(iter(kept.values()), ([], []))
    if missing:
        fresh, indices, bad = _shared_pass(
            images, {k: extractors[k] for k in missing}, reading, side
        )
        features |= fresh
        readable.append(tuple(indices))
    if len(set(readable)) > 1:
        # an image was readable in one pass and not in another: only rows of one pass go together
        missing = list(extractors)
        features, indices, bad = _shared_pass(images, extractors, reading, side)
    if processes.main and reading.cache is not None:
        for key in missing:
            reading.cache.write(paths.get(key), features[key], indices, bad)
    return features, indices, bad


def _kept_features(
    images: ImageSet, extractors: Extractors, reading: ReaderSettings, side: int | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The features that an earlier run cached, on the main process. Returns: {extractor: file},
    {extractor: what FeatureCache.read gives}; both empty on others, and without a cache."""
    cache, paths, records = reading.cache, {}, {}
    if cache is not None and cache.folder is not None and reading.processes.main:
        stamp = change_stamp(images)  # once for all extractors: it asks the disk for every file
        for key, extractor in extractors.items():
            facts = {"side": side if extractor.as_generated else None}
            paths[key] = cache.path(stamp, extractor, facts)
            records[key] = cache.read(paths[key])
    return paths, records


def _shared_pass(
    images: ImageSet, extractors: Extractors, reading: ReaderSettings, side: int | None
) -> tuple[dict[str, torch.Tensor], list[int], list[Bad]]:
    """Read all images, a share in each process. Returns: as `extract`."""
    processes = reading.processes
    first, last = (len(images) * (processes.index + n) // processes.count for n in (0, 1))
    what = f"reading {len(images):,} images of {images.root} {through(extractors)}"

    def wrap(loader: Any) -> Iterable[Batch]:
        batches = reading.wrap(loader)
        return progress.foretold(batches, total=len(loader), what=what, say=processes.say)

    with processes.together():
        own = read_pass(
            images, range(first, last), extractors, replace(reading, wrap=wrap), side=side
        )
    indices = [i for part in processes.gather(own.indices) for i in part]
    bad = [b for part in processes.gather(own.bad) for b in part]
    features = {key: processes.gather_rows(own.features[key]) for key in extractors}
    if not processes.main:
        return {}, indices, bad
    for rows in features.values():
        require_finite(images, indices, rows)
    return features, indices, bad


def through(extractors: Extractors) -> str:
    """What images are read for, in words: the networks by name, or that there is none."""
    names = [name for name, extractor in extractors.items() if extractor.is_network]
    if not names:
        return "through no network"
    return f"through {len(names)} network{'s' if len(names) > 1 else ''} ({', '.join(names)})"


def require_finite(images: ImageSet, indices: Sequence[int], rows: torch.Tensor) -> None:
    """Raise DataError, naming the first image, if features are not finite: no nearest neighbour is
    then defined.

    rows: [n, D], of the images at `indices`.
    """
    wrong = (~rows.isfinite().all(1)).nonzero()[:, 0].tolist()
    if wrong:
        raise DataError(
            f"{images.root}: the network gives numbers that are not finite for {len(wrong)} images,"
            f" first {images.keys[indices[wrong[0]]]!r}; half precision may overflow: try"
            " --mixed_precision no"
        )
