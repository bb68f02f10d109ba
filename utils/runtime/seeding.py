"""Random generators, each derived from a seed, the name of a stream and an index.

A draw is a pure function of (seed, stream, index...): it does not depend on the order of calls, the
batch size or the number of processes. Two uses that must not share random numbers use two streams.
All indices of a stream have the same length, because trailing zeros do not change a
SeedSequence."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

# name of each stream: what it draws

STREAMS = {
    "scenes": "scenes drawn by `python -m utils.data.scenes` from its --seed",
    "tiny-sd/pretraining": "scenes that tiny-sd is trained on",
    "tiny-sd/held-out": "scenes that tiny-sd is measured on",
    "tiny-sd/training": "weights, batches, timesteps and noise in the training of tiny-sd",
    "tiny-sd3/training": "weights, batches, times and noise in the training of tiny-sd3",
    "duplication": "which training images are duplicated",
    "holdout": "which training images --holdout sets aside",
    "subset": "which training images belong to --trainsubset",
    "shards": "which training images belong to which split of an ensemble",
    "unet": "initial weights of --unet_from_scratch",
    "adapter": "initial factors A of a LoRA adapter, by the names of their layers",
    "adapter-dropout": "which inputs of a LoRA adapter are dropped at a micro-batch",
    "random-captions": "token ids that are captions under instancelevel_random",
    "captions": "tokens of the captions that `python -m utils.captioning` samples for an image",
    "order": "the order in which training images are drawn",
    "buckets": "which aspect-ratio bucket each micro-batch draws from, and by weight which images",
    "bucket-images": "the order in which the images of an aspect-ratio bucket are drawn",
    "augmentation": "which draws --agc_augment augments, and how",
    "image": "crop and flip of a training image at a draw",
    "caption": "caption choice and caption edit at a draw",
    "caption-dropout": "which draws of an image have the empty prompt (--caption_dropout)",
    "noise": "timestep, posterior sample, noise and embedding noise at a draw",
    "noise-offset": "what --noise_offset adds to each channel of the noise at a draw",
    "class-images": "pictures of a class that the base model adds for prior preservation",
    "extra-losses": "seed of the dropout of adapters in extra losses, by the place of each",
    "class-draws": "seed of every draw of class images, in training",
    "mixup": "partners and mixing ratios within a batch",
    "prompt": "which prompt is drawn, at inference",
    "prompt-edit": "edit of a prompt, at inference",
    "latents": "initial latents of an image, at inference",
    "embedding-noise": "noise on the embeddings of an image, at inference",
    "bootstrap": "resampling of prompts for confidence intervals",
    "bootstrap-innocents": "resampling of innocents for the interval of a threshold",
    "innocents": "which innocents are compared, where there are more than needed",
    "card-prompts": "which captions a memorization card, or a check of copies, generates from",
    "copy-check-pictures": "training pictures whose loss a check of copies takes",
    "copy-check-times": "times of the noise at which a check of copies takes losses",
    "copy-check-noise": "noise of a picture whose loss a check of copies takes",
    "card-words": "which words of a caption a memorization card replaces, and by which",
}


def _entropy(seed: int, stream: str, index: tuple[int, ...]) -> np.random.SeedSequence:
    if stream not in STREAMS:
        raise KeyError(f"stream {stream!r} is not declared in seeding.STREAMS")
    # str hash() is salted per process; crc32 is not
    return np.random.SeedSequence([seed, zlib.crc32(stream.encode()), *index])


def derive_seed(seed: int, stream: str, *index: int) -> int:
    """A stable 63-bit seed for (seed, stream, index...). seed and index: integers >= 0."""
    return int(_entropy(seed, stream, index).generate_state(1, np.uint64)[0] >> np.uint64(1))


def numpy_rng(seed: int, stream: str, *index: int) -> np.random.Generator:
    """A new numpy Generator, seeded by (seed, stream, index...)."""
    return np.random.Generator(np.random.PCG64(_entropy(seed, stream, index)))


def torch_generator(seed: int, stream: str, *index: int) -> torch.Generator:
    """A new torch.Generator on the CPU, seeded by (seed, stream, index...).

    Draw on the CPU and move the result, so that it is the same on every device."""
    import torch

    return torch.Generator().manual_seed(derive_seed(seed, stream, *index))
