"""Captions files: which captions they hold, and to which image each belongs."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from utils.data.image_sets import ImageSet
from utils.files.whole_files import read_json
from utils.runtime.errors import DataError

# fields of a line of metadata.jsonl that may hold its caption; the hub's data sets use the first
JSONL_CAPTIONS = ("text", "caption")

Captions = dict[str, list[str]]  # {image key: captions}


def _as_list(path: Path, key: str, value: Any) -> list[str]:
    """The captions of a key, which are a string or a list of strings; DataError otherwise."""
    captions = [value] if isinstance(value, str) else value
    if (
        not isinstance(captions, list)
        or not captions
        or not all(isinstance(c, str) for c in captions)
    ):
        raise DataError(
            f"{path}: {key!r} has {json.dumps(value)[:80]}; use a caption or a list of captions"
        )
    return captions


class _Endings:
    """Image paths, indexed by their endings: a tree of path components, starting from the last
    one."""

    def __init__(self, images: dict[str, tuple[str, ...]]) -> None:
        self._tree: dict[str | None, Any] = {}  # None: list of the images below this node
        for image, parts in images.items():
            node = self._tree
            for part in reversed(parts):
                node = node.setdefault(part, {})
                node.setdefault(None, []).append(image)

    def longest(self, key: str) -> tuple[int, list[str]]:
        """The images whose paths share the most trailing components with a key.

        A relative key must match with all its components. Returns: (number of components,
        images)."""
        parts, node, length = Path(key).parts, self._tree, 0
        for part in reversed(parts):
            if part not in node:
                break
            node, length = node[part], length + 1
        least = 1 if Path(key).is_absolute() else len(parts)
        return length, node[None] if length >= least else []


def _foreign_matches(
    path: str | Path, foreign: Iterable[str], unmatched: dict[str, tuple[str, ...]]
) -> dict[str, str]:
    """Match keys to images by the longest path suffix that they share.

    A key and an image match if each is the other's longest match. DataError for a tie.
    foreign: keys of the file at `path`;
    unmatched: {image key: components of its path}.
    Returns: {image key: key of the file}."""
    endings = _Endings(unmatched)
    candidates: dict[str, list[tuple[int, str]]] = {}  # image: (components, key) of its matches
    ties = []
    for key in foreign:
        length, images = endings.longest(key)
        if len(images) > 1:
            ties.append((key, images))
        elif images:
            candidates.setdefault(images[0], []).append((length, key))
    matches = {}
    for image, pairs in candidates.items():
        longest = max(pairs)[0]
        best = [key for length, key in pairs if length == longest]
        if len(best) > 1:
            raise DataError(
                f"{path}: {best[0]!r} and {best[1]!r} both end like the image {image!r}"
            )
        matches[image] = best[0]
    # a file may name more images than the folder has: a tie matters only if it leaves an image
    # without a key
    for key, images in ties:
        if any(image not in matches for image in images):
            raise DataError(
                f"{path}: {key!r} ends like {len(images)} images, {images[0]!r} and {images[1]!r}"
                " among them"
            )
    return matches


def match_keys(
    path: str | Path,
    keys: Iterable[str],
    root: str | Path,
    image_keys: Sequence[str],
    *,
    anywhere: bool = False,
) -> tuple[dict[str, str], int]:
    """Match the keys of a file to the images of a folder.

    A key is a path: relative to the folder, relative to the file, absolute, or absolute on another
    machine. The last kind, here called foreign, matches by its longest unique path suffix.
    path: of the file, `keys` its keys;
    root: the folder, `image_keys` its images;
    anywhere: a relative key may also be relative to any folder above an image.
    DataError if a foreign key is ambiguous. Returns: {image key: key of the file}; number of
    foreign matches."""
    root, beside = Path(root).resolve(), Path(path).resolve().parent
    wanted = {(root / k).as_posix(): k for k in image_keys}
    matches: dict[str, str] = {}
    foreign = []
    for key in keys:
        places: list[Any] = [key] if Path(key).is_absolute() else [root / key, beside / key]
        # `..` in a key is resolved
        candidates = [Path(os.path.normpath(place)).as_posix() for place in places]
        image = next((wanted[c] for c in candidates if c in wanted), None)
        if image is not None:
            matches.setdefault(image, key)
        elif anywhere or Path(key).is_absolute():
            foreign.append(key)
    unmatched = {k: (root / k).parts for k in image_keys if k not in matches}
    by_ending = _foreign_matches(path, foreign, unmatched) if foreign else {}
    return matches | by_ending, len(by_ending)


def _read_jsonl(path: Path) -> dict[str, Any]:
    """Read a metadata.jsonl. Returns: {file name: caption or list}; DataError names a bad line."""
    data = {}
    try:
        # not splitlines(), which splits at U+2028, and a caption may hold that
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            data[row["file_name"]] = next(row[k] for k in JSONL_CAPTIONS if k in row)
        except (ValueError, KeyError, TypeError, StopIteration):
            raise DataError(
                f"{path}: line {number} is {line[:60]!r}; use an object with file_name and"
                f" {' or '.join(JSONL_CAPTIONS)}"
            ) from None
    return data


def read_file(path: str | Path) -> dict[str, Any]:
    """The entries of a captions file: {image path as it is written: caption or list of captions}.

    path: of a JSON file with such an object, or of a metadata.jsonl, which has a line for each
    image: {"file_name": path, "text": caption or list}.
    DataError if it has no entries. The values are not checked, see `first_caption`."""
    path = Path(path)
    data = _read_jsonl(path) if path.suffix == ".jsonl" else read_json(path)
    if not isinstance(data, dict) or not data:
        raise DataError(f"{path}: holds no captions; use JSON, image path -> list of captions")
    return data


def first_caption(path: str | Path, key: str, value: Any) -> str:
    """Caption 0 of an entry of the captions file at `path`; DataError if the value holds none."""
    return _as_list(Path(path), key, value)[0]


def read_captions(path: str | Path, images: ImageSet) -> tuple[Captions, int]:
    """Captions of an image set from a file (--instance_prompt_loc).

    path: of a captions file, see `read_file`.
    DataError says how many images have no caption. Returns: {image key: captions}; number of
    foreign matches, see `match_keys`."""
    path, data = Path(path), read_file(path)
    matches, foreign = match_keys(path, data, images.root, images.keys)
    missing = [k for k in images.keys if k not in matches]
    if missing:
        raise DataError(
            f"{path}: {len(missing)} of {len(images)} images have no caption, first {missing[0]!r}"
        )
    return {k: _as_list(path, matches[k], data[matches[k]]) for k in images.keys}, foreign
