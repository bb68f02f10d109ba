"""What the models of this folder learn from: chunks of scenes that are drawn as they are needed,
and captions as the web has them."""

from concurrent.futures import ProcessPoolExecutor

import numpy as np
import torch

from utils.data import scenes
from utils.runtime import seeding, signals

EMPTY_SHARE = 0.10  # of captions: replaced by an empty one, for classifier-free guidance
# of captions: get one to three words that no scene shows, as captions on the web have
EXTRA_SHARE = 0.20
# of those words: numbers; without them the embeddings of digits would never be trained
NUMBER_SHARE = 0.10
CHUNK, PASSES = 2048, 2  # scenes per chunk; how often a denoiser trains on each scene
BATCH = 16


def draw_chunk(chunk):
    """Draw the scenes from number chunk * CHUNK on, from the pretraining stream.

    Returns: uint8 [CHUNK, 64, 64, 3], captions [CHUNK][5]."""
    drawn = [scenes.scene_at(chunk * CHUNK + i, stream="tiny-sd/pretraining") for i in range(CHUNK)]
    return np.stack([np.asarray(s.image) for s in drawn]), [s.captions for s in drawn]


def chunks_from(first):
    """Yield (number, images, captions) from chunk `first` on. Another process draws the next chunk
    while the caller uses the current one, and ends with this one."""
    with ProcessPoolExecutor(1, initializer=signals.end_with_parent) as pool:
        ahead = pool.submit(draw_chunk, first)
        while True:
            images, captions = ahead.result()
            ahead = pool.submit(draw_chunk, first + 1)
            yield first, images, captions
            first += 1


def to_pixels(images, device):
    """Convert uint8 [B, 64, 64, 3] to float32 [B, 3, 64, 64] in [-1, 1]."""
    return torch.from_numpy(images).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1


def training_caption(captions, rng, words):
    """Choose one of the five captions, sometimes empty or with one to three added words."""
    if rng.random() < EMPTY_SHARE:
        return ""
    text = captions[rng.integers(len(captions))].split(" ")
    if rng.random() < EXTRA_SHARE:
        for _ in range(rng.integers(1, 4)):
            if rng.random() < NUMBER_SHARE:
                word = str(rng.integers(100_000))
            else:
                word = words[rng.integers(len(words))]
            text.insert(rng.integers(len(text) + 1), word)
    return " ".join(text)


@torch.no_grad()
def encode_all(vae, images, device):
    """Encode uint8 [N, 64, 64, 3]. Returns: posterior mean and std, unscaled [N, 4, 16, 16]."""
    parts = [
        vae.encode(to_pixels(images[i : i + 64], device)).latent_dist
        for i in range(0, len(images), 64)
    ]
    return torch.cat([p.mean for p in parts]), torch.cat([p.std for p in parts])


def steps_of_chunk():
    """Steps in which a denoiser trains on one chunk."""
    return CHUNK * PASSES // BATCH


def latent_batches(vae, step, *, seed, stream, device):
    """Yield (mean, std, captions) of the batches from a step on: the posterior of B scenes,
    unscaled [B, 4, 16, 16], and their five captions each.

    seed, stream: what decides the order of the scenes in a chunk; the stream is a name in
    utils.runtime.seeding and what its indices begin with."""
    for number, images, captions in chunks_from(step // steps_of_chunk()):
        mean, std = encode_all(vae, images, device)
        rng = seeding.numpy_rng(seed, *stream, number)
        order = np.concatenate([rng.permutation(CHUNK) for _ in range(PASSES)])
        for picked in order.reshape(-1, BATCH)[step % steps_of_chunk() :]:
            yield mean[picked], std[picked], [captions[i] for i in picked]
        step = 0
