"""File locks: the processes of one or several launches, on one or several machines, agree which of
them does a piece of work.

A piece of work is held by the lock of a small file. The kernel releases the lock when the process
ends, however it ends: a killed process leaves nothing to clean up, and another one can take over
at once. Work that is taken piece by piece balances itself: a process that is twice as fast takes
twice as many pieces."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from utils.runtime.errors import UsageError

if TYPE_CHECKING:
    from utils.runtime.parallel import Processes

CLAIMS = ".claims"  # name of the folder of lock files in an index
# errors of file systems without locks: Lustre and NFS with some mount options, and most file
# systems in front of an object store
NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)

# Descriptors of the locks that this process holds. A lock lasts until every copy of its descriptor
# is closed. Image-reading workers are forked while locks are held and outlive a killed parent by
# seconds: they close their copies at once, so that the lock ends with the parent.
_held: set[int] = set()


def _close_in_child() -> None:
    while _held:
        os.close(_held.pop())


os.register_at_fork(after_in_child=_close_in_child)


@contextlib.contextmanager
def lock_file(path: Path, *, wait: bool = False) -> Iterator[bool]:
    """Lock a file, which is created if missing, until the end of the block.

    wait: wait until another holder releases the lock. Yields: whether this process holds it, which
    is always so with `wait`. OSError where the file system has no locks (see NO_LOCKS)."""
    # opened for writing, because NFS locks bytes and requires that
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    _held.add(descriptor)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            mine = True
        except BlockingIOError:
            mine = False
        yield mine
    finally:
        _held.discard(descriptor)
        os.close(descriptor)


class Claims:
    """Locks of named pieces of work: a lock file for each in `folder`, which is created."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)

    @contextlib.contextmanager
    def take(self, name: str, *, wait: bool = False) -> Iterator[bool]:
        """Lock the piece of work `name` until the end of the block, unless another process has
        locked it.

        wait: wait until no other process holds it. Yields: whether this process holds it."""
        with lock_file(self.folder / f"{name}.lock", wait=wait) as mine:
            yield mine

    def while_others_wait(self) -> Claims:
        """The locks to use when the main process works alone and the others wait for it."""
        return self

    def work(self) -> bool:
        """Whether the folder's file system has locks."""
        try:
            with self.take(".probe"):
                return True
        except OSError as error:
            if error.errno in NO_LOCKS:
                return False
            raise


class Stride:
    """Replacement of `Claims` on a file system without locks: each of `count` processes owns a
    fixed share of the names. A second launch at the same time is not noticed."""

    def __init__(self, names: Sequence[str], index: int, count: int) -> None:
        self.own, self.all = frozenset(names[index::count]), frozenset(names)

    @contextlib.contextmanager
    def take(self, name: str, *, wait: bool = False) -> Iterator[bool]:
        """Yields: whether the piece of work `name` is this process's; a name that is not in the
        list is every process's.

        wait: not used; `Claims` and `Stride` have the same arguments."""
        yield name in self.own or name not in self.all

    def while_others_wait(self) -> Stride:
        """The share to use when the main process works alone: every name."""
        return Stride((), 0, 1)


@contextlib.contextmanager
def wait_for_turn(folder: Path, name: str) -> Iterator[None]:
    """Wait for the lock of the piece of work `name` in `folder`, and hold it until the end of the
    block.

    Where the file system has no locks or is read-only, the block runs without one."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            claims = Claims(folder)
            if claims.work():
                stack.enter_context(claims.take(name, wait=True))
        yield


@contextlib.contextmanager
def lock_folder_on_this_machine(folder: Path) -> Iterator[bool]:
    """Keep other commands on this machine out of an output folder until the end of the block.

    The lock file lies among the machine's temporary files, because nothing is written to an output
    folder before the model has loaded. Yields: False if another command holds the lock. It
    is True also where no lock can be taken: the file belongs to another user, or the file system
    has no locks."""
    path = _lock_of(folder)
    with contextlib.ExitStack() as stack:
        mine = True
        with contextlib.suppress(OSError):
            mine = stack.enter_context(lock_file(path))
            if mine:
                path.write_text(str(os.getpid()))  # for the error of another command
        yield mine


def _lock_of(folder: Path) -> Path:
    name = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"diffrep-{name}.lock"


def in_use(flag: str, folder: Path) -> UsageError:
    """The error for an output folder that another command on this machine holds.

    flag: that names the folder."""
    holder = ""
    with contextlib.suppress(OSError):
        holder = _lock_of(folder).read_text().strip()
    process = f" (process {holder})" if holder.isdigit() else ""
    return UsageError(
        f"{flag}={str(folder)!r} is being written by another command{process}; use another folder,"
        " or wait for that command"
    )


@contextlib.contextmanager
def only_writer(flag: str, folder: str | Path) -> Iterator[None]:
    """Let this command alone write to an output folder until the end of the block; UsageError, at
    once, where another command on this machine does. flag: that names the folder."""
    with lock_folder_on_this_machine(Path(folder)) as mine:
        if not mine:
            raise in_use(flag, Path(folder))
        yield


@contextlib.contextmanager
def only_writers(flag: str, folder: str | Path, processes: Processes) -> Iterator[None]:
    """The same for several processes, which all call this: the main one holds the lock, and none
    goes on where another command does."""
    with contextlib.ExitStack() as held:
        with processes.together():
            if processes.main:
                held.enter_context(only_writer(flag, folder))
        yield
