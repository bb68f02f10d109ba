"""Where captions lie in a folder of images when no captions file was named: the registry of
layouts.

A layout is an entry of LAYOUTS: it says which files of the folder hold its captions, and reads
them. The first layout in the registry that the folder has is used; a line names the others."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from utils.data import caption_files, metadata_files
from utils.data.caption_files import NAMED, Captions
from utils.data.field_names import USUAL, Columns
from utils.data.image_sets import ImageSet
from utils.files import text_files
from utils.runtime.errors import DataError, UsageError

CAPTIONS_JSON = "captions.json"
TEXT_SUFFIXES = (".txt", ".caption")  # of a text beside an image; the first goes before the second


@dataclass(frozen=True)
class Layout:
    """A way in which captions lie in a folder of images."""

    # for lines of text, as in "captions of 12 of 12 images are read from NAME"
    name: str
    # whether a file of this name, in small letters, may hold such captions
    may_hold: Callable[[str], bool]
    # the files of a folder that hold captions of its images; () where the folder has no such
    # layout. It lists names alone, so that it is quick.
    files: Callable[[ImageSet], Sequence[Path]]
    # (images, files, columns that the user names) -> captions of the images that have some, and
    # what to add to the line of what was recognised or ""; DataError for files that cannot be used
    read: Callable[[ImageSet, Sequence[Path], Columns], tuple[Captions, str]]


@dataclass(frozen=True)
class FoundCaptions:
    """Captions that lie beside the images of a set."""

    captions: Captions  # {image key: captions} of the images that have some
    layout: str  # its name
    line: str  # what was recognised, in one line


# Layouts ------------------------------------------------------------------------------------------


def _at_the_top(name: str) -> Callable[[ImageSet], Sequence[Path]]:
    """A function that finds the file of a name in the folder itself."""

    def files(images: ImageSet) -> Sequence[Path]:
        path = Path(str(images.root)) / name
        return (path,) if path.is_file() else ()

    return files


def _one_file(images: ImageSet, files: Sequence[Path], columns: Columns) -> tuple[Captions, str]:
    """Captions of the images that the one captions file names."""
    captions, foreign = caption_files.captions_in(files[0], images, columns)
    return captions, caption_files.foreign_line(foreign)


def _metadata(images: ImageSet, files: Sequence[Path], columns: Columns) -> tuple[Captions, str]:
    """Captions from the rows of metadata files."""
    captions, foreign = metadata_files.read(images, files, columns)
    names = [path.relative_to(str(images.root)).as_posix() for path in files]
    shown = ", ".join(names[:NAMED])
    if len(names) > NAMED:
        shown += f" and {len(names) - NAMED} more"
    return captions, "; ".join(filter(None, (shown, caption_files.foreign_line(foreign))))


def _names_in(folder: Path) -> dict[tuple[str, str], list[str]]:
    """The texts of a folder. Returns: {(stem, suffix in small letters): names}."""
    texts: dict[tuple[str, str], list[str]] = {}
    for name in sorted(os.listdir(folder)):
        stem, suffix = os.path.splitext(name)
        if suffix.lower() in TEXT_SUFFIXES:
            texts.setdefault((stem, suffix.lower()), []).append(name)
    return texts


def texts_beside(images: ImageSet) -> dict[str, list[Path]]:
    """The texts beside the images of a folder: files of TEXT_SUFFIXES that have the image's whole
    stem.

    Returns: {image key: its texts, in the order of TEXT_SUFFIXES}. Files whose names differ in the
    capitals of the suffix alone follow each other."""
    root, folders = Path(str(images.root)), {}
    found: dict[str, list[Path]] = {}
    for key in images.keys:
        folder, _, name = key.rpartition("/")
        if folder not in folders:
            folders[folder] = _names_in(root / folder) if (root / folder).is_dir() else {}
        stem = os.path.splitext(name)[0]
        names = [n for s in TEXT_SUFFIXES for n in folders[folder].get((stem, s), ())]
        if names:
            found[key] = [root / folder / n for n in names]
    return found


def captions_of_text(path: Path) -> list[str]:
    """The captions that a text beside an image holds: its lines that are not blank."""
    return [line.strip() for line in text_files.read_lines(path) if line.strip()]


def _files_beside(images: ImageSet) -> Sequence[Path]:
    return [path for paths in texts_beside(images).values() for path in paths]


def _read_beside(images: ImageSet, files: Sequence[Path], columns: Columns) -> tuple[Captions, str]:
    """Captions from the text beside each image. DataError where two texts claim one image with one
    suffix, or where the user names a column, which texts do not have."""
    for flag, name in columns.named():
        raise DataError(
            f"{flag}={name!r} names a column; the captions of {str(images.root)!r} are read from"
            f" texts, such as {files[0].name!r}; leave it out"
        )
    captions, both, blank = {}, 0, 0
    for key, paths in texts_beside(images).items():
        suffixes = {path.suffix.lower() for path in paths}
        if len(suffixes) < len(paths):
            raise DataError(f"{paths[0]} and {paths[1].name!r} are both texts of {key!r}; keep one")
        both += len(suffixes) > 1
        listed = captions_of_text(paths[0])
        if listed:
            captions[key] = listed
        blank += not listed
    first, second = TEXT_SUFFIXES
    remarks = [f"{both} images have {first} and {second}, and {first} is read"] if both else []
    remarks += [f"{blank} texts hold no caption"] if blank else []
    return captions, "; ".join(remarks)


# the first layout that a folder has is used
LAYOUTS: tuple[Layout, ...] = (
    Layout(
        " or ".join(metadata_files.NAMES),
        lambda name: name in metadata_files.NAMES,
        metadata_files.find,
        _metadata,
    ),
    Layout(CAPTIONS_JSON, CAPTIONS_JSON.__eq__, _at_the_top(CAPTIONS_JSON), _one_file),
    Layout(
        f"a text ({' or '.join(TEXT_SUFFIXES)}) beside each image",
        lambda name: name.endswith(TEXT_SUFFIXES),
        _files_beside,
        _read_beside,
    ),
)


# Finding ------------------------------------------------------------------------------------------


def may_hold(folder: str | Path) -> bool:
    """Whether a file anywhere below a folder has a name that a layout reads. The names alone are
    listed."""
    for _folder, inside, names in os.walk(folder):
        inside[:] = [name for name in inside if not name.startswith(".")]
        if any(layout.may_hold(name.lower()) for name in names for layout in LAYOUTS):
            return True
    return False


def none_found(prompt_style: str, folder: str) -> str:
    """The message when --class_prompt needs captions and there are none beside the images."""
    return (
        f"--class_prompt={prompt_style!r} needs --instance_prompt_loc, a captions file;"
        f" --instance_data_dir={folder!r} has none of: {', '.join(one.name for one in LAYOUTS)}"
    )


def present(images: ImageSet) -> str | None:
    """The name of the layout that `find` would read; None where there is none. The names of files
    alone are listed."""
    if images.places or not isinstance(images.root, Path):
        return None
    return next((layout.name for layout in LAYOUTS if layout.files(images)), None)


def find(images: ImageSet, columns: Columns = USUAL) -> FoundCaptions | None:
    """Captions that lie beside the images of a folder, by the first of LAYOUTS that it has.

    columns: that the user names.
    DataError for files that cannot be used. Returns: None where there is no layout, and for images
    inside tar files, which bring their captions with them."""
    if images.places or not isinstance(images.root, Path):
        return None
    present = [(layout, files) for layout in LAYOUTS if (files := layout.files(images))]
    if not present:
        return None
    layout, files = present[0]
    captions, remark = layout.read(images, files, columns)
    others = [f"{other.name} ({len(unread)} files)" for other, unread in present[1:]]
    line = f"captions of {len(captions)} of {len(images)} images are read from {layout.name}"
    if others:
        line += f"; not from {' and '.join(others)}, because {layout.name} goes first"
    return FoundCaptions(captions, layout.name, f"{line}; {remark}" if remark else line)


def find_or_say(images: ImageSet, say: Callable[[str], None], columns: Columns = USUAL) -> Captions:
    """Captions that lie beside the images, as `find`, where captions are welcome and not needed.

    say: prints the line of what was recognised, or why the captions cannot be used; with columns
        that the user names, that is an error.
    Returns: {image key: captions} of the images that have some; {} if there are none."""
    try:
        found = find(images, columns)
    except (DataError, UsageError) as error:
        if columns.named():  # what the user names is needed
            raise
        say(f"captions beside the images are not used: {error}")
        return {}
    if found is None:
        return {}
    say(found.line)
    return found.captions


def say_empty(captions: Iterable[Sequence[str]], say: Callable[[str], None]) -> None:
    """Print a line if captions are empty. captions: of each image."""
    counts = [sum(not caption.strip() for caption in listed) for listed in captions]
    if any(counts):
        say(
            f"{sum(counts)} captions of {sum(map(bool, counts))} images are empty; they stand for"
            " the empty prompt, as caption dropout uses it"
        )
