"""Edits of captions and prompts, for training and inference.

The train-time names are those of Somepalli et al. 2023 (arXiv 2305.20086): `randrepl` is RC,
`randwordadd` random word addition, `wordrepeat` CWR, `allcaps` MC. At inference: `rand_word_add` is
RT, `rand_word_repeat` CWR, `rand_numb_add` RNA. Words are split on single spaces; an insertion
position is uniform on 0 ... number of words.

Where that puts a word behind the end of what the text encoder reads, the edit would change nothing:
the positions are then drawn among the words that are read."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np

from utils.data.encoder_window import Window

NUMBER_LIMIT = 100_000
# How often positions are drawn in a long caption before the last ones are taken. More than one
# draw is needed only where a word is repeated beside itself, as in "a a a".
DRAWS = 8


class Tokenizer(Protocol):
    """What the toolkit needs of a tokenizer of transformers."""

    @property
    def all_special_ids(self) -> list[int]:
        """Ids of the special tokens."""

    def __len__(self) -> int: ...

    def decode(self, token_ids: Sequence[int], *, clean_up_tokenization_spaces: bool) -> str:
        """The text of token ids."""


def _whole_word(word: str) -> re.Pattern[str]:
    return re.compile(rf"(?<!\w){re.escape(word)}(?!\w)", re.IGNORECASE)


def has_word(text: str, word: str) -> bool:
    """Whether a word, or several in a row, stands in a text as whole words, in any case: the text
    encoders of Stable Diffusion read small letters alone."""
    return _whole_word(word).search(text) is not None


def with_word(text: str, word: str, other: str) -> str:
    """The text with `other` wherever `word` stands, as `has_word` finds it."""
    return _whole_word(word).sub(lambda match: other, text)


class RandomTokens:
    """Random tokens: uniform over a tokenizer's vocabulary without its special tokens.

    ids: of the tokens that may be drawn; known: the same as a set; window: what the text encoder
    reads of an edited caption, None where captions are not cut."""

    def __init__(self, tokenizer: Tokenizer, window: Window | None = None) -> None:
        self.window = window
        special = set(tokenizer.all_special_ids)
        self.ids = [i for i in range(len(tokenizer)) if i not in special]
        self.known = frozenset(self.ids)
        self._tokenizer = tokenizer

    def draw_ids(self, count: int, rng: np.random.Generator) -> list[int]:
        """Draw `count` independent token ids."""
        return [self.ids[i] for i in rng.integers(len(self.ids), size=count)]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids, decoded together."""
        return self._tokenizer.decode(ids, clean_up_tokenization_spaces=False).strip()

    def draw(self, count: int, rng: np.random.Generator) -> str:
        """The text of `count` random token ids, decoded together."""
        return self.decode(self.draw_ids(count, rng))


def _insert(
    placed: list[tuple[str, bool]], word: str, rng: np.random.Generator
) -> list[tuple[str, bool]]:
    """Insert a word at a position drawn uniformly from 0, before the first word, to the number of
    words. placed: (word, whether it was inserted)."""
    at = int(rng.integers(len(placed) + 1))
    return [*placed[:at], *((part, True) for part in word.split(" ")), *placed[at:]]


def _text(placed: Sequence[tuple[str, bool]]) -> str:
    return " ".join(word for word, _ in placed)


def _has_effect(placed: Sequence[tuple[str, bool]], caption: str, window: Window) -> bool:
    """Whether every inserted word is read, and what is read differs from the caption."""
    text = _text(placed)
    if window.holds(text):
        return True
    last = max(i for i, (_, inserted) in enumerate(placed) if inserted)
    return window.holds(_text(placed[: last + 1])) and window.kept(text) != window.kept(caption)


def insert_words(
    caption: str,
    draw: Callable[[], str],
    rng: np.random.Generator,
    *,
    times: int,
    window: Window | None = None,
) -> str:
    """Insert `times` words at random positions.

    draw: () -> a word; it is called before the position of the word is drawn.
    window: what the text encoder reads. Where it does not read every inserted word, the same words
    are inserted at positions drawn uniformly among the words that it reads beside them."""
    own = [(word, False) for word in caption.split(" ")]
    inserted, placed = [], own
    for _ in range(times):
        inserted.append(draw())
        placed = _insert(placed, inserted[-1], rng)
    if window is None:
        return _text(placed)
    for _ in range(DRAWS):
        if _has_effect(placed, caption, window):
            break
        read = window.leading([word for word, _ in own], beside=inserted)
        placed = own[:read]
        for word in inserted:
            placed = _insert(placed, word, rng)
        placed = [*placed, *own[read:]]
    return _text(placed)


