"""The formats of images that every stage reads, and which names are those of images: one list and
one rule for folders and tar files."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import cache

LeftOut = tuple[tuple[str, int], ...]  # (kind of file, how many), the most first

# Pillow's decoder -> endings of its files
FORMATS: dict[str, tuple[str, ...]] = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),  # and a camera's MPO
    "PNG": (".png",),
    "WEBP": (".webp",),
    "GIF": (".gif",),
    "BMP": (".bmp",),
    "TIFF": (".tif", ".tiff"),
    "AVIF": (".avif",),
    "HEIF": (".heic", ".heif", ".hif"),
}
# a decoder that may be absent -> what to do; its files are then left out
ABSENT = {
    "HEIF": "pip install pillow-heif reads them",
    "AVIF": "this build of Pillow has no decoder for them",
    "WEBP": "this build of Pillow has no decoder for them",
}
# files of captions and tables, which other readers look at
TEXTS = (".txt", ".caption", ".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet", ".md")
# what systems write beside images: a Mac's archives, Synology's and Windows' previews and bins
SYSTEM_FOLDERS = frozenset(
    ("__macosx", "@eadir", "#recycle", "$recycle.bin", "system volume information")
)
SYSTEM_FILES = frozenset(("thumbs.db", "ehthumbs.db", "desktop.ini"))
HIDDEN, OF_SYSTEMS = "hidden", "of the operating system"
MOST_KINDS = 6  # that a line names


@cache
def decoders() -> tuple[str, ...]:
    """The decoders of FORMATS that are installed, by Pillow's names."""
    from PIL import AvifImagePlugin, features

    AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # of a picture; pictures are read side by side
    optional = {"WEBP": features.check("webp"), "AVIF": features.check("avif")}
    optional["HEIF"] = _register_heif()
    return tuple(name for name in FORMATS if optional.get(name, True))


def _register_heif() -> bool:
    """Whether the package for HEIC is installed; Pillow then knows its decoder."""
    try:
        import pillow_heif
    except ImportError:
        return False
    pillow_heif.register_heif_opener(thumbnails=False)
    return True


@cache
def suffixes() -> tuple[str, ...]:
    """Endings of the names of images that can be read, in lower case."""
    return tuple(suffix for name in decoders() for suffix in FORMATS[name])


def has_suffix(name: str) -> bool:
    """Whether a name ends like that of an image that can be read."""
    return name.lower().endswith(suffixes())


def accepted() -> str:
    """The formats in words, for messages."""
    *first, last = decoders()
    return f"{', '.join(first)} or {last}"


def set_aside(path: str) -> str | None:
    """Why a file is no image of a set, whatever its ending: HIDDEN, if a part of its path begins
    with a dot, or OF_SYSTEMS. None for any other file.

    path: below the folder, or of a member of a tar file, with /."""
    for part in path.split("/"):
        if part.startswith(".") and part not in (".", ".."):
            return HIDDEN
        if part.lower() in SYSTEM_FOLDERS or part.lower() in SYSTEM_FILES:
            return OF_SYSTEMS
    return None


def kind_of(path: str) -> str | None:
    """What a file is counted as that is left out. None for an image, and for texts, which are read
    by others.

    path: as in `set_aside`."""
    aside = set_aside(path)
    if aside is not None:
        return aside
    if has_suffix(path) or path.lower().endswith(TEXTS):
        return None
    # the ending is a stranger's text
    ending = re.search(r"\.\w{1,9}$", path.rpartition("/")[2].lower())
    return ending[0] if ending else "without an ending"


def counted(kinds: Iterable[str] | Mapping[str, int]) -> LeftOut:
    """The kinds of files that are left out, the most frequent first."""
    return tuple(sorted(Counter(kinds).items(), key=lambda item: (-item[1], item[0])))


def in_words(left_out: LeftOut) -> str:
    """What is left out, such as "59 .xyz, 3 hidden"; "" for nothing."""
    reasons = {
        suffix: ABSENT[name]
        for name in FORMATS
        if name not in decoders()
        for suffix in FORMATS[name]
    }
    parts = [
        f"{count:,} {kind}" + (f" ({reasons[kind]})" if kind in reasons else "")
        for kind, count in left_out[:MOST_KINDS]
    ]
    others = sum(count for _, count in left_out[MOST_KINDS:])
    return ", ".join(parts + ([f"{others:,} of other kinds"] if others else []))
