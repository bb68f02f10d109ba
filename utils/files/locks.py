"""Pieces of work that processes take from one another, of one launch or of several, on one machine
or on many.

A piece is held by the lock of a small file. The kernel gives the lock back when its process ends,
however it ends: a killed process leaves nothing to clean, and another takes the piece at once. A
process that is twice as fast takes twice as many."""

import contextlib
import errno
import fcntl
import os
from pathlib import Path

CLAIMS = ".claims"  # the folder of locks in an index
# what file systems answer that have no locks: Lustre and NFS as some are mounted, and most that
# speak to an object store
NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)

# a lock lasts until every copy of its descriptor is closed. Workers that read images are forked
# while one is held, and outlive a killed parent by seconds: they must not keep what it held
_held = set()


def _close_in_child():
    while _held:
        os.close(_held.pop())


os.register_at_fork(after_in_child=_close_in_child)


class Claims:
    """Claims by locks in a folder, which is made."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)

    @contextlib.contextmanager
    def take(self, name, *, wait=False):
        """Yield whether this process has the piece `name`, which it then has to the end of the
        block. wait: until it has."""
        # opened for writing: over NFS a lock is one of bytes, which wants that
        number = os.open(self.folder / f"{name}.lock", os.O_RDWR | os.O_CREAT, 0o666)
        _held.add(number)
        try:
            try:
                fcntl.flock(number, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
                mine = True
            except BlockingIOError:
                mine = False
            yield mine
        finally:
            _held.discard(number)
            os.close(number)

    def while_others_wait(self):
        """The claims of the main process when it alone is at work."""
        return self

    def work(self):
        """Whether the folder's file system has locks."""
        try:
            with self.take(".probe"):
                return True
        except OSError as error:
            if error.errno in NO_LOCKS:
                return False
            raise


class Stride:
    """Claims where there are no locks: every P-th of a list of names, agreed on beforehand, and no
    second launch."""

    def __init__(self, names, index, count):
        self.own, self.all = frozenset(names[index::count]), frozenset(names)

    @contextlib.contextmanager
    def take(self, name, *, wait=False):
        """Yield whether the piece `name` is this process's; one that is not in the list is whoever
        asks for it."""
        yield name in self.own or name not in self.all

    def while_others_wait(self):
        """The claims of the main process when it alone is at work: all."""
        return Stride((), 0, 1)
