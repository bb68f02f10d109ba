"""Edits of text embeddings, [B, T, D] -> [B, T, D] (Somepalli et al. 2023, GN, GNI and mixup)."""

import torch


def add_noise(embeddings, noise, strength):
    """e + strength * noise. embeddings, noise: [B, T, D], noise standard normal; strength: lambda
    in [0, 1]."""
    return embeddings + strength * noise.to(embeddings)


def drawn_noise(embedding, generator, *, strength):
    """The same for one image, its noise drawn on the CPU from its own generator. embedding: [T,
    D]."""
    return add_noise(embedding, torch.randn(embedding.shape, generator=generator), strength)


def mix(embeddings, partners, ratio):
    """ratio * e + (1 - ratio) * e of the partner. embeddings, partners: [B, T, D]; ratio: Beta(a,
    1) draw in [0, 1]."""
    return ratio * embeddings + (1 - ratio) * partners
