"""The small pictures that a memorization card shows."""

from __future__ import annotations

import io
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from PIL import Image

from utils.data.image_files import open_image
from utils.data.image_sets import ImageSet
from utils.runtime.errors import DataError

SIDE = 160  # pixels of the longer side
GREY = (200, 200, 200)  # stands for a picture that cannot be read
WORKERS = 4  # threads that read pictures


def _jpeg(image: Image.Image) -> bytes:
    image.thumbnail((SIDE, SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    return buffer.getvalue()


def _of_file(path: Path) -> bytes:
    try:
        return _jpeg(open_image(path, at_least=SIDE))
    except (DataError, OSError):
        return _jpeg(Image.new("RGB", (SIDE, SIDE), GREY))


def _of_set(images: ImageSet, index: int) -> bytes:
    try:
        return _jpeg(images.open(index, at_least=SIDE))
    except (DataError, OSError):
        return _jpeg(Image.new("RGB", (SIDE, SIDE), GREY))


def generated_pictures(places: Mapping[str, Path]) -> dict[str, bytes]:
    """Pictures of generated images, grey where one cannot be read. places: {name: file}."""
    with ThreadPoolExecutor(WORKERS) as pool:
        return dict(zip(places, pool.map(_of_file, places.values()), strict=True))


def training_pictures(images: ImageSet, names: Mapping[str, str]) -> dict[str, bytes]:
    """Pictures of training images, grey where one cannot be read or is not in the set.

    names: {key: name of its picture}."""
    places = {key: index for index, key in enumerate(images.keys)}
    grey = _jpeg(Image.new("RGB", (SIDE, SIDE), GREY))
    return {
        name: _of_set(images, places[key]) if key in places else grey for key, name in names.items()
    }
