"""The prompts of a memorization card that are no training captions: words are replaced."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from utils.files import whole_files
from utils.generation.sampling import Prompt
from utils.runtime import seeding

MOST_PROMPTS = 64
REPLACED = 0.5  # share of a caption's words that is replaced, rounded up


def with_words_replaced(prompts: Sequence[Prompt], *, seed: int) -> list[Prompt]:
    """The prompts, with half of the words of each (rounded up) replaced by words of the others.

    Words are split at spaces; places and words are drawn uniformly, never a word for itself. A
    prompt stays as it is if there is no other word."""
    known = sorted({word for prompt in prompts for word in prompt.text.split(" ")})
    return [
        Prompt(_replaced(prompt.text, known, seeding.numpy_rng(seed, "card-words", number)), key)
        for number, (prompt, key) in enumerate((each, each.source_image) for each in prompts)
    ]


def _replaced(text: str, known: Sequence[str], rng: np.random.Generator) -> str:
    words = text.split(" ")
    for place in rng.permutation(len(words))[: math.ceil(REPLACED * len(words))]:
        others = [word for word in known if word != words[place]]
        if others:
            words[place] = others[int(rng.integers(len(others)))]
    return " ".join(words)


def write(path: Path, prompts: Sequence[Prompt]) -> None:
    """Write prompts as a file for --prompts: a captions file if each has a picture of its own, else
    a list."""
    keys = [prompt.source_image for prompt in prompts]
    if all(keys) and len(set(keys)) == len(keys):
        whole_files.write_json(path, {str(each.source_image): [each.text] for each in prompts})
    else:
        whole_files.write_json(path, [each.text for each in prompts])