def add_tokens(caption: str, rng: np.random.Generator, tokens: RandomTokens, *, times: int) -> str:
    """Insert `times` random tokens, each decoded alone, at random positions."""
    return insert_words(
        caption, lambda: tokens.draw(1, rng), rng, times=times, window=tokens.window
    )


def repeat_words(
    caption: str, rng: np.random.Generator, tokens: RandomTokens, *, times: int
) -> str:
    """Insert a random word of the original caption at a random position, `times` times. The word is
    one that the text encoder reads."""
    words = caption.split(" ")
    if tokens.window is not None and not tokens.window.holds(caption):
        words = words[: max(1, tokens.window.leading(words))]
    return insert_words(
        caption,
        lambda: words[int(rng.integers(len(words)))],
        rng,
        times=times,
        window=tokens.window,
    )


def add_numbers(caption: str, rng: np.random.Generator, tokens: RandomTokens, *, times: int) -> str:
    """Insert a random integer from 0 to 99,999 at a random position, `times` times."""
    return insert_words(
        caption, lambda: str(rng.integers(NUMBER_LIMIT)), rng, times=times, window=tokens.window
    )


def replace_caption(caption: str, rng: np.random.Generator, tokens: RandomTokens) -> str:
    """Replace the caption by four random tokens, decoded together (RC)."""
    return tokens.draw(4, rng)


# Train time ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TrainEdit:
    """A train-time caption edit, an entry of TRAIN_EDITS.

    edit: (own, captions, rng, tokens, p) -> caption. `own` is the caption that --duplication chose
        among the image's `captions`; p is --trainspecial_prob.
    prompts: (captions) -> the captions that `edit` may return instead of `own`, so that their
        embeddings can be computed once and kept; None if the edit makes new text.
    has_probability: whether it happens with probability p, and not at every draw.
    """

    edit: Callable[..., str]
    prompts: Callable[[Sequence[str]], Sequence[str]] | None = None
    has_probability: bool = True

    def __call__(
        self,
        own: str,
        captions: Sequence[str],
        rng: np.random.Generator,
        tokens: RandomTokens,
        p: float,
    ) -> str:
        """The caption of a draw, see `edit`."""
        return self.edit(own, captions, rng, tokens, p)


def any_caption(
    own: str, captions: Sequence[str], rng: np.random.Generator, tokens: RandomTokens, p: float
) -> str:
    """Draw one of the image's captions uniformly at every draw; the probability is not used
    (MC)."""
    return captions[int(rng.integers(len(captions)))]


def now_and_then(
    own: str,
    captions: Sequence[str],
    rng: np.random.Generator,
    tokens: RandomTokens,
    p: float,
    *,
    edit: Callable[[str, np.random.Generator, RandomTokens], str],
) -> str:
    """The image's own caption, edited with probability p."""
    return edit(own, rng, tokens) if rng.random() < p else own


def all_captions(captions: Sequence[str]) -> Sequence[str]:
    """The image's whole list."""
    return captions


# name under --trainspecial -> edit; partials, not closures: spawned workers unpickle them
TRAIN_EDITS: dict[str, TrainEdit] = {
    "allcaps": TrainEdit(any_caption, prompts=all_captions, has_probability=False),
    "randrepl": TrainEdit(partial(now_and_then, edit=replace_caption)),
    "randwordadd": TrainEdit(partial(now_and_then, edit=partial(add_tokens, times=2))),
    "wordrepeat": TrainEdit(partial(now_and_then, edit=partial(repeat_words, times=2))),
}

# Edits at inference, by their name under --rand_augs: (prompt, rng, tokens, *, times) -> prompt
PROMPT_EDITS: dict[str, Callable[..., str]] = {
    "rand_word_add": add_tokens,
    "rand_word_repeat": repeat_words,
    "rand_numb_add": add_numbers,
}
