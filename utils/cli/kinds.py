"""The kinds of value that a flag accepts: numbers within bounds, names of a registry, paths, texts.

A kind turns the text of the command line into a value, and says in words what it accepts."""

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Kind:
    """What values a flag accepts."""

    parse: Callable[[str], Any]  # text -> value, or None where the text is not accepted
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


def real(
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    below: float | None = None,
) -> Kind:
    """A finite number from `low` to `high`, both included, or between `above` and `below`, both
    excluded."""
    return _number(float, "a number", "X", _Bounds(low, high, above, below))


def number_or(word: str, low: float | None = None) -> Kind:
    """The word, or a number of at least `low`."""
    number = real(low)
    return Kind(
        lambda text: word if text == word else number.parse(text),
        f"{word!r} or {number.accepted}",
        f"{{{word},X}}",
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


def _not_empty(text: str) -> str | None:
    return text or None


_TRUTH = {"true": True, "1": True, "false": False, "0": False}

TEXT = Kind(_not_empty, "a text that is not empty", "TEXT")
PATH = Kind(_not_empty, "a path that is not empty", "PATH")
ANY_TEXT = Kind(str, "a text", "TEXT")  # the empty text too
# published flags that take a truth value
TRUTH = Kind(lambda text: _TRUTH.get(text.lower()), "true or false", "{true,false}")
SWITCH = Kind(str, "no value", "")  # the flag alone, without a value
