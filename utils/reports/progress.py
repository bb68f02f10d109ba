"""Progress bars, a line that says how long a pass takes, and a clock that can be paused."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from tqdm import tqdm


def progress(
    items: Iterable[Any] | None,
    *,
    total: int | None,
    label: str,
    main_process: bool = True,
    initial: int = 0,
) -> tqdm:
    """Wrap an iterable in a progress bar with a rate and an estimate of the time left.

    Without a terminal, a line is printed twice a minute instead.
    items: None for a bar that the caller moves;
    total: number of items, if it is known;
    main_process: whether this is the main process; there is no bar in the others;
    initial: how many items were done before."""
    from tqdm import tqdm

    terminal = sys.stderr.isatty()
    return tqdm(
        items,
        total=total,
        initial=initial,
        desc=label,
        disable=not main_process,
        ascii=not terminal,
        mininterval=0.2 if terminal else 30,
        maxinterval=10 if terminal else 60,
    )


LONG = 30.0  # seconds that a pass takes, from which its length is said
# seconds of the first item that tell enough; shorter ones are mostly the start of readers
TELLING, WINDOW = 10.0, 3.0

Item = TypeVar("Item")


def expected_seconds(times: tuple[float, float, float], done: int, total: int) -> float | None:
    """How long a pass takes in all, in seconds, from its first items.

    times: in seconds, when the pass began, when its first item was done, and now
    done: items that are done now, at least 1; total: number of items

    The first item holds the start of readers and networks, so that others count where there are
    any. None while too little time has passed to tell."""
    began, first, now = times
    if done == 1:
        return (first - began) * total if first - began >= TELLING else None
    if now - first < WINDOW:
        return None
    return now - began + (now - first) / (done - 1) * (total - done)


def foretold(
    items: Iterable[Item], *, total: int, what: str, say: Callable[[str], None]
) -> Iterator[Item]:
    """Pass items through, and say once, after the first ones, how many minutes all of them take, if
    that is half a minute or more.

    total: number of items; what: what the pass does, the beginning of the line; say: prints a
    line."""
    clock, told = time.perf_counter, False
    began = first = clock()
    for done, item in enumerate(items, 1):
        yield item
        if told:
            continue
        now = clock()
        first = now if done == 1 else first
        seconds = expected_seconds((began, first, now), done, total)
        told = seconds is not None
        if seconds is not None and seconds >= LONG:
            _between_bars(say, f"{what}: {in_minutes(seconds)}")


def in_minutes(seconds: float) -> str:
    """A time of at least half a minute in words, to the minute."""
    minutes = max(1, round(seconds / 60))
    return f"about {minutes:,} minute{'s' if minutes > 1 else ''}"


def _between_bars(say: Callable[[str], None], line: str) -> None:
    """Print a line where a progress bar may stand, which is drawn again below it."""
    from tqdm import tqdm

    with tqdm.external_write_mode():
        say(line)


class Pauses:
    """A clock that starts when it is created and stands still in `with pauses:` blocks."""

    def __init__(self) -> None:
        self._started, self._paused = time.perf_counter(), 0.0

    def __enter__(self) -> None:
        self._entered = time.perf_counter()

    def __exit__(self, *error: object) -> None:
        self._paused += time.perf_counter() - self._entered

    @property
    def outside(self) -> float:
        """Seconds since the start, without those in the blocks."""
        return time.perf_counter() - self._started - self._paused
