"""The usual names of the columns that hold a caption, or the path of an image: one table for every
reader of captions and prompts, whatever the format of the file."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass

from utils.runtime.errors import DataError

# Best first: of several columns with such names, the first one of this list is read. Names are
# compared without case, and with _ for a blank or a hyphen: TEXT and "File Name" are found, too.
CAPTIONS = (
    "text",
    "caption",
    "prompt",
    "captions",
    "texts",
    "prompts",
    "txt",
    "sentence",
    "sentences",
    "description",
    "alt_text",
)
IMAGES = (
    "file_name",
    "image",
    "path",
    "filename",
    "image_path",
    "image_file",
    "image_file_name",
    "image_name",
    "file_path",
    "filepath",
    "file",
    "img",
    "key",
    "__key__",
)
SHOWN = 12  # names of columns that an error lists


def _plain(name: str) -> str:
    return name.strip().casefold().replace(" ", "_").replace("-", "_")


@functools.lru_cache(maxsize=256)  # the rows of a file have the same columns, mostly
def _usual(columns: tuple[str, ...], names: tuple[str, ...]) -> str | None:
    """The column whose name stands first in `names`; None if no column has such a name."""
    found = {_plain(column): column for column in columns}
    return next((found[name] for name in names if name in found), None)


def listed(columns: Iterable[str]) -> str:
    """The names of columns in words, for an error: the first SHOWN of them."""
    names = list(columns)
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{', '.join(repr(name) for name in names[:SHOWN])}{more}" if names else "none"


def _one_of(
    columns: tuple[str, ...], flag: str, name: str | None, usual: str | None, what: str, where: str
) -> str:
    """The column `name` that a flag names, else the one with a usual name; DataError lists the
    columns that there are. what: the column holds; where: what has the columns."""
    if name is not None and name not in columns:
        raise DataError(f"{flag}={name!r}: {where} has the columns {listed(columns)}; use one")
    found = usual if name is None else name
    if found is None:
        raise DataError(
            f"{where} has the columns {listed(columns)}; name the one with {what} by {flag}"
        )
    return found


def usual_caption(columns: Iterable[str], first: str = CAPTIONS[0]) -> str | None:
    """The column with a usual name of captions, `first` before the others; None if there is
    none."""
    return _usual(tuple(columns), (first, *CAPTIONS))


@dataclass(frozen=True)
class Columns:
    """The columns of captions files that the user names; None: one with a usual name."""

    caption: str | None = None  # --caption_column
    image: str | None = None  # --image_column

    def caption_of(self, columns: Iterable[str], where: str, first: str = CAPTIONS[0]) -> str:
        """The column of captions among `columns`; DataError lists the columns that there are.

        where: what has these columns, for the error; first: the best of the usual names."""
        columns = tuple(columns)
        usual = usual_caption(columns, first)
        return _one_of(columns, "--caption_column", self.caption, usual, "captions", where)

    def image_of(self, columns: Iterable[str], where: str) -> str:
        """The column of image paths among `columns`; DataError lists the columns that there are."""
        columns = tuple(columns)
        usual, what = _usual(columns, IMAGES), "the paths of the images"
        return _one_of(columns, "--image_column", self.image, usual, what, where)

    def named(self) -> list[tuple[str, str]]:
        """The flags that name a column: (flag, name) of each."""
        flags = (("--caption_column", self.caption), ("--image_column", self.image))
        return [(flag, name) for flag, name in flags if name is not None]

    def has_image(self, columns: Iterable[str]) -> bool:
        """Whether there is a column of image paths: the one that is named, or a usual one."""
        return self.image is not None or _usual(tuple(columns), IMAGES) is not None


USUAL = Columns()  # where the user names no column
