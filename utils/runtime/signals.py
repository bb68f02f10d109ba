"""Stop signals and parent processes: a loop can finish its step after SIGTERM or SIGINT, and worker
processes end with the process that started them."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Sequence
from types import FrameType

PR_SET_PDEATHSIG = 1  # of Linux's prctl: the signal that a process gets when its parent dies


class StopSignal:
    """Record SIGTERM and SIGINT within a `with` block instead of ending the process.

    `number` is the signal that arrived, or None. The second signal of a kind ends the process as
    usual."""

    SIGNALS = (signal.SIGTERM, signal.SIGINT)

    def __enter__(self) -> StopSignal:
        self.number: int | None = None
        self._before = {}
        for number in self.SIGNALS:
            self._before[number] = signal.signal(number, self._take)
        return self

    def _take(self, number: int, frame: FrameType | None) -> None:
        self.number = number
        signal.signal(number, self._before[signal.Signals(number)])

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


def end_with_parent() -> None:
    """From now on, end this worker process as soon as the process that started it dies, however it
    dies.

    For processes that multiprocessing started; it does nothing in others. The kernel kills the
    process where it can; elsewhere a thread waits for the parent."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    # a worker of a fork server is a child of the server, whose end says nothing about the parent
    if os.getppid() != parent.pid or not _kernel_ends_with_parent():
        threading.Thread(target=_exit_after, args=(parent,), daemon=True).start()
    if not parent.is_alive():  # it died before the lines above
        os._exit(1)


def _kernel_ends_with_parent() -> bool:
    """Ask Linux to kill this process when its parent dies. Returns: False on other systems."""
    with contextlib.suppress(AttributeError, OSError):
        return ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL) == 0
    return False


def _exit_after(parent: multiprocessing.process.BaseProcess) -> None:
    parent.join()
    os._exit(1)


def worker_init(*, ignoring: Sequence[signal.Signals] = ()) -> Callable[[int], None]:
    """A worker_init_fn for a DataLoader, with which its workers end when their parent dies.

    torch's own workers check for their parent every five seconds. A worker that starts while its
    parent is being killed takes its new parent for the right one, and never exits.
    ignoring: signals that the workers ignore, because the parent still has work to finish."""
    return functools.partial(_start_worker, ignoring)


def _start_worker(ignoring: Sequence[signal.Signals], _worker: int) -> None:
    for number in ignoring:
        signal.signal(number, signal.SIG_IGN)
    end_with_parent()
