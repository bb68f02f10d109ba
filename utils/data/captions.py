"""Prompts: captions files, class names, prompt styles, and which prompt an image of a generation
has."""

import json
import os
from pathlib import Path

from utils.data.caption_edits import RandomTokens
from utils.data.image_sets import natural_key
from utils.files.whole_files import read_json
from utils.runtime import seeding
from utils.runtime.errors import DataError, UsageError

RANDOM_CAPTIONS = 10  # alternatives an image under instancelevel_random without a file
RANDOM_CAPTION_TOKENS = 4
# of a line of metadata.jsonl; the first is the hub's usual name
JSONL_CAPTIONS = ("text", "caption")

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


def _as_list(path, key, value):
    captions = [value] if isinstance(value, str) else value
    if (
        not isinstance(captions, list)
        or not captions
        or not all(isinstance(c, str) for c in captions)
    ):
        raise DataError(
            f"{path}: {key!r} has {json.dumps(value)[:80]}; takes a caption or a list of captions"
        )
    return captions


def _foreign_matches(path, foreign, unmatched):
    """Match foreign keys to images by longest unique suffix of path components. Returns: {image
    key: file key}.

    A key and an image belong together when each is the other's longest match; a tie is an error. A
    relative key matches as a whole or not at all."""
    ending = {}  # a tree of path components from the last one on; None -> the images below a node
    for image, parts in unmatched.items():
        node = ending
        for part in reversed(parts):
            node = node.setdefault(part, {})
            node.setdefault(None, []).append(image)
    keys_of, ties = {}, []
    for key in foreign:
        parts, node, longest = Path(key).parts, ending, 0
        for part in reversed(parts):
            if part not in node:
                break
            node, longest = node[part], longest + 1
        whole = len(parts) if not Path(key).is_absolute() else 1
        best = node[None] if longest >= whole else []
        if len(best) > 1:
            ties.append((key, best))
        elif best:
            keys_of.setdefault(best[0], []).append((longest, key))
    found = {}
    for image, candidates in keys_of.items():
        longest = max(candidates)[0]
        best = [key for n, key in candidates if n == longest]
        if len(best) > 1:
            raise DataError(
                f"{path}: {best[0]!r} and {best[1]!r} both end like the image {image!r}"
            )
        found[image] = best[0]
    # a file may know more images than the folder: a tie matters where an image has no other key
    for key, images in ties:
        open_images = [image for image in images if image not in found]
        if open_images:
            raise DataError(
                f"{path}: {key!r} ends like {len(images)} images, {images[0]!r} and {images[1]!r}"
                " among them"
            )
    return found


def match_keys(path, keys, root, image_keys, *, anywhere=False):
    """Which key of a file at `path` stands for which image of the folder `root`.

    A key is relative to the folder, relative to the file, absolute, or a foreign absolute path that
    matches by its longest unique path suffix. anywhere: a relative key may also be relative to any
    folder above an image. DataError when a foreign key is ambiguous. Returns: ({image key: file
    key}, number of foreign matches)."""
    root, beside = Path(root).resolve(), Path(path).resolve().parent
    wanted = {(root / k).as_posix(): k for k in image_keys}
    found, foreign = {}, []
    for key in keys:
        places = [key] if Path(key).is_absolute() else [root / key, beside / key]
        # `..` in a key is resolved
        candidates = [Path(os.path.normpath(place)).as_posix() for place in places]
        image = next((wanted[c] for c in candidates if c in wanted), None)
        if image is not None:
            found.setdefault(image, key)
        elif anywhere or Path(key).is_absolute():
            foreign.append(key)
    unmatched = {k: (root / k).parts for k in image_keys if k not in found}
    matched = _foreign_matches(path, foreign, unmatched) if foreign else {}
    return found | matched, len(matched)


def _read_jsonl(path):
    data = {}
    try:
        # not splitlines: a caption may hold U+2028
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
                f"{path}: line {number} is {line[:60]!r}; takes an object with file_name and"
                f" {' or '.join(JSONL_CAPTIONS)}"
            ) from None
    return data


