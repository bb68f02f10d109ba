"""One progress bar for long work: on the main process only; without a terminal, a line now and
then."""

import sys
import time


def progress(items, *, total, label, main_process=True, initial=0):
    """Wrap an iterable in a bar with a rate and an estimate. initial: how many of `total` were done
    before."""
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
    """Times what happens outside `with pauses:` blocks, from its making on."""

    def __init__(self):
        self._started, self._paused = time.perf_counter(), 0.0

    def __enter__(self):
        self._entered = time.perf_counter()

    def __exit__(self, *error):
        self._paused += time.perf_counter() - self._entered

    @property
    def outside(self):
        """Seconds so far, without the blocks."""
        return time.perf_counter() - self._started - self._paused
