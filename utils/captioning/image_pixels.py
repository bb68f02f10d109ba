"""Batches of images as an image-to-text model sees them, read and prepared in worker processes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from PIL import Image

from utils.data.image_sets import ImageSet
from utils.data.training_data import usable_workers
from utils.runtime import signals
from utils.runtime.errors import DataError, UnreadError

# an image: (its number, its pixels or why it cannot be read, whether the disk failed)
Item = tuple[int, torch.Tensor | str, bool]


@dataclass(frozen=True)
class PixelBatch:
    """Images that were read together; n of them are readable."""

    indices: list[int]  # [n] numbers of the images
    pixels: torch.Tensor | None  # [n, 3, H, W]; None if n is 0
    bad: list[tuple[int, str]]  # (number, reason) of the others
    unread: str | None  # why a disk or a server failed, or None


class _Pixels(torch.utils.data.Dataset):
    def __init__(
        self,
        images: ImageSet,
        indices: Sequence[int],
        prepare: Callable[[Image.Image], torch.Tensor],
    ) -> None:
        self.images, self.indices, self.prepare = images, indices, prepare

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, item: int) -> Item:
        index = self.indices[item]
        try:
            return index, self.prepare(self.images.open(index)), False
        # an error that is raised here reaches the user as a worker's traceback
        except UnreadError as error:
            return index, str(error), True
        except DataError as error:
            return index, str(error), False


def _batch(items: Sequence[Item]) -> PixelBatch:
    good = [(index, pixels) for index, pixels, _ in items if isinstance(pixels, torch.Tensor)]
    failed = [(index, reason, disk) for index, reason, disk in items if isinstance(reason, str)]
    return PixelBatch(
        [index for index, _ in good],
        torch.stack([pixels for _, pixels in good]) if good else None,
        [(index, reason) for index, reason, disk in failed if not disk],
        next((reason for _, reason, disk in failed if disk), None),
    )


def batches(
    images: ImageSet,
    indices: Sequence[int],
    prepare: Callable[[Image.Image], torch.Tensor],
    *,
    batch_size: int,
    workers: int,
) -> torch.utils.data.DataLoader:
    """A loader of PixelBatch. indices: numbers of the images, in the order in which they come;
    prepare: PIL RGB -> [3, H, W], of one size for all images; workers: processes that read."""
    return torch.utils.data.DataLoader(
        _Pixels(images, indices, prepare),
        batch_size=batch_size,
        collate_fn=_batch,
        num_workers=min(usable_workers(workers), -(-len(indices) // batch_size)),
        worker_init_fn=signals.worker_init(),
    )
