"""Progress bars, and a clock that can be paused."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

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
