"""Kinds of larger files that hold images, and how the bytes of one image are read from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from utils.files.downloads import Address, Stamp, read_part
from utils.runtime.errors import DataError

CHANGED = "has changed since the index was built; --build_index reads it again"
CHANGED_IN_USE = "has changed since it was listed"


class ChangedError(DataError):
    """A file holds other images than those that were listed. The message is the reason alone."""


class Storage(Protocol):
    """A kind of file that holds images. It is part of an image set, and so of plain values: readers
    in other processes receive it."""

    def read(self, path: Path | Address, at: int, size: int) -> bytes:
        """The bytes of an image.

        path: of the file; at: where the image is in it; size: of the image, in bytes.
        OSError or DataError if the file does not give them, ChangedError if it holds others."""


@dataclass(frozen=True)
class ByteRanges:
    """Files in which each image is a range of bytes, such as tar files; `at` is the first byte."""

    # of files below an Address: {name: its stamp when it was listed}
    stamps: Mapping[str, Stamp] = field(default_factory=dict)

    def read(self, path: Path | Address, at: int, size: int) -> bytes:
        """See Storage."""
        if not isinstance(path, Address):
            with open(path, "rb") as handle:
                handle.seek(at)
                return handle.read(size)
        content, stamp = read_part(str(path), at, size)
        if self.stamps.get(str(path).rpartition("/")[2], stamp) != stamp:
            raise ChangedError(CHANGED)
        return content
