"""What processes are told: SIGTERM and SIGINT as a flag that a loop looks at, so that what was
computed can be saved first; the end of a parent, to those that read for it."""

import contextlib
import ctypes
import functools
import multiprocessing
import os
import signal

PR_SET_PDEATHSIG = 1  # of Linux's prctl


class StopSignal:
    """Within `with`: `number` is the signal that came, or None. A second one of a kind ends the
    process as usual."""

    SIGNALS = (signal.SIGTERM, signal.SIGINT)

    def __enter__(self):
        self.number, self._before = None, {}
        for number in self.SIGNALS:
            self._before[number] = signal.signal(number, self._take)
        return self

    def _take(self, number, frame):
        self.number = number
        signal.signal(number, self._before[number])

    def __exit__(self, *error):
        for number, handler in self._before.items():
            signal.signal(number, handler)


def end_with_parent(*, ignoring=()):
    """A worker_init_fn for a DataLoader: its workers are killed when the process that made them
    dies, however it dies.

    torch's own workers look for their parent every five seconds, and one that starts while it is
    killed takes whoever adopts it for its parent, and stays. ignoring: signals that the workers do
    not heed, as the parent's work is not done when they come."""
    return functools.partial(_end_with_parent, ignoring)


def _end_with_parent(ignoring, _worker):
    for number in ignoring:
        signal.signal(number, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    # a fork server stands between, where workers come from one: torch's way is left
    if os.getppid() == parent.pid:
        with contextlib.suppress(AttributeError, OSError):  # so it is on another system
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if not parent.is_alive():  # it died before that
        os._exit(1)
