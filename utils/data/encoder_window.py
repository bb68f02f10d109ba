"""What a text encoder reads of a text: its first tokens, up to a limit. The rest has no effect."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol


class Tokenizer(Protocol):
    """What a window needs of a tokenizer of transformers."""

    def __call__(self, text: str, *, truncation: bool, verbose: bool) -> Any:
        """An object whose `input_ids` are the ids of a text, special ones included."""


class Window:
    """The first tokens of a text, which a text encoder reads.

    limit: their number, special ones included."""

    def __init__(self, tokenizer: Tokenizer, limit: int) -> None:
        self.limit, self._tokenizer = limit, tokenizer

    def _ids(self, text: str) -> list[int]:
        # not verbose: transformers warns of a long text, which callers count themselves
        return list(self._tokenizer(text, truncation=False, verbose=False).input_ids)

    def holds(self, text: str) -> bool:
        """Whether all of a text is read."""
        # a token stands for at least one character; the special ones are at most two
        if text.isascii() and len(text) + 2 <= self.limit:
            return True
        return len(self._ids(text)) <= self.limit

    def kept(self, text: str) -> list[int]:
        """The ids of a text that are read, without the special one at the end."""
        return self._ids(text)[: self.limit - 1]

    def leading(self, words: Sequence[str], *, beside: Sequence[str] = ()) -> int:
        """How many of the first words are read, each to its end, where the words `beside` are read
        too. A word has a space before and after it."""
        low, high = 0, len(words)
        while low < high:
            middle = (low + high + 1) // 2
            if self.holds(" ".join([*words[:middle], *beside])):
                low = middle
            else:
                high = middle - 1
        return low


def too_long(window: Window, texts: Iterable[str]) -> list[str]:
    """The texts whose end is not read, each once, in their order."""
    return [text for text in dict.fromkeys(texts) if not window.holds(text)]
