"""Randomness as an argument: generators derived from a seed, the name of a stream and an index.

A draw is a pure function of (seed, stream, index...); a stream's indices all have the same length,
because trailing zeros do not change a SeedSequence. So nothing depends on the order of calls, on
the batch size or on the number of processes, and two uses that must not share numbers use two
names."""

import zlib

import numpy as np

STREAMS = {
    "scenes": "scenes drawn by the command; its --seed reaches this stream alone",
    "tiny-sd/pretraining": "scenes that tiny-sd is trained on",
    "tiny-sd/held-out": "scenes that its figures are measured on",
    "tiny-sd/training": "weights, batches, timesteps and noise of the build",
    "duplication": "which training images are duplicated",
    "subset": "which training images belong to --trainsubset",
    "shards": "which training images belong to which shard of an ensemble",
    "unet": "initial weights of --unet_from_scratch",
    "random-captions": "token ids that stand for an image under instancelevel_random",
    "order": "the order in which training images are drawn",
    "image": "crop and flip of a draw",
    "caption": "caption choice and edit of a draw",
    "noise": "timestep, posterior sample, noise and embedding noise of a draw",
    "mixup": "partners and ratio of a batch",
    "prompt": "which prompt is drawn, at inference",
    "prompt-edit": "edit of a prompt, at inference",
    "latents": "initial latents of an image, at inference",
    "embedding-noise": "noise on the embeddings of an image, at inference",
    "bootstrap": "resampling of prompts for intervals",
}


def _entropy(seed, stream, index):
    if stream not in STREAMS:
        raise KeyError(f"stream {stream!r} is not declared in seeding.STREAMS")
    # str hash() is salted per process; crc32 is not
    return np.random.SeedSequence([seed, zlib.crc32(stream.encode()), *index])


def derive_seed(seed, stream, *index):
    """A stable 63-bit seed for (seed, stream, index...). seed and index: integers >= 0."""
    return int(_entropy(seed, stream, index).generate_state(1, np.uint64)[0] >> np.uint64(1))


def numpy_rng(seed, stream, *index):
    """A numpy Generator of its own for (seed, stream, index...)."""
    return np.random.Generator(np.random.PCG64(_entropy(seed, stream, index)))


def torch_generator(seed, stream, *index):
    """A CPU torch.Generator of its own for (seed, stream, index...); draw on the CPU, then move."""
    import torch

    return torch.Generator().manual_seed(derive_seed(seed, stream, *index))
