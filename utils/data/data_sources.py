"""What --instance_data_dir and --val_dir name: a folder of images, or files that hold images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from utils.data import arrow_folders, image_names, image_sets, parquet_files, tar_shards
from utils.data.caption_files import Captions, say_faults
from utils.data.field_names import USUAL, Columns
from utils.data.image_sets import ImageSet
from utils.files import folder_kinds
from utils.runtime.errors import UsageError

Say = Callable[[str], None]
Listed = tuple[ImageSet, Captions]

# Files that are given as data and are none: (suffixes, what such a file is, what to do)
OTHER_FILES = (
    ((".zip", ".7z", ".rar"), "an archive", "unpack it and give the folder"),
    ((".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".gz"), "compressed", "unpack it and give the tar"),
    (
        (".safetensors", ".ckpt", ".pt", ".pth", ".bin", ".gguf", ".onnx"),
        "a file of weights",
        "give a folder of images; a model goes to the flag of the model",
    ),
    (
        (".json", ".jsonl", ".csv", ".tsv", ".txt"),
        "a file of text",
        "give the folder of the images that it names",
    ),
    ((".arrow",), "a part of a data set", "give its folder, with dataset_info.json and state.json"),
)


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


def _require_no_other_file(flag: str, source: str | Path) -> None:
    """Raise UsageError for a file that holds no images; it says what the file is."""
    path = Path(source)
    if not path.is_file():
        return
    name = path.name.lower()
    if image_names.has_suffix(name):
        raise UsageError(f"{flag}={str(source)!r} is one image; give its folder")
    for suffixes, kind, advice in OTHER_FILES:
        if name.endswith(suffixes):
            raise UsageError(f"{flag}={str(source)!r} is {kind}; {advice}")
    raise UsageError(
        f"{flag}={str(source)!r} is a file that is not understood; give a folder of images, tar"
        " files, or Parquet files with pictures"
    )


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
        _require_no_other_file(flag, source)
        images, captions = image_sets.list_images(flag, source, measured=measured), None
    else:
        images, captions = kind.list_images(flag, source, columns, say)
    image_sets.say_left_out(flag, images, say)
    return images, captions
