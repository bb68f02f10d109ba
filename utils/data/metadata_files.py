"""Metadata of Hugging Face's `imagefolder`: tables beside the images, in their folder or in any
folder above them, with a row for each image, or for each caption of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from utils.data import caption_files
from utils.data.caption_files import Captions
from utils.data.field_names import USUAL, Columns
from utils.data.image_sets import ImageSet, natural_key
from utils.runtime.errors import DataError

NAMES = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
# folders that hold a part of a data set each; of several parts, one is trained on
SPLITS = (
    "train",
    "training",
    "test",
    "testing",
    "val",
    "valid",
    "validation",
    "dev",
    "eval",
    "evaluation",
)


def _folders(images: ImageSet) -> list[PurePosixPath]:
    """The folders of the images, and all above them up to the root, relative to it."""
    own = {PurePosixPath(key).parent for key in images.keys}
    everything = {*own, *(above for one in own for above in one.parents)}
    return sorted(everything, key=lambda folder: natural_key(str(folder)))


def find(images: ImageSet) -> list[Path]:
    """The metadata files of a folder of images, at any depth; no file is opened."""
    root = Path(str(images.root))
    paths = (root / folder / name for folder in _folders(images) for name in NAMES)
    return [path for path in paths if path.is_file()]


def _split(path: Path, root: Path) -> str | None:
    """The split that a metadata file belongs to: a folder above it; None if it is in none."""
    names = path.relative_to(root).parent.parts
    return next((name for name in names if name.lower() in SPLITS), None)


def _require_one_split(root: Path, files: Sequence[Path]) -> None:
    splits: dict[str, Path] = {}
    for path in files:
        split = _split(path, root)
        if split is not None:
            splits.setdefault(split, path)
    if len(splits) > 1:
        shown = " and ".join(repr(str(path.relative_to(root))) for path in splits.values())
        first = next(iter(splits.values())).parent
        raise DataError(
            f"{root}: holds captions of {len(splits)} splits, {shown}; give the folder of one of"
            f" them, such as {str(first)!r}"
        )


def _require_one_format(files: Sequence[Path]) -> None:
    folders: dict[Path, Path] = {}
    for path in files:
        other = folders.setdefault(path.parent, path)
        if other != path:
            raise DataError(f"{other} and {path.name!r} are both metadata of one folder; keep one")


def read(images: ImageSet, files: Sequence[Path], columns: Columns = USUAL) -> tuple[Captions, int]:
    """The captions of the images that metadata files name.

    A path in a file is relative to the folder of the file, to the root, or to any folder between
    an image and them. A file counts for the images below its folder.
    files: as `find` lists them; columns: with captions and paths.
    DataError for several splits, for two files of one folder, and for an image in two files.
    Returns: {image key: captions} in the order of the images; number of matches by the end of the
    path, see `key_matching.match_keys`."""
    root = Path(str(images.root))
    _require_one_split(root, files)
    _require_one_format(files)
    found: Captions = {}
    source: dict[str, Path] = {}
    foreign = 0
    for path in files:
        captions, by_ending = caption_files.captions_in(path, _below(images, root, path), columns)
        foreign += by_ending
        twice = next((key for key in captions if key in found), None)
        if twice is not None:
            raise DataError(f"{source[twice]} and {path} both name the image {twice!r}; keep one")
        found |= captions
        source |= dict.fromkeys(captions, path)
    return {key: found[key] for key in images.keys if key in found}, foreign


def _below(images: ImageSet, root: Path, path: Path) -> ImageSet:
    """The images below the folder of a metadata file."""
    folder = path.parent.relative_to(root).as_posix()
    if folder == ".":
        return images
    return images.take([i for i, k in enumerate(images.keys) if k.startswith(f"{folder}/")])
