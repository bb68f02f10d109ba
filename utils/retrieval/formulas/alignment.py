"""CLIP score: how well images go with prompts (Hessel et al. 2021, without its factor 2.5 and its
cut at 0)."""

import numpy as np

from utils.retrieval.formulas.similarity import normalised


def cosines(image_features, prompts, embed):
    """Cosine of every image with its prompt; nan where there is no prompt.

    image_features: [N, D]; prompts: [N] of str or None; embed: [str] -> [n, D] normalised; a prompt
    is embedded once. Returns: [N] float64 in [-1, 1]."""
    found = np.full(len(prompts), np.nan)
    unique = list(dict.fromkeys(p for p in prompts if p is not None))
    if unique:
        number = {p: i for i, p in enumerate(unique)}
        texts = embed(unique)
        known = [i for i, p in enumerate(prompts) if p is not None]
        images = normalised(image_features[known])
        found[known] = (images * texts[[number[prompts[i]] for i in known]]).sum(1).double().numpy()
    return found
