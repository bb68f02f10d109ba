"""Edits of captions and prompts, str -> str, shared by training and inference.

The train-time names are those of Somepalli et al. 2023 (arXiv 2305.20086): `randrepl` is RC,
`randwordadd` random word addition, `wordrepeat` CWR, `allcaps` MC. At inference: `rand_word_add` is
RT, `rand_word_repeat` CWR, `rand_numb_add` RNA. Words are split on single spaces; an insertion
position is uniform on 0 ... number of words."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

NUMBER_LIMIT = 100_000


class RandomTokens:
    """Draws of token ids, uniform over a tokenizer's vocabulary without its special tokens, decoded
    to text."""

    def __init__(self, tokenizer):
        special = set(tokenizer.all_special_ids)
        self.ids = [i for i in range(len(tokenizer)) if i not in special]
        self.known = frozenset(self.ids)
        self._tokenizer = tokenizer

    def draw_ids(self, count, rng):
        """`count` ids, each uniform. rng: numpy Generator. Returns: list of int."""
        return [self.ids[i] for i in rng.integers(len(self.ids), size=count)]

    def decode(self, ids):
        """Text of ids, as the tokenizer decodes them together."""
        return self._tokenizer.decode(ids, clean_up_tokenization_spaces=False).strip()

    def draw(self, count, rng):
        """Text of `count` random ids decoded together."""
        return self.decode(self.draw_ids(count, rng))


def insert_word(caption, word, rng):
    """Insert `word` before word number 0 ... len(words) of the caption, uniform."""
    words = caption.split(" ")
    words.insert(int(rng.integers(len(words) + 1)), word)
    return " ".join(words)


def add_tokens(caption, rng, tokens, *, times):
    """`times` random tokens, each decoded and inserted at a position of its own."""
    for _ in range(times):
        caption = insert_word(caption, tokens.draw(1, rng), rng)
    return caption


def repeat_words(caption, rng, tokens, *, times):
    """`times` a word of the original caption, inserted at a random position."""
    original = caption.split(" ")
    for _ in range(times):
        caption = insert_word(caption, original[int(rng.integers(len(original)))], rng)
    return caption


def add_numbers(caption, rng, tokens, *, times):
    """`times` a random integer below 100,000, inserted at a random position."""
    for _ in range(times):
        caption = insert_word(caption, str(rng.integers(NUMBER_LIMIT)), rng)
    return caption


def replace_caption(caption, rng, tokens):
    """RC: four random token ids, decoded together."""
    return tokens.draw(4, rng)


# Train time ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TrainEdit:
    """A train-time caption edit, a line of TRAIN_EDITS.

    edit: (own, captions, rng, tokens, p) -> caption. `own` is the caption that --duplication chose
        among the image's `captions`; p is --trainspecial_prob.
    prompts: (captions) -> the captions that `edit` may return instead of `own`, so that their
        embeddings can be computed once and kept; None if the edit makes new text.
    """

    edit: Callable[..., str]
    prompts: Callable[[list], list] | None = None

    def __call__(self, own, captions, rng, tokens, p):
        return self.edit(own, captions, rng, tokens, p)


def any_caption(own, captions, rng, tokens, p):
    """MC: uniform over the image's whole list at every draw; no probability."""
    return captions[int(rng.integers(len(captions)))]


def now_and_then(own, captions, rng, tokens, p, *, edit):
    """`edit` of the own caption with probability p."""
    return edit(own, rng, tokens) if rng.random() < p else own


def all_captions(captions):
    """The image's whole list."""
    return captions


# partials, not closures: workers that are spawned must be able to unpickle them
TRAIN_EDITS = {
    "allcaps": TrainEdit(any_caption, prompts=all_captions),
    "randrepl": TrainEdit(partial(now_and_then, edit=replace_caption)),
    "randwordadd": TrainEdit(partial(now_and_then, edit=partial(add_tokens, times=2))),
    "wordrepeat": TrainEdit(partial(now_and_then, edit=partial(repeat_words, times=2))),
}

# Inference: (prompt, rng, tokens, *, times) -> prompt
PROMPT_EDITS = {
    "rand_word_add": add_tokens,
    "rand_word_repeat": repeat_words,
    "rand_numb_add": add_numbers,
}
