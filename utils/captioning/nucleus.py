"""Nucleus sampling (Holtzman et al. 2020, "The Curious Case of Neural Text Degeneration") in which
every caption has random numbers of its own.

The library's sampling draws the tokens of a batch from one generator, so a caption would depend on
the other images of its batch."""

from __future__ import annotations

import numpy as np
import torch
from transformers import LogitsProcessor, TopPLogitsWarper

from utils.runtime import seeding
from utils.runtime.errors import DataError


def numbers_of_image(key: str, *, seed: int, captions: int, tokens: int) -> np.ndarray:
    """The random numbers with which the captions of an image are drawn: a pure function of the
    arguments.

    They are seeded by the image's key and the number of the caption, so that a caption stays the
    same when images are added or more captions are drawn.
    key: of the image; tokens: largest number of tokens that are drawn for a caption.
    Returns: float64 [captions, tokens] in [0, 1)."""
    name = key.encode("utf-8", "surrogateescape")
    return np.stack(
        [seeding.numpy_rng(seed, "captions", n, *name).random(tokens) for n in range(captions)]
    )


def pick(probabilities: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
    """Draw a token for each caption: the first one at which the cumulative sum exceeds number x
    total.

    Tokens are summed in the order of the vocabulary. In the order of their probabilities, a
    rounding error that swaps two tokens would change what most numbers draw.
    probabilities: [B, V], not negative, of any sum above 0; numbers: [B] in [0, 1).
    Returns: int64 [B]; a token of probability 0 is never drawn."""
    possible = probabilities > 0
    sums = probabilities.double().cumsum(-1).masked_fill(~possible, 0)
    total = sums.amax(-1)
    # rounded up, the product could be the total, which no sum exceeds
    wanted = torch.minimum(numbers * total, torch.nextafter(total, torch.zeros_like(total)))
    return (possible & (sums > wanted[:, None])).byte().argmax(-1)


class OwnNucleus(LogitsProcessor):
    """Leaves each caption the one token that its own random number draws from the nucleus: the
    smallest set of tokens whose probabilities sum to at least `top_p`.

    It serves one call of `generate`, which then has nothing left to draw. Processors that the
    library adds for --min_length run before it."""

    def __init__(self, numbers: torch.Tensor, top_p: float) -> None:
        """numbers: [B, T] in [0, 1), for T tokens of B captions; top_p: in (0, 1]."""
        self.numbers, self.step = numbers, 0
        self.nucleus = TopPLogitsWarper(top_p)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """scores: [B, V]. DataError if a probability is not a number. Returns: [B, V], 0 for the
        drawn token and minus infinity for the others."""
        probabilities = self.nucleus(input_ids, scores).double().softmax(-1)
        if torch.isnan(probabilities).any():
            raise DataError(
                "--captioner computes probabilities that are not numbers; use --mixed_precision no,"
                " or another model"
            )
        chosen = pick(probabilities, self.numbers[:, self.step])
        self.step += 1
        return torch.full_like(scores, -torch.inf).scatter_(1, chosen[:, None], 0.0)
