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

    from utils.data.image_sets import ImageSet
    from utils.models.parts import Parts
    from utils.training.steps.base import Step, Text

# pixels that pass through the autoencoder at once; it depends on the resolution alone, because the
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
    """Posteriors of the run's images under a fixed crop: row i holds mean and standard deviation of
    image i and, with flips, of its mirror image."""

    def __init__(
        self,
        folder: str | Path,
        images: ImageSet,
        parts: Parts,
        *,
        resolution: int,
        flips: bool,
        dtype: torch.dtype,
    ):
        """folder: of the caches; resolution: side in pixels; flips: keep both orientations; dtype:
        of the autoencoder that computes them."""
        self.images, self.resolution, self.flips = images, resolution, flips
        side = resolution // parts.vae_factor
        shape = (1 + flips, 2, parts.vae.config.latent_channels, side, side)
        key = fingerprints.key_of(
            images=images.fingerprint,
            resolution=resolution,
            crop="centre",
            flips=flips,
            autoencoder=fingerprints.fingerprint(parts.vae),
            dtype=str(dtype),
        )
        stamps = np.array([_row_stamp(images, i) for i in range(len(images))], np.int64)
        self.rows = row_cache.RowCache(
            Path(folder) / f"latents_{key}", len(images), shape, _kept_as(dtype), stamps
        )

    def _pixels(self, index):
        """An image in every orientation that is kept, [1 or 2, 3, R, R] in [-1, 1]."""
        image = self.images.open(index)
        size = (self.resolution, self.resolution)
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
        """Mean and standard deviation of images [B, V, 3, R, R]. Returns: [B, V, 2, C, h, w], on
        the CPU."""
        dtype = next(vae.parameters()).dtype
        batches = pixels.flatten(0, 1).split(max(1, AT_ONCE // self.resolution**2))
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
        for part, groups in self.rows.missing(process, processes):
            pixels = iter(self._loader([i for group in groups for i in group], workers))
            computed = []
            for group in groups:
                batch = torch.stack([next(pixels) for _ in group])
                computed.append((group, self._encoded(vae, batch, device)))
                yield from group
            self.rows.write(part, computed)

    def moments(self, rows: Sequence[int], flipped: Sequence[bool]) -> torch.Tensor:
        """Mean and standard deviation of images as they are drawn. rows, flipped: [B]. Returns: [B,
        2, C, h, w], on the CPU."""
        return self.rows.read(rows, [int(f) for f in flipped])


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
