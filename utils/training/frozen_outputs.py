"""What frozen networks say of images and captions, computed once and kept beside the run
(utils/training/row_cache.py)."""

import hashlib
from pathlib import Path

import numpy as np
import torch

from utils.data import training_data, transforms
from utils.models import fingerprints, loading
from utils.runtime import signals
from utils.training import latents as lat
from utils.training import row_cache

# pixels through the autoencoder at once; by the resolution alone, so that bits do not hang on it
AT_ONCE = 32 * 256**2


class Latents:
    """Posteriors of the run's images under a fixed crop: row i holds mean and std of image i, as it
    is and mirrored."""

    def __init__(self, folder, images, parts, *, resolution, flips, dtype):
        """images: ImageSet; flips: keep both orientations; dtype: of the autoencoder that computes
        them."""
        self.images, self.resolution, self.flips = images, resolution, flips
        side = resolution // parts.vae_factor
        shape = (1 + flips, 2, parts.vae.config.latent_channels, side, side)
        kept = "float32" if dtype == torch.float32 else "float16"
        key = fingerprints.key_of(
            images=images.fingerprint,
            resolution=resolution,
            crop="centre",
            flips=flips,
            autoencoder=fingerprints.fingerprint(parts.vae),
            dtype=str(dtype),
        )
        stamps = np.array([images.stamp(i) for i in range(len(images))], np.int64)
        self.rows = row_cache.RowCache(
            Path(folder) / f"latents_{key}", len(images), shape, kept, stamps
        )

    def _pixels(self, index):
        image = self.images.open(index)
        views = [
            transforms.training_pixels(image, resolution=self.resolution, flipped=f)
            for f in range(1 + self.flips)
        ]
        return torch.stack(views)

    def build(self, vae, *, device, process=0, processes=1, num_workers=0):
        """Compute what is missing. Yields: the number of every image of this process, after its
        group."""
        workers = training_data.usable_workers(num_workers)
        for part, groups in self.rows.missing(process, processes):
            order = [i for group in groups for i in group]
            reader = _Reader(self._pixels)
            loader = torch.utils.data.DataLoader(
                reader,
                batch_size=None,
                sampler=order,
                num_workers=workers,
                worker_init_fn=signals.worker_init(),
            )
            pixels, computed = iter(loader), []
            for group in groups:
                batch = torch.stack([next(pixels) for _ in group])
                views = batch.flatten(0, 1).split(max(1, AT_ONCE // self.resolution**2))
                dtype = next(vae.parameters()).dtype
                found = torch.cat(
                    [lat.moments(vae, part.to(device, dtype)).cpu() for part in views]
                )
                computed.append((group, found.unflatten(0, batch.shape[:2])))
                yield from group
            self.rows.write(part, computed)

    def moments(self, rows, flipped):
        """Mean and std of images as drawn. rows, flipped: [B]. Returns: [B, 2, C, h, w], on the
        CPU."""
        return self.rows.read(rows, [int(f) for f in flipped])


class _Reader(torch.utils.data.Dataset):
    def __init__(self, read):
        self.read = read

    def __getitem__(self, index):
        return self.read(index)


class Embeddings:
    """Token embeddings of a fixed list of prompts, by prompt."""

    def __init__(self, folder, prompts, parts, *, dtype):
        """prompts: distinct texts; dtype: of the text encoder that computes them."""
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
        kept = "float32" if dtype == torch.float32 else "float16"
        self.rows = row_cache.RowCache(
            Path(folder) / f"embeddings_{key}",
            len(prompts),
            shape,
            kept,
            np.zeros(len(prompts), np.int64),
        )

    @torch.no_grad()
    def build(self, text_encoder, *, device, process=0, processes=1):
        """Compute what is missing. Yields: the number of every prompt of this process, after its
        group."""
        for part, groups in self.rows.missing(process, processes):
            computed = []
            for group in groups:
                found = loading.embed(
                    self.tokenizer, text_encoder, [self.prompts[i] for i in group], device=device
                )
                computed.append((group, found.cpu()))
                yield from group
            self.rows.write(part, computed)

    def embeddings(self, prompts):
        """[B] prompts of the list -> [B, T, D], on the CPU."""
        return self.rows.read([self.number[p] for p in prompts])
