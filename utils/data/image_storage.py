"""Kinds of larger files that hold images, and how the bytes of one image are read from them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from utils.files.downloads import Address, Stamp, read_part


class Storage(Protocol):
    """A kind of file that holds images. It is part of an image set, and so of plain values: readers
    in other processes receive it."""

    def read(self, path: Path | Address, at: int, size: int) -> tuple[bytes, Stamp | None]:
        """The bytes of an image.

        path: of the file; at: where the image is in it; size: of the image, in bytes.
        OSError or DataError if the file does not give them. Returns: the bytes; the stamp of the
        file, where a server sent one with them."""


@dataclass(frozen=True)
class ByteRanges:
    """Files in which each image is a range of bytes, such as tar files; `at` is the first byte."""

    def read(self, path: Path | Address, at: int, size: int) -> tuple[bytes, Stamp | None]:
        """See Storage."""
        if isinstance(path, Address):
            return read_part(str(path), at, size)
        with open(path, "rb") as handle:
            handle.seek(at)
            return handle.read(size), None
