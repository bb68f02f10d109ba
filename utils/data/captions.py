"""Captions of training images: captions files, class names, and the prompt styles of
--class_prompt."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utils.data.caption_edits import RandomTokens, Tokenizer
from utils.data.image_sets import ImageSet, natural_key
from utils.files.whole_files import read_json
from utils.runtime import seeding
from utils.runtime.errors import DataError, UsageError

# captions that are drawn for an image under instancelevel_random without a file, and their length
RANDOM_CAPTIONS, RANDOM_CAPTION_TOKENS = 10, 4
# fields of a line of metadata.jsonl that may hold its caption; the hub's data sets use the first
JSONL_CAPTIONS = ("text", "caption")

Captions = dict[str, list[str]]  # {image key: captions}

# Imagenette's folders are WordNet ids
READABLE_CLASSES = {
    "n01440764": "tench",
    "n02102040": "English springer",
    "n02979186": "cassette player",
    "n03000684": "chain saw",
    "n03028079": "church",
    "n03394916": "French horn",
    "n03417042": "garbage truck",
    "n03425413": "gas pump",
    "n03445777": "golf ball",
    "n03888257": "parachute",
}


# Captions files -----------------------------------------------------------------------------------


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


# Classes ------------------------------------------------------------------------------------------


def class_of(key: str) -> str | None:
    """Readable class of an image: the name of the folder that holds it; None if it is in no folder.

    The innermost folder counts, so that DIR and DIR/train of the published layout give the same
    classes."""
    folder = key.rpartition("/")[0].rpartition("/")[2]
    return None if folder.endswith(".tar") else READABLE_CLASSES.get(folder, folder) or None


def class_names(images: ImageSet) -> list[str]:
    """Readable classes of an image set, in natural order."""
    return sorted({c for c in map(class_of, images.keys) if c is not None}, key=natural_key)


def empty_classes(images: ImageSet) -> list[str]:
    """Folders below the root that hold neither an image of the set nor another folder.

    Returns: relative paths, in natural order; none if the images lie in shards."""
    if images.places:
        return []
    used = {k.rpartition("/")[0] for k in images.keys}
    empty = []
    for folder, inside, _files in os.walk(images.root):
        inside[:] = [name for name in inside if not name.startswith(".")]
        key = os.path.relpath(folder, images.root).replace(os.sep, "/")
        if key != "." and not inside and key not in used:
            empty.append(key)
    return sorted(empty, key=natural_key)


# Prompt styles (--class_prompt) -------------------------------------------------------------------


@dataclass(frozen=True)
class PromptStyle:
    """What the prompts of images are, a line of PROMPT_STYLES."""

    # (images, captions or None, random tokens or None, seed) -> {image key: prompts}
    resolve: Callable[[ImageSet, Captions | None, RandomTokens | None, int], Captions]
    # whether it reads captions of the images, where there are any
    uses_captions: bool = False
    # whether it needs captions; they are text, which --trainspecial can edit
    needs_captions: bool = False
    # whether an image has no more than one caption
    one_caption: bool = False
    # whether `resolve` needs random tokens, and so the model's tokenizer
    needs_tokenizer: bool = False
    # whether a generation draws its prompts uniformly over images, not over distinct prompts
    drawn_by_image: bool = False
    # (images, captions or None) -> None; raises UsageError or DataError, before a model is loaded
    check: Callable[[ImageSet, Captions | None], None] | None = None


def _nolevel(
    images: ImageSet, captions: Captions | None, tokens: RandomTokens | None, seed: int
) -> Captions:
    return {k: ["An image"] for k in images.keys}


def _classlevel(
    images: ImageSet, captions: Captions | None, tokens: RandomTokens | None, seed: int
) -> Captions:
    loose = [k for k in images.keys if class_of(k) is None]
    if loose:
        raise UsageError(
            f"--class_prompt='classlevel' needs a folder for each class; {len(loose)} images of"
            f" {str(images.root)!r} are in no folder, first {loose[0]!r}"
        )
    return {k: [f"An image of {class_of(k)}"] for k in images.keys}


def _require_classes(images: ImageSet, captions: Captions | None) -> None:
    _classlevel(images, None, None, 0)


def _own_captions(
    images: ImageSet, captions: Captions | None, tokens: RandomTokens | None, seed: int
) -> Captions:
    # of the images of the set alone: a subset must not draw captions that it does not train on
    assert captions is not None
    return {k: captions[k] for k in images.keys}


def written_ids(caption: str) -> list[int]:
    """The token ids of a caption such as "[320, 1929, 7, 44]", a JSON list of integers; DataError
    for any other text."""
    try:
        ids = json.loads(caption)
    except ValueError:
        ids = None
    if not isinstance(ids, list) or not ids or not all(type(i) is int for i in ids):
        raise DataError(
            "--class_prompt='instancelevel_random' needs lists of token ids, not the caption"
            f" {caption!r}"
        )
    return ids


def parse_ids(caption: str, tokens: RandomTokens) -> list[int]:
    """The token ids of a caption, as `written_ids`; DataError for an id that the tokenizer does not
    have."""
    ids = written_ids(caption)
    wrong = [i for i in ids if i not in tokens.known]
    if wrong:
        raise DataError(
            f"the caption {caption!r} has the id {wrong[0]}, which the tokenizer does not have as a"
            " token"
        )
    return ids


def _random_ids(
    images: ImageSet, captions: Captions | None, tokens: RandomTokens | None, seed: int
) -> Captions:
    assert tokens is not None
    if captions is not None:
        return {k: [tokens.decode(parse_ids(c, tokens)) for c in captions[k]] for k in images.keys}

    def drawn(key: str) -> list[str]:
        # seeded by key, not by position: an image keeps its captions when others are added
        rng = seeding.numpy_rng(seed, "random-captions", *key.encode("utf-8", "surrogateescape"))
        return [tokens.draw(RANDOM_CAPTION_TOKENS, rng) for _ in range(RANDOM_CAPTIONS)]

    return {k: drawn(k) for k in images.keys}


def _require_written_ids(images: ImageSet, captions: Captions | None) -> None:
    # the tokenizer, which is loaded with the model, knows which ids exist
    for listed in (captions or {}).values():
        for caption in listed:
            written_ids(caption)


# --class_prompt -> what the prompts of the images are
PROMPT_STYLES: dict[str, PromptStyle] = {
    "nolevel": PromptStyle(_nolevel),
    "classlevel": PromptStyle(_classlevel, check=_require_classes),
    "instancelevel_blip": PromptStyle(
        _own_captions, uses_captions=True, needs_captions=True, drawn_by_image=True
    ),
    "instancelevel_ogcap": PromptStyle(
        _own_captions,
        uses_captions=True,
        needs_captions=True,
        one_caption=True,
        drawn_by_image=True,
    ),
    "instancelevel_random": PromptStyle(
        _random_ids,
        uses_captions=True,
        needs_tokenizer=True,
        drawn_by_image=True,
        check=_require_written_ids,
    ),
}


def resolve_prompts(
    style: str,
    images: ImageSet,
    *,
    captions: Captions | None = None,
    tokenizer: Tokenizer | None = None,
    seed: int = 0,
) -> Captions:
    """The prompts of every image under a prompt style; prompt 0 is the image's own.

    style: a key of PROMPT_STYLES;
    captions: of the images, for styles that use them;
    tokenizer: for styles that need one;
    seed: of random captions."""
    chosen, tokens = PROMPT_STYLES[style], None
    if chosen.needs_tokenizer:
        assert tokenizer is not None
        tokens = RandomTokens(tokenizer)
    return chosen.resolve(images, captions, tokens, seed)
