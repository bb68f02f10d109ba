"""Edits of text embeddings (Somepalli et al. 2023: GN, GNI and mixup), as pure functions."""

import torch


def add_noise(embeddings: torch.Tensor, noise: torch.Tensor, strength: float) -> torch.Tensor:
    """e + strength * noise.

    embeddings: [B, T, D].
    noise: [B, T, D], standard normal.
    strength: lambda, from 0 to 1.
    """
    return embeddings + strength * noise.to(embeddings)


def drawn_noise(
    embedding: torch.Tensor, generator: torch.Generator, *, strength: float
) -> torch.Tensor:
    """Add noise to the embedding of one image, drawn on the CPU from the image's own generator.

    embedding: [T, D].
    strength: lambda, from 0 to 1.
    """
    return add_noise(embedding, torch.randn(embedding.shape, generator=generator), strength)


def mix(embeddings: torch.Tensor, partners: torch.Tensor, ratio: float) -> torch.Tensor:
    """ratio * e + (1 - ratio) * e of the partner (mixup).

    embeddings, partners: [B, T, D].
    ratio: from 0 to 1, drawn from Beta(a, 1).
    """
    return ratio * embeddings + (1 - ratio) * partners