def read_captions(path, images):
    """Captions of an ImageSet from a JSON file (`--instance_prompt_loc`): path -> caption or list
    of captions.

    Or from a metadata.jsonl: a line an image, {"file_name": path, "text": caption or list}.
    DataError names how many images have none, and the first. Returns: ({image key: list}, number of
    foreign matches)."""
    path = Path(path)
    data = _read_jsonl(path) if path.suffix == ".jsonl" else read_json(path)
    if not isinstance(data, dict) or not data:
        raise DataError(f"{path}: holds no captions; takes JSON, image path -> list of captions")
    found, foreign = match_keys(path, data, images.root, images.keys)
    missing = [k for k in images.keys if k not in found]
    if missing:
        raise DataError(
            f"{path}: {len(missing)} of {len(images)} images have no caption, first {missing[0]!r}"
        )
    return {k: _as_list(path, found[k], data[found[k]]) for k in images.keys}, foreign


# Classes ------------------------------------------------------------------------------------------


def class_of(key):
    """Readable class of an image key: the folder it lies in; None for an image that lies in no
    folder.

    The folder next to the image, not the first one: so DIR and DIR/train of the published layout
    give the same classes."""
    folder = key.rpartition("/")[0].rpartition("/")[2]
    return None if folder.endswith(".tar") else READABLE_CLASSES.get(folder, folder) or None


def class_names(images):
    """Readable classes of an ImageSet in natural order."""
    return sorted({c for c in map(class_of, images.keys) if c is not None}, key=natural_key)


def empty_classes(images):
    """Folders below the root that hold neither an image of the set nor another folder, natural
    order of relative paths; none where the images lie in shards."""
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


# Prompt styles (--class_prompt): (images, captions, tokens, seed) -> {image key: list of prompts} -


def _nolevel(images, captions, tokens, seed):
    return {k: ["An image"] for k in images.keys}


def _classlevel(images, captions, tokens, seed):
    loose = [k for k in images.keys if class_of(k) is None]
    if loose:
        raise UsageError(
            f"--class_prompt='classlevel' takes a folder a class; {len(loose)} images of"
            f" {str(images.root)!r} lie in none, first {loose[0]!r}"
        )
    return {k: [f"An image of {class_of(k)}"] for k in images.keys}


def _own_captions(images, captions, tokens, seed):
    # of a subset, its own: nothing may be drawn that was not trained on
    return {k: captions[k] for k in images.keys}


def written_ids(caption):
    """Token ids written as a JSON list of integers, "[320, 1929, 7, 44]"; DataError on text."""
    try:
        ids = json.loads(caption)
    except ValueError:
        ids = None
    if not isinstance(ids, list) or not ids or not all(type(i) is int for i in ids):
        raise DataError(
            "--class_prompt='instancelevel_random' takes lists of token ids, got the caption"
            f" {caption!r}"
        )
    return ids


def parse_ids(caption, tokens):
    """`written_ids` that the tokenizer has; DataError on others."""
    ids = written_ids(caption)
    wrong = [i for i in ids if i not in tokens.known]
    if wrong:
        raise DataError(
            f"the caption {caption!r} has the id {wrong[0]}, which the tokenizer does not have as a"
            " token"
        )
    return ids


def _random_ids(images, captions, tokens, seed):
    if captions is not None:
        return {k: [tokens.decode(parse_ids(c, tokens)) for c in captions[k]] for k in images.keys}

    def drawn(key):
        # by key, not by position: an image keeps its captions when others are added
        rng = seeding.numpy_rng(seed, "random-captions", *key.encode("utf-8", "surrogateescape"))
        return [tokens.draw(RANDOM_CAPTION_TOKENS, rng) for _ in range(RANDOM_CAPTIONS)]

    return {k: drawn(k) for k in images.keys}


PROMPT_STYLES = {
    "nolevel": _nolevel,
    "classlevel": _classlevel,
    "instancelevel_blip": _own_captions,
    "instancelevel_ogcap": _own_captions,
    "instancelevel_random": _random_ids,
}
USES_CAPTIONS = ("instancelevel_blip", "instancelevel_ogcap", "instancelevel_random")


def resolve_prompts(style, images, *, captions=None, tokenizer=None, seed=0):
    """Every image's list of prompts under a style; prompt 0 is the image's own. Returns: {image
    key: list of str}."""
    tokens = RandomTokens(tokenizer) if style == "instancelevel_random" else None
    return PROMPT_STYLES[style](images, captions, tokens, seed)
