"""Which image of a folder each key of a file names; keys are paths as somebody wrote them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from utils.data import path_forms
from utils.runtime.errors import DataError


class _Endings:
    """Image paths, indexed by their endings: a tree of path components, starting from the last
    one. The last one stands in it with and without its suffix."""

    def __init__(self, images: dict[str, tuple[str, ...]]) -> None:
        self._tree: dict[str | None, Any] = {}  # None: list of the images below this node
        for image, parts in images.items():
            for last in {parts[-1], path_forms.without_suffix(parts[-1])}:
                node = self._tree
                for part in (last, *reversed(parts[:-1])):
                    node = node.setdefault(part, {})
                    node.setdefault(None, []).append(image)

    def longest(self, key: str) -> tuple[int, list[str]]:
        """The images whose paths share the most trailing components with a key.

        A relative key must match with all its components. Returns: (number of components,
        images)."""
        form = path_forms.plain(key)
        parts, node, length = path_forms.parts(form), self._tree, 0
        for part in reversed(parts):
            if part not in node:
                break
            node, length = node[part], length + 1
        least = 1 if path_forms.is_absolute(form) else len(parts)
        return length, node[None] if length and length >= least else []


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


def _located(
    key: str, wanted: Mapping[str, list[str]], root: Path, beside: Path
) -> list[str] | None:
    """The images at the path that a key is: absolute, below the folder or below that of the file.

    wanted: {absolute path: images}."""
    places = [Path(key)] if Path(key).is_absolute() else [root / key, beside / key]
    # `..` in a key is resolved
    candidates = [Path(os.path.normpath(place)).as_posix() for place in places]
    return next((wanted[c] for c in candidates if c in wanted), None)


def _add_match(path: str | Path, matches: dict[str, str], image: str, key: str) -> None:
    """Note the key of an image; DataError if it has another one, whose captions would be lost."""
    if matches.setdefault(image, key) != key:
        raise DataError(
            f"{path}: {matches[image]!r} and {key!r} both name the image {image!r}; keep one"
        )


def _otherwise_written(
    path: str | Path,
    keys: Iterable[str],
    matches: dict[str, str],
    folders: tuple[Path, Path],
    image_keys: Sequence[str],
) -> list[str]:
    """Add to `matches` the keys that are an image's path written otherwise: with backslashes, with
    accents composed or decomposed, or without the suffix of the image.

    folders: of the images, and of the file. Returns: the keys that are not."""
    root, beside = (Path(path_forms.plain(folder.as_posix())) for folder in folders)
    wanted: dict[str, list[str]] = {}
    for image in image_keys:
        place = (root / path_forms.plain(image)).as_posix()
        for form in {place, path_forms.without_suffix(place)}:
            wanted.setdefault(form, []).append(image)
    rest = []
    for key in keys:
        images = _located(path_forms.plain(key), wanted, root, beside)
        if images is None:
            rest.append(key)
            continue
        if len(images) > 1:
            raise DataError(f"{path}: {key!r} may be the image {images[0]!r} or {images[1]!r}")
        _add_match(path, matches, images[0], key)
    return rest


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
    matches: dict[str, str] = {}
    rest = []
    wanted = {(root / k).as_posix(): [k] for k in image_keys}
    for key in keys:
        image = _located(key, wanted, root, beside)
        if image is None:
            rest.append(key)
        else:
            _add_match(path, matches, image[0], key)
    foreign = _otherwise_written(path, rest, matches, (root, beside), image_keys) if rest else []
    if not anywhere:
        foreign = [key for key in foreign if path_forms.is_absolute(path_forms.plain(key))]
    unmatched = {
        k: path_forms.parts(path_forms.plain((root / k).as_posix()))
        for k in (image_keys if foreign else ())
        if k not in matches
    }
    by_ending = _foreign_matches(path, foreign, unmatched) if foreign else {}
    return matches | by_ending, len(by_ending)
