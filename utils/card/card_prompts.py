"""The prompts of a memorization card: which training captions are used, and changed ones."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np

from utils.files import whole_files
from utils.generation.sampling import Prompt
from utils.runtime import seeding

MOST_PROMPTS = 64
REPLACED = 0.5  # share of a caption's words that is replaced, rounded up


def _shuffled(keys: Sequence[str], seed: int, group: int) -> list[str]:
    order = seeding.numpy_rng(seed, "card-prompts", group).permutation(len(keys))
    return [keys[i] for i in order]


def drawn(
    captions: Mapping[str, str], duplicated: Collection[str], *, most: int, seed: int
) -> list[Prompt]:
    """Draw captions evenly over duplicated and other pictures, by turns, so that any beginning of
    the list is as even; where one kind runs out, the other one follows.

    captions: {key: caption}; most: number of prompts, fewer if there are fewer captions."""
    many = _shuffled([key for key in captions if key in duplicated], seed, 0)
    others = _shuffled([key for key in captions if key not in duplicated], seed, 1)
    both = min(len(many), len(others))
    turns = [key for pair in zip(many, others, strict=False) for key in pair]
    order = [*turns, *many[both:], *others[both:]][:most]
    return [Prompt(captions[key], key) for key in order]


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
