"""The memory that a block of computation takes beyond what is there already."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils import _pytree
from torch.utils._python_dispatch import TorchDispatchMode

from utils.runtime import devices


class _Storages(TorchDispatchMode):
    """Counts the bytes of the tensors that operations make, from when they are made until nothing
    refers to them. It changes no result."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._seen: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = _pytree.tree_leaves((args, kwargs))
        # what was there before, of which an operation may return a view
        for each in given:
            if isinstance(each, torch.Tensor):
                self._see(each, 0)
        made = func(*args, **(kwargs or {}))
        for each in _pytree.tree_leaves(made):
            if isinstance(each, torch.Tensor):
                self._see(each, each.untyped_storage().nbytes())
        return made

    def _see(self, tensor: torch.Tensor, size: int) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._seen:
            return
        self._seen.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.now -= size


class PassMemory:
    """Measures a block.

    bytes: the most that tensors of the block took at once, beyond those that were there before it;
        None before it was measured."""

    def __init__(self) -> None:
        self.bytes: int | None = None

    @contextlib.contextmanager
    def measured(self, device: torch.device) -> Iterator[None]:
        """A block whose memory is taken as `bytes`: on a GPU as its allocator counts, elsewhere as
        the tensors are made and dropped. Nothing waits for the device."""
        if device.type == "cuda":
            before = torch.cuda.memory_allocated(device)
            devices.forget_peak(device)
            yield
            self.bytes = torch.cuda.max_memory_allocated(device) - before
            return
        with _Storages() as counted:
            yield
        self.bytes = counted.peak
