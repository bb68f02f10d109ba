"""CLIP score: how well images match prompts (Hessel et al. 2021, without its factor 2.5 and its cut
at 0)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from utils.retrieval.formulas.similarity import normalised

if TYPE_CHECKING:
    import torch


def cosines(
    image_features: torch.Tensor,
    prompts: Sequence[str | None],
    embed: Callable[[list[str]], torch.Tensor],
) -> np.ndarray:
    """Cosine of every image with its prompt; nan where there is no prompt.

    image_features: [N, D]
    prompts: [N]
    embed: list of n prompts -> [n, D] normalised; each prompt is embedded once

    Returns: [N] float64 in [-1, 1]."""
    cosine = np.full(len(prompts), np.nan)
    unique = list(dict.fromkeys(p for p in prompts if p is not None))
    if unique:
        number = {p: i for i, p in enumerate(unique)}
        texts = embed(unique)
        known = [i for i, p in enumerate(prompts) if p is not None]
        own = [number[p] for p in prompts if p is not None]
        images = normalised(image_features[known])
        cosine[known] = (images * texts[own]).sum(1).double().numpy()
    return cosine
