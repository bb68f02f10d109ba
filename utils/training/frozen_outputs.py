"""Outputs of the frozen networks for images and captions, computed once and cached beside the run
(utils/training/row_cache.py)."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from utils.data import training_data, transforms
from utils.models import fingerprints
from utils.runtime import devices, signals
from utils.training import latents as lat
from utils.training import row_cache

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

    from utils.data.buckets import Buckets, Size
    from utils.data.image_sets import ImageSet
    from utils.models.parts import Parts
    from utils.training.steps.base import Step, Text

# pixels that pass through the autoencoder at once; it depends on their size alone, because the
# last bits depend on the batch
AT_ONCE = 32 * 256**2


def _kept_as(dtype):
    """numpy's name of the dtype in which the output of a network is kept."""
    return "float32" if dtype == torch.float32 else "float16"


def _row_stamp(images, index):
    """A number that changes with the time and the content of an image's file."""
    made_of = b"%d " % images.stamp(index) + images.content(index)
    return int.from_bytes(hashlib.sha256(made_of).digest()[:8], "little", signed=True)


class CachedLatents:
    """Posteriors of the run's images under a fixed crop, in a cache for each size that images are
    shown in: of each image the mean and standard deviation and, with flips, those of its mirror
    image."""

    def __init__(
        self,
        folder: str | Path,
        images: ImageSet,
        parts: Parts,
        *,
        resolution: int,
        flips: bool,
        dtype: torch.dtype,
        buckets: Buckets | None = None,
    ):
        """folder: of the caches; resolution: side in pixels of squares, where there are no buckets;
        flips: keep both orientations; dtype: of the autoencoder that computes them; buckets: of the
        images."""
        self.images, self.flips = images, flips
        of = np.zeros(len(images), np.int64) if buckets is None else buckets.of
        sizes = ((resolution, resolution),) if buckets is None else buckets.sizes
        self.sizes: list[Size] = []  # of each cache
        self.members: list[np.ndarray] = []  # of each cache: the numbers of its images
        self.place = np.zeros((len(images), 2), np.int64)  # of each image: its cache, its row there
        for number, size in enumerate(sizes):
            members = np.flatnonzero(of == number)
            if len(members):
                self.place[members, 0] = len(self.sizes)
                self.place[members, 1] = np.arange(len(members))
                self.sizes.append(size)
                self.members.append(members)
        made_of = {"autoencoder": fingerprints.fingerprint(parts.vae), "dtype": str(dtype)}
        channels, factor = parts.vae.config.latent_channels, parts.vae_factor
        caches = [
            self._cache(Path(folder), number, _kept_as(dtype), channels, factor, made_of)
            for number in range(len(self.sizes))
        ]
        self.rows = row_cache.RowCaches(caches)

    def _cache(self, folder, number, kept_as, channels, factor, made_of):
        """The cache of the images of one size. factor: pixels per latent."""
        height, width = self.sizes[number]
        images = self.images.take(self.members[number].tolist())
        key = fingerprints.key_of(
            images=images.fingerprint,
            crop="centre",
            flips=self.flips,
            **({"resolution": height} if height == width else {"size": [height, width]}),
            **made_of,
        )
        shape = (1 + self.flips, 2, channels, height // factor, width // factor)
        stamps = np.array([_row_stamp(images, i) for i in range(len(images))], np.int64)
        return row_cache.RowCache(folder / f"latents_{key}", len(images), shape, kept_as, stamps)

    def _pixels(self, index):
        """An image in every orientation that is kept, [1 or 2, 3, height, width] in [-1, 1]."""
        image, size = self.images.open(index), self.sizes[self.place[index, 0]]
        views = [
            transforms.centred(image.size, size, flipped=bool(flipped)).pixels(image)
            for flipped in range(1 + self.flips)
        ]
        return torch.stack(views)

    def _loader(self, order, num_workers):
        """Pixels of images, in the given order of their numbers."""
        return torch.utils.data.DataLoader(
            _Reader(self._pixels),
            batch_size=None,
            sampler=order,
            num_workers=num_workers,
            worker_init_fn=signals.worker_init(),
        )

    def _encoded(self, vae, pixels, device):
        """Mean and standard deviation of images [B, V, 3, height, width]. Returns: [B, V, 2, C, h,
        w], on the CPU."""
        dtype = next(vae.parameters()).dtype
        area = pixels.shape[-2] * pixels.shape[-1]
        batches = pixels.flatten(0, 1).split(max(1, AT_ONCE // area))
        encoded = [lat.moments(vae, batch.to(device, dtype)).cpu() for batch in batches]
        return torch.cat(encoded).unflatten(0, pixels.shape[:2])

    def build(
        self,
        vae: AutoencoderKL,
        *,
        device: torch.device,
        process: int = 0,
        processes: int = 1,
        num_workers: int = 0,
    ) -> Iterator[int]:
        """Compute the missing rows of this process. Yields: the number of every image, after its
        group."""
        workers = training_data.usable_workers(num_workers)
        for number, part, groups in self.rows.missing(process, processes):
            order = [self.members[number][group].tolist() for group in groups]
            pixels = iter(self._loader([i for group in order for i in group], workers))
            computed = []
            for group, images in zip(groups, order, strict=True):
                batch = torch.stack([next(pixels) for _ in group])
                computed.append((group, self._encoded(vae, batch, device)))
                yield from images
            self.rows.caches[number].write(part, computed)

    def moments(self, rows: Sequence[int], flipped: Sequence[bool]) -> torch.Tensor:
        """Mean and standard deviation of images as they are drawn, all of one size. rows, flipped:
        [B]. Returns: [B, 2, C, h, w], on the CPU."""
        caches, numbers = self.place[rows].T.tolist()
        (cache,) = set(caches)
        return self.rows.caches[cache].read(numbers, [int(f) for f in flipped])


class _Reader(torch.utils.data.Dataset):
    def __init__(self, read: Callable[[int], torch.Tensor]):
        self.read = read

    def __getitem__(self, index):
        return self.read(index)


class CachedTexts:
    """What the network reads of a fixed list of prompts. A row holds all entries of a Text, one
    after the other."""

    def __init__(
        self,
        folder: str | Path,
        prompts: Sequence[str],
        parts: Parts,
        step: Step,
        *,
        dtype: torch.dtype,
    ):
        """folder: of the caches; prompts: distinct texts; step: of the model's family; dtype: of
        the text encoders that compute them."""
        self.prompts, self.number = prompts, {p: i for i, p in enumerate(prompts)}
        self.parts, self.step = parts, step
        self.shapes = step.text_shapes(parts)
        texts = hashlib.sha256("\0".join(prompts).encode("utf-8", "surrogateescape")).hexdigest()
        key = fingerprints.key_of(
            prompts=texts,
            vocabulary=[_vocabulary(each) for each in parts.tokenizers.values()],
            encoder=[fingerprints.fingerprint(each) for each in parts.encoders.values()],
            shapes=[[name, list(shape)] for name, shape in self.shapes.items()],
            dtype=str(dtype),
        )
        self.rows = row_cache.RowCache(
            Path(folder) / f"embeddings_{key}",
            len(prompts),
            (sum(math.prod(shape) for shape in self.shapes.values()),),
            _kept_as(dtype),
            np.zeros(len(prompts), np.int64),  # the folder's name changes with the prompts
        )

    @torch.no_grad()
    def build(
        self,
        encoders: Mapping[str, torch.nn.Module],
        *,
        device: torch.device | str,
        process: int = 0,
        processes: int = 1,
    ) -> Iterator[int]:
        """Compute the missing rows of this process. Yields: the number of every prompt, after its
        group."""
        on = torch.device(device)
        for part, groups in self.rows.missing(process, processes):
            computed = []
            for group in groups:
                ids = self.step.token_ids(self.parts, [self.prompts[i] for i in group])
                text = self.step.text(
                    encoders, {n: devices.to_device(t, on) for n, t in ids.items()}
                )
                entries = [text[name].flatten(1).float().cpu() for name in self.shapes]
                computed.append((group, torch.cat(entries, 1)))
                yield from group
            self.rows.write(part, computed)

    def text(self, prompts: Sequence[str]) -> Text:
        """What the network reads of B prompts of the list, on the CPU."""
        rows = self.rows.read([self.number[p] for p in prompts])
        entries = rows.split([math.prod(shape) for shape in self.shapes.values()], 1)
        return {
            name: entry.view(len(prompts), *shape)
            for (name, shape), entry in zip(self.shapes.items(), entries, strict=True)
        }


def _vocabulary(tokenizer):
    return hashlib.sha256(str(sorted(tokenizer.get_vocab().items())).encode()).hexdigest()
