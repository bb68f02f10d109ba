"""What --instance_data_dir and --val_dir name: a folder of images, or files that hold images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from utils.data import image_sets, tar_shards
from utils.data.caption_files import Captions
from utils.data.image_sets import ImageSet


@dataclass(frozen=True)
class HoldingFiles:
    """A kind of files that hold images and captions, a line of HOLDING_FILES."""

    # whether a data source is of this kind; it need not exist
    recognise: Callable[[str | Path], bool]
    # (flag, source) -> images, {key: captions} of those that have captions; UsageError, DataError
    list_images: Callable[[str, str | Path], tuple[ImageSet, Captions]]


# the first that recognises a source lists it
HOLDING_FILES: tuple[HoldingFiles, ...] = (
    HoldingFiles(tar_shards.is_shards, tar_shards.list_shards),
)


def holding_files(source: str | Path) -> HoldingFiles | None:
    """The kind of files with images that a data source is; None for a folder of images."""
    return next((kind for kind in HOLDING_FILES if kind.recognise(source)), None)


def list_data(
    flag: str, source: str | Path, *, measured: bool = False
) -> tuple[ImageSet, Captions | None]:
    """The images of a data source, and the captions that are stored with them.

    measured: as in `image_sets.list_images`. UsageError, which names `flag`, or DataError if the
    source holds no images or cannot be read. Returns: images; {key: captions} of those that have
    captions in their file, None for a folder of images."""
    kind = holding_files(source)
    if kind is None:
        return image_sets.list_images(flag, source, measured=measured), None
    return kind.list_images(flag, source)
