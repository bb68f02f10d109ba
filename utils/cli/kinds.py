"""The kinds of value that a flag accepts: numbers within bounds, names of a registry, paths, texts.

A kind turns the text of the command line into a value, and says in words what it accepts."""

import math
import os
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from utils.cli import given_paths

# The most that a plan can hold. A larger number is a slip of the keyboard: the plan would fill the
# memory, or be made without end.
MOST = 2**31 - 1  # of what is only counted, such as steps
MOST_IMAGES = 10_000_000  # images of a generation, or scenes: each has a line of its own
MOST_PROMPTS = 1_000_000
MOST_AT_ONCE = 100_000  # images in one batch
MOST_PIXELS = 16_384  # side of an image
MOST_TOKENS = 512  # of T5, which SD 3 and Flux were trained with at most
MOST_LETTERS = 200  # bytes of a name, to which the names of files beside it add some
MOST_SEED = 2**64 - 1  # what torch accepts


@dataclass(frozen=True)
class Kind:
    """What values a flag accepts."""

    # text -> value, or None where the text is not accepted; ValueError with a reason of its own
    parse: Callable[[str], Any]
    accepted: str  # in an error, after "use"
    metavar: str  # in --help, after the flag
    bounds: str = ""  # in --help, beside the default


@dataclass(frozen=True)
class _Bounds:
    """An interval; `low` and `high` belong to it, `above` and `below` do not."""

    low: float | None = None
    high: float | None = None
    above: float | None = None
    below: float | None = None

    def hold(self, value: float) -> bool:
        return math.isfinite(value) and not (
            (self.low is not None and value < self.low)
            or (self.high is not None and value > self.high)
            or (self.above is not None and value <= self.above)
            or (self.below is not None and value >= self.below)
        )

    def words(self) -> str:
        end = f"below {self.below}" if self.below is not None else f"{self.high}"
        bounded = self.below is not None or self.high is not None
        if self.low is not None:
            return f"from {self.low} to {end}" if bounded else f"at least {self.low}"
        if self.above is not None:
            return f"above {self.above}, up to {end}" if bounded else f"above {self.above}"
        return f"up to {end}" if bounded else ""


def _number(convert: Callable[[str], float], noun: str, metavar: str, bounds: _Bounds) -> Kind:
    def parse(text: str) -> float | None:
        try:
            value = convert(text)
        except ValueError:
            return None
        return value if bounds.hold(value) else None

    return Kind(parse, f"{noun} {bounds.words()}".strip(), metavar, bounds.words())


def whole(low: int | None = None, high: int | None = None) -> Kind:
    """A whole number from `low` to `high`, both included."""
    return _number(int, "a whole number", "N", _Bounds(low, high))


def count(low: int, most: int = MOST) -> Kind:
    """A whole number of at least `low`. --help does not mention the most, which only a mistake
    exceeds; the error does."""
    bounded, shown = whole(low, most), whole(low)
    return Kind(bounded.parse, f"{shown.accepted} and at most {most}", shown.metavar, shown.bounds)


def real(
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    below: float | None = None,
) -> Kind:
    """A finite number from `low` to `high`, both included, or between `above` and `below`, both
    excluded."""
    return _number(float, "a number", "X", _Bounds(low, high, above, below))


def number_or(*words: str, low: float | None = None, above: float | None = None) -> Kind:
    """One of the words, or a number of at least `low` or greater than `above`."""
    number = real(low, above=above)
    return Kind(
        lambda text: text if text in words else number.parse(text),
        f"{', '.join(map(repr, words))} or {number.accepted}",
        f"{{{','.join(words)},X}}",
        f"X {number.bounds}" if number.bounds else "",
    )


def one_of(names: Collection[str]) -> Kind:
    """One of the names: a registry, which is looked into when the flag is parsed, or a tuple."""
    shown = sorted(names)
    return Kind(
        lambda text: text if text in names else None,
        f"one of: {', '.join(shown)}",
        f"{{{','.join(shown)}}}",
    )


def some_of(names: Collection[str]) -> Kind:
    """One or more of the names, separated by commas, as `one_of`; the value is a tuple."""

    def parse(text: str) -> tuple[str, ...] | None:
        parts = tuple(part.strip() for part in text.split(",") if part.strip())
        return parts if parts and set(parts) <= set(names) else None

    accepted = f"names separated by commas, of: {', '.join(sorted(names))}"
    return Kind(parse, accepted, "NAME,NAME,...", accepted)


def _names(text: str) -> tuple[str, ...] | None:
    return tuple(part.strip() for part in text.split(",") if part.strip()) or None


def _not_empty(text: str) -> str | None:
    return text or None


def _name(text: str) -> str | None:
    return text if 0 < len(os.fsencode(text)) <= MOST_LETTERS else None


def _path(text: str) -> str | None:
    """The path with `~` expanded, as in --output_dir=~/run, which a shell leaves alone; ValueError
    with the system's reason if it cannot be looked up."""
    path = os.path.expanduser(text)
    problem = given_paths.problem(path)
    if problem:
        raise ValueError(problem)
    return path or None


def text_with(part: str) -> Kind:
    """A text in which `part` occurs."""
    return Kind(lambda text: text if part in text else None, f"a text with {part} in it", "TEXT")


_TRUTH = {"true": True, "1": True, "false": False, "0": False}

TEXT = Kind(_not_empty, "a text that is not empty", "TEXT")
NAMES = Kind(_names, "names separated by commas", "NAME,NAME,...")
LISTED = Kind(lambda text: text if _names(text) else None, NAMES.accepted, NAMES.metavar)
NAME = Kind(_name, f"a text of at most {MOST_LETTERS} bytes that is not empty", "TEXT")
PATH = Kind(_path, "a path that is not empty", "PATH")
ANY_TEXT = Kind(str, "a text", "TEXT")  # the empty text too
# published flags that take a truth value
TRUTH = Kind(lambda text: _TRUTH.get(text.lower()), "true or false", "{true,false}")
SEED = count(0, MOST_SEED)
SWITCH = Kind(str, "no value", "")  # the flag alone, without a value
