"""Outputs of the frozen networks for images and captions, computed once and cached beside the run
(utils/training/row_cache.py)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from utils.data import training_data, transforms
from utils.models import fingerprints, loading
from utils.runtime import signals
from utils.training import latents as lat
from utils.training import row_cache

if TYPE_CHECKING:
    from diffusers import AutoencoderKL
    from transformers import CLIPTextModel

    from utils.data.image_sets import ImageSet
    from utils.models.loading import DiffusionParts

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
        parts: DiffusionParts,
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


class CachedEmbeddings:
    """Token embeddings of a fixed list of prompts."""

    def __init__(
        self,
        folder: str | Path,
        prompts: Sequence[str],
        parts: DiffusionParts,
        *,
        dtype: torch.dtype,
    ):
        """folder: of the caches; prompts: distinct texts; dtype: of the text encoder that computes
        them."""
        self.prompts, self.number = prompts, {p: i for i, p in enumerate(prompts)}
        self.tokenizer = parts.tokenizer
        shape = (parts.tokenizer.model_max_length, parts.text_encoder.config.hidden_size)
        vocabulary = hashlib.sha256(
            str(sorted(parts.tokenizer.get_vocab().items())).encode()
        ).hexdigest()
        texts = hashlib.sha256("\0".join(prompts).encode("utf-8", "surrogateescape")).hexdigest()
        key = fingerprints.key_of(
            prompts=texts,
            vocabulary=vocabulary,
            encoder=fingerprints.fingerprint(parts.text_encoder),
            length=shape[0],
            dtype=str(dtype),
        )
        self.rows = row_cache.RowCache(
            Path(folder) / f"embeddings_{key}",
            len(prompts),
            shape,
            _kept_as(dtype),
            np.zeros(len(prompts), np.int64),  # the folder's name changes with the prompts
        )

    @torch.no_grad()
    def build(
        self,
        text_encoder: CLIPTextModel,
        *,
        device: torch.device | str,
        process: int = 0,
        processes: int = 1,
    ) -> Iterator[int]:
        """Compute the missing rows of this process. Yields: the number of every prompt, after its
        group."""
        for part, groups in self.rows.missing(process, processes):
            computed = []
            for group in groups:
                prompts = [self.prompts[i] for i in group]
                embedded = loading.embed(self.tokenizer, text_encoder, prompts, device=device)
                computed.append((group, embedded.cpu()))
                yield from group
            self.rows.write(part, computed)

    def embeddings(self, prompts: Sequence[str]) -> torch.Tensor:
        """Embeddings of B prompts of the list. Returns: [B, T, D], on the CPU."""
        return self.rows.read([self.number[p] for p in prompts])
