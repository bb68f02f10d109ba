"""Forms of a path in which names that different systems write differently are equal."""

from __future__ import annotations

import os
import re
import unicodedata

from utils.data import image_names

DRIVE = re.compile(r"[A-Za-z]:/")


def plain(path: str) -> str:
    """A path with / between its parts, as Windows accepts it too, and with accents composed (NFC):
    a Mac decomposes them (NFD) in the names of files."""
    return unicodedata.normalize("NFC", path.replace("\\", "/"))


def is_absolute(path: str) -> bool:
    """Whether a plain path begins at the root of a disk, of this machine or of Windows."""
    return path.startswith("/") or DRIVE.match(path) is not None


def parts(path: str) -> tuple[str, ...]:
    """The names that a plain path consists of, and the root first if it is absolute."""
    root = path[:1] if path.startswith("/") else ""
    names = [name for name in path.split("/") if name not in ("", ".")]
    return (root, *names) if root else tuple(names)


def has_suffix(path: str) -> bool:
    """Whether a path ends like an image file. The keys of some metadata leave the suffix out."""
    return image_names.has_suffix(path)


def without_suffix(path: str) -> str:
    """A path without the suffix of an image file."""
    return os.path.splitext(path)[0] if has_suffix(path) else path
