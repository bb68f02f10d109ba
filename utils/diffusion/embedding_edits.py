"""Edits of text embeddings, [B, T, D] -> [B, T, D] (Somepalli et al. 2023, GN, GNI and mixup)."""


def add_noise(embeddings, noise, strength):
    """e + strength * noise. embeddings, noise: [B, T, D], noise standard normal; strength: lambda in [0, 1]."""
    return embeddings + strength * noise.to(embeddings)


def mix(embeddings, partners, ratio):
    """ratio * e + (1 - ratio) * e of the partner. embeddings, partners: [B, T, D]; ratio: Beta(a, 1) draw in [0, 1]."""
    return ratio * embeddings + (1 - ratio) * partners
