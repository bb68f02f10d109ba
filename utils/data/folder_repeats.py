"""Repeats in the names of folders: `10_cat`, as kohya's trainer reads it, holds images of the class
`cat` that are drawn 10 times as often as an image of weight 1."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from utils.data.caption_files import Captions
from utils.data.image_sets import ImageSet, natural_key

# repeats and class: a number that begins with 0, or has four digits as a year has, is no repeats
NAME = re.compile(r"([1-9][0-9]{0,2})_(.*\S)", re.S)
NUMBERED = 3  # folders that are numbered 1 to this or more have numbers, not repeats
SHOWN = 6  # folders that the line names
FLAG = "--no_folder_repeats"


@dataclass(frozen=True)
class FolderRepeats:
    """The folders of an image set, all of which are named <repeats>_<class>."""

    folders: Mapping[str, tuple[int, str]]  # {folder below the root: (repeats, class)}

    @property
    def classes(self) -> dict[str, str]:
        """{folder: class of its images}."""
        return {folder: name for folder, (_, name) in self.folders.items()}

    def weights(self, images: ImageSet) -> np.ndarray:
        """The repeats of each image as its weight in the draw. Returns: float64 [N]."""
        return np.array([self.folders[_folder(key)][0] for key in images.keys], float)

    def captions(self, images: ImageSet) -> Captions:
        """The class of each image as its one caption, as kohya's trainer uses it for images without
        a text of their own."""
        return {key: [self.folders[_folder(key)][1]] for key in images.keys}

    @property
    def line(self) -> str:
        """What was recognised, in one line."""
        shown = [
            f"{folder!r} has weight {repeats} and class {name!r}"
            for folder, (repeats, name) in list(self.folders.items())[:SHOWN]
        ]
        more = len(self.folders) - len(shown)
        others = f", and {more} more" if more else ""
        alike = len({repeats for repeats, _ in self.folders.values()}) == 1
        effect = "; equal weights change no draw" if alike else ""
        return (
            f"folders are named <repeats>_<class>: {', '.join(shown)}{others}{effect}; {FLAG} takes"
            " the names as they are"
        )


def _folder(key: str) -> str:
    """The folder of an image, below the root of its set."""
    return key.rpartition("/")[0]


def _parsed(folder: str) -> tuple[int, str] | None:
    """Repeats and class in the name of a folder; None if it is not named so."""
    found = NAME.fullmatch(folder.rpartition("/")[2])
    return (int(found[1]), found[2].strip()) if found else None


def find(images: ImageSet) -> tuple[FolderRepeats | None, str]:
    """The repeats that the folders of an image set are named with.

    They count if every image lies in a folder named so, and the numbers do not count the folders
    from 1 on, as classes are numbered. Images in tar files and tables have none.
    Returns: the repeats, or None; a line for the user, or ""."""
    if images.places:
        return None, ""
    folders = sorted({_folder(key) for key in images.keys}, key=natural_key)
    parsed = {folder: _parsed(folder) for folder in folders}
    named = {folder: found for folder, found in parsed.items() if found is not None}
    if not named:
        return None, ""
    if len(named) < len(folders):
        other = next(folder for folder, found in parsed.items() if found is None)
        where = f"{other!r} is not" if other else "images at the top are in none"
        return None, (
            f"{len(named)} of {len(folders)} folders are named like <repeats>_<class>, and {where}:"
            " no name is read as repeats"
        )
    numbers = sorted(repeats for repeats, _ in named.values())
    if len(numbers) >= NUMBERED and numbers == list(range(1, len(numbers) + 1)):
        return None, (
            f"folders are numbered 1 to {len(numbers)}: the numbers are taken for a part of the"
            " classes' names, not for repeats; for weights give --weights_file"
        )
    repeats = FolderRepeats(named)
    return repeats, repeats.line


def may_name(folder: str | Path) -> bool:
    """Whether a folder at any depth below `folder` is named <repeats>_<class>. Names alone are
    listed."""
    return any(
        _parsed(name) is not None for _place, inside, _files in os.walk(folder) for name in inside
    )
