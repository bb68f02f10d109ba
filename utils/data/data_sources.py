"""What --instance_data_dir and --val_dir name: a folder of images, or files that hold images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from utils.data import arrow_folders, image_sets, parquet_files, tar_shards
from utils.data.caption_files import Captions, say_faults
from utils.data.field_names import USUAL, Columns
from utils.data.image_sets import ImageSet
from utils.files import folder_kinds

Say = Callable[[str], None]
Listed = tuple[ImageSet, Captions]

# in errors
ACCEPTED = "a folder of images, tar files, or Parquet files with pictures"


@dataclass(frozen=True)
class HoldingFiles:
    """A kind of files that hold images and captions, a line of HOLDING_FILES."""

    # whether a data source is of this kind; it need not exist
    recognise: Callable[[str | Path], bool]
    # (flag, source, columns that the user names, prints a line) -> images, {key: captions} of those
    # that have captions; UsageError, DataError
    list_images: Callable[[str, str | Path, Columns, Say], Listed]


def _tars(flag: str, source: str | Path, columns: Columns, say: Say) -> Listed:
    images, captions = tar_shards.list_shards(flag, source, columns)
    say_faults(captions, say)
    return images, captions


def _arrow(flag: str, source: str | Path, columns: Columns, say: Say) -> Listed:
    return arrow_folders.list_arrow_folder(flag, source, columns=columns, say=say)


def _parquet(flag: str, source: str | Path, columns: Columns, say: Say) -> Listed:
    return parquet_files.list_parquet(flag, source, columns=columns, say=say)


# the first that recognises a source lists it
HOLDING_FILES: tuple[HoldingFiles, ...] = (
    HoldingFiles(tar_shards.is_shards, _tars),
    HoldingFiles(arrow_folders.is_arrow_folder, _arrow),
    HoldingFiles(parquet_files.is_parquet, _parquet),
)


def holding_files(source: str | Path) -> HoldingFiles | None:
    """The kind of files with images that a data source is; None for a folder of images."""
    return next((kind for kind in HOLDING_FILES if kind.recognise(source)), None)


def list_data(
    flag: str,
    source: str | Path,
    *,
    measured: bool = False,
    columns: Columns = USUAL,
    say: Say = lambda line: None,
) -> tuple[ImageSet, Captions | None]:
    """The images of a data source, and the captions that are stored with them.

    measured: as in `image_sets.list_images`; columns: of tables, those that the user names; say:
    prints a line of what was recognised. UsageError, which names `flag`, or DataError if the source
    holds no images or cannot be read. Returns: images; {key: captions} of those that have captions
    in their file, None for a folder of images."""
    # before a table or a tar file in it is taken for data
    folder_kinds.require_pictures(flag, source)
    if line := folder_kinds.training_note(flag, source):
        say(line)
    kind = holding_files(source)
    if kind is None:
        images = image_sets.list_images(flag, source, measured=measured, accepted=ACCEPTED)
        captions = None
    else:
        images, captions = kind.list_images(flag, source, columns, say)
    image_sets.say_left_out(flag, images, say)
    return images, captions
