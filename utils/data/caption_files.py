"""Captions files: which captions they hold, in all formats that people have them in."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from utils.data import tables
from utils.data.field_names import USUAL, Columns
from utils.data.image_sets import ImageSet
from utils.data.key_matching import match_keys
from utils.files import text_files
from utils.runtime.errors import DataError, first_line

NAMED = 5  # images without a caption that a message names

Captions = dict[str, list[str]]  # {image key: captions}


class StoredCaptions(Captions):
    """Captions that lie in one file with the images, {image key: captions}."""

    def __init__(self) -> None:
        super().__init__()
        # {image key: why it has no caption}, of images that a text could be meant for
        self.faults: dict[str, str] = {}

    def add(self, key: str, captions: Iterable[str], fault: str | None) -> None:
        """Add what is known of an image: its captions, or why it has none."""
        listed = list(captions)
        if listed:
            self[key] = listed
        if fault:
            self.faults[key] = fault


def faults_of(captions: Captions | None) -> dict[str, str]:
    """Why images have no caption, where that is known: {image key: reason}."""
    return captions.faults if isinstance(captions, StoredCaptions) else {}


def say_faults(captions: Captions | None, say: Callable[[str], None]) -> None:
    """Print a line if texts in one file with the images give no caption."""
    faults = faults_of(captions)
    if faults:
        key, reason = next(iter(faults.items()))
        say(f"{len(faults)} images have a text that cannot be used, first {key!r} ({reason})")


def _as_list(path: Path, key: str, value: Any) -> list[str]:
    """The captions of a key, which are a string or a list of strings; DataError otherwise."""
    captions = [value] if isinstance(value, str) else value
    if (
        not isinstance(captions, list)
        or not captions
        or not all(isinstance(c, str) for c in captions)
    ):
        raise DataError(
            f"{path}: {key!r} has {json.dumps(value, default=str)[:80]}; use a caption or a list"
            " of captions"
        )
    return captions


def _image_key(value: Any, place: str) -> str:
    """The path of an image in a row. Data sets with pictures in them hold it beside the bytes."""
    if isinstance(value, dict):
        value = value.get("path")
    if type(value) is int:
        return str(value)
    if not isinstance(value, str) or not value:
        raise DataError(f"{place}: {repr(value)[:60]} is no path of an image")
    return value


def _of_rows(rows: Iterable[tables.Row], columns: Columns) -> dict[str, Any]:
    """The entries of rows, each with an image and its caption; several rows of one image are
    joined. A row whose caption is null is left out."""
    entries: dict[str, Any] = {}
    for row in rows:
        image = _image_key(row.fields[columns.image_of(row.fields, row.place)], row.place)
        caption = row.fields[columns.caption_of(row.fields, row.place)]
        if caption is None:
            continue
        if image in entries:
            before = entries[image]
            caption = [
                *(before if isinstance(before, list) else [before]),
                *(caption if isinstance(caption, list) else [caption]),
            ]
        entries[image] = caption
    return entries


def _coco(path: Path, data: dict[str, Any]) -> Iterator[tables.Row]:
    """The rows of annotations of COCO: images with an id, captions with that of their image."""
    try:
        names = {image["id"]: image["file_name"] for image in data["images"]}
        for number, row in enumerate(data["annotations"]):
            fields = {"file_name": names[row["image_id"]], "text": row["caption"]}
            yield tables.Row(f"{path}: annotation {number}", fields)
    except (KeyError, TypeError) as error:
        raise DataError(
            f"{path}: is not whole as annotations of COCO ({first_line(repr(error))})"
        ) from None


def _of_object(path: Path, data: dict[str, Any], columns: Columns) -> dict[str, Any]:
    """The entries of a JSON object, image path -> captions; a value may be an object that holds
    the caption, too."""
    if isinstance(data.get("images"), list) and isinstance(data.get("annotations"), list):
        return _of_rows(_coco(path, data), USUAL)
    if not any(isinstance(value, dict) for value in data.values()):
        _require_no_columns(path, columns)
        return data
    return {
        key: value[columns.caption_of(value, f"{path}: {key!r}")]
        if isinstance(value, dict)
        else value
        for key, value in data.items()
    }


def _require_no_columns(path: Path, columns: Columns) -> None:
    for flag, name in columns.named():
        raise DataError(
            f"{flag}={name!r}: {path} has no columns, it is JSON of image path -> captions; leave"
            " the flag out"
        )


def read_file(path: str | Path, columns: Columns = USUAL) -> dict[str, Any]:
    """The entries of a captions file: {image path as it is written: caption or list of captions}.

    path: of a JSON file with such an object, with a list of objects, or with annotations of COCO;
    or of a table (JSON lines, CSV, Parquet) with a row for each image, or for each caption of it.
    columns: of a table, or of the objects.
    DataError if it has no entries. The values are not checked, see `first_caption`."""
    path = Path(path)
    if tables.is_table(path):
        data = _of_rows(tables.rows(path), columns)
    else:
        data = text_files.read_json(path, unique=True)
        if isinstance(data, list) and data and all(isinstance(row, dict) for row in data):
            data = _of_rows(tables.of_objects(path, data), columns)
        elif isinstance(data, dict):
            data = _of_object(path, data, columns)
    if not isinstance(data, dict) or not data:
        raise DataError(f"{path}: holds no captions; use JSON, image path -> list of captions")
    return data


def first_caption(path: str | Path, key: str, value: Any) -> str:
    """Caption 0 of an entry of the captions file at `path`; DataError if the value holds none."""
    return _as_list(Path(path), key, value)[0]


def foreign_line(count: int) -> str:
    """What is said of `count` foreign matches, see `match_keys`; "" for none."""
    if not count:
        return ""
    return (
        f"{count} captions have paths of another machine; they are matched by the end of the path"
    )


def captions_in(
    path: str | Path, images: ImageSet, columns: Columns = USUAL
) -> tuple[Captions, int]:
    """Captions of the images that a captions file names.

    path, columns: of a captions file, see `read_file`.
    Returns: {image key: captions} in the order of the images; number of foreign matches, see
    `match_keys`."""
    path, data = Path(path), read_file(path, columns)
    # paths of metadata are relative to any folder above the images
    matches, foreign = match_keys(
        path, data, images.root, images.keys, anywhere=tables.is_table(path)
    )
    named = [k for k in images.keys if k in matches]
    return {k: _as_list(path, matches[k], data[matches[k]]) for k in named}, foreign


def require_all(
    place: str | Path,
    captions: Captions,
    images: ImageSet,
    *,
    within: str = "",
    reasons: Mapping[str, str] | None = None,
    advice: str = "",
) -> Captions:
    """The captions of all images of a set; DataError that counts and names the images without one.

    place, within: where the captions lie, for the message;
    reasons: {image key: why it has none}, where that is known;
    advice: the end of the message."""
    missing = [key for key in images.keys if key not in captions]
    if missing:
        why = reasons or {}
        shown = [f"{k!r} ({why[k]})" if k in why else repr(k) for k in missing[:NAMED]]
        rest = len(missing) - len(shown)
        raise DataError(
            f"{place}: {len(missing)} of {len(images)} images have no caption"
            f"{f' in {within}' if within else ''}, first {', '.join(shown)}"
            f"{f' and {rest} more' if rest else ''}{f'; {advice}' if advice else ''}"
        )
    return {key: captions[key] for key in images.keys}


def read_captions(
    path: str | Path, images: ImageSet, columns: Columns = USUAL
) -> tuple[Captions, int]:
    """Captions of an image set from a file (--instance_prompt_loc).

    path, columns: of a captions file, see `read_file`.
    DataError says how many images have no caption, and names the first. Returns: {image key:
    captions}; number of foreign matches, see `match_keys`."""
    captions, foreign = captions_in(path, images, columns)
    return require_all(path, captions, images), foreign
