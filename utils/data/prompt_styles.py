"""Prompts of training images: class names, and the prompt styles of --class_prompt."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from utils.data.caption_edits import RandomTokens, Tokenizer
from utils.data.caption_files import Captions
from utils.data.image_sets import ImageSet, natural_key
from utils.runtime import seeding
from utils.runtime.errors import DataError, UsageError

# captions that are drawn for an image under instancelevel_random without a file, and their length
RANDOM_CAPTIONS, RANDOM_CAPTION_TOKENS = 10, 4
CAPTION = "{caption}"  # where the caption stands in --caption_template
HOLDING = (".tar", ".parquet", ".arrow")  # names of files with images, which are no classes
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


# Classes ------------------------------------------------------------------------------------------


def class_of(key: str, classes: Mapping[str, str] = MappingProxyType({})) -> str | None:
    """Readable class of an image: the name of the folder that holds it; None if it is in no folder.

    The innermost folder counts, so that DIR and DIR/train of the published layout give the same
    classes. classes: as `ImageSet.classes`."""
    place = key.rpartition("/")[0]
    if place in classes:
        return classes[place]
    folder = place.rpartition("/")[2]
    if folder.endswith(HOLDING):
        return None
    return READABLE_CLASSES.get(folder, folder) or None


def class_names(images: ImageSet) -> list[str]:
    """Readable classes of an image set, in natural order."""
    found = {class_of(key, images.classes) for key in images.keys}
    return sorted((name for name in found if name is not None), key=natural_key)


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
    # whether all images have one prompt, that of --instance_prompt where it is given
    one_prompt: bool = False
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


def class_prompt(name: str) -> str:
    """The prompt of a class under classlevel."""
    return f"An image of {name}"


def _classlevel(
    images: ImageSet, captions: Captions | None, tokens: RandomTokens | None, seed: int
) -> Captions:
    loose = [k for k in images.keys if class_of(k) is None]
    if loose:
        raise UsageError(
            f"--class_prompt='classlevel' needs a folder for each class; {len(loose)} images of"
            f" {str(images.root)!r} are in no folder, first {loose[0]!r}"
        )
    return {k: [class_prompt(str(class_of(k, images.classes)))] for k in images.keys}


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
    except (ValueError, RecursionError):
        ids = None
    if not isinstance(ids, list) or not ids or not all(type(i) is int for i in ids):
        raise DataError(
            "--class_prompt='instancelevel_random' needs lists of token ids, not the caption"
            f" {caption!r}"
        )
    return ids


def are_ids(captions: Captions) -> bool:
    """Whether the first caption of a set is a list of token ids, as `written_ids` reads it."""
    try:
        return bool(written_ids(next(iter(captions.values()))[0]))
    except (DataError, StopIteration):
        return False


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
    "nolevel": PromptStyle(_nolevel, one_prompt=True),
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
    template: str | None = None,
    prompt: str | None = None,
) -> Captions:
    """The prompts of every image under a prompt style; prompt 0 is the image's own.

    style: a key of PROMPT_STYLES;
    captions: of the images, for styles that use them;
    tokenizer: for styles that need one;
    seed: of random captions;
    template: --caption_template, a text with CAPTION in it, which each caption takes the place of
        under styles that use captions;
    prompt: --instance_prompt, of every image under styles with one prompt for all; None is
        "An image"."""
    chosen, tokens = PROMPT_STYLES[style], None
    if chosen.one_prompt and prompt is not None:
        return {key: [prompt] for key in images.keys}
    if chosen.needs_tokenizer:
        assert tokenizer is not None
        tokens = RandomTokens(tokenizer)
    resolved = chosen.resolve(images, captions, tokens, seed)
    if template is None or not chosen.uses_captions:
        return resolved
    return {k: [template.replace(CAPTION, one) for one in each] for k, each in resolved.items()}
