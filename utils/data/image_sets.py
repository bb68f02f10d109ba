"""Image sets: the images below a folder, in natural order, each with its relative path as its
key."""

from __future__ import annotations

import hashlib
import io
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from PIL import Image

from utils.data import content_stamps, folder_walk, image_names, other_files
from utils.data.image_files import open_image
from utils.data.image_names import LeftOut
from utils.data.image_storage import CHANGED, ByteRanges, ChangedError, Storage
from utils.files import folder_kinds
from utils.files.downloads import Address
from utils.runtime.errors import DataError, UnreadError, UsageError

SPAN = 256  # images that a thread reads for one task: a task an image would take gigabytes

BadImages = tuple[tuple[str, str], ...]  # (key, reason) of each


def natural_key(path: str | Path) -> tuple[list[tuple[int, int, str]], str]:
    """Sort key that orders runs of digits by their value: 2.png comes before 10.png.

    The text itself is the last part of the key, so that no two paths are equal."""
    text = path.as_posix() if isinstance(path, Path) else str(path)
    return [
        (0, int(part), "") if part.isascii() and part.isdigit() else (1, 0, part)
        for part in re.split(r"([0-9]+)", text)
        if part
    ], text


@dataclass(frozen=True)
class ImageSet:
    """Images below a folder. They are files of their own, or lie inside larger files (see
    `image_storage`), on this machine or at an https address."""

    root: Path | Address
    keys: tuple[str, ...]  # relative paths with /, natural order
    sizes: tuple[int, ...]  # of the images, in bytes
    bad: BadImages = ()  # images that are not in `keys`, because they cannot be read
    # of images inside larger files: (file below root, where in the file); else empty
    places: tuple[tuple[str, int], ...] = ()
    storage: Storage = ByteRanges()  # how images are read that have places
    # keys of images that have changed since they were listed; they are not opened
    changed: frozenset[str] = frozenset()
    left_out: LeftOut = ()  # other files that lie beside the images, by kind
    # {folder: class of the images in it}, of folders whose name says more than the class
    classes: Mapping[str, str] = field(default_factory=dict)
    # {key: `content`} of images that were asked for; sets that are made of this one share it
    contents: dict[str, bytes] = field(default_factory=dict, compare=False, repr=False)
    # (width, height) in pixels, as they are opened; of images that `readable` has read, else empty
    shapes: tuple[tuple[int, int], ...] = ()

    def __len__(self) -> int:
        return len(self.keys)

    def path(self, index: int) -> Path | Address:
        """The file that holds the image."""
        return self.root / (self.places[index][0] if self.places else self.keys[index])

    def open(self, index: int, *, at_least: int | None = None) -> Image.Image:
        """Read an image as PIL RGB, see `image_files.open_image`.

        DataError with the reason if it cannot be read or has changed; UnreadError if the disk or
        the server fails."""
        name = self.root / self.keys[index]
        if self.keys[index] in self.changed:
            raise DataError(f"{name}: {CHANGED}")
        if not self.places:
            return open_image(self.path(index), at_least=at_least)
        return open_image(io.BytesIO(self._bytes(index)), name=name, at_least=at_least)

    def _bytes(self, index: int) -> bytes:
        """The bytes of an image inside a larger file. UnreadError if that file is gone, or the disk
        or the server fails; DataError if it has changed."""
        path, (_, at), size = self.path(index), self.places[index], self.sizes[index]
        name = self.root / self.keys[index]
        try:
            return self.storage.read(path, at, size)
        except OSError as error:
            raise UnreadError(f"{name}: {error.strerror}") from None
        except ChangedError as error:
            raise DataError(f"{name}: {error}") from None
        except DataError as error:
            raise UnreadError(f"{name}: {str(error).removeprefix(f'{path}: ')}") from None

    def shape(self, index: int) -> tuple[int, int]:
        """(width, height) of an image in pixels, as it is opened; errors as of `open`."""
        return self.shapes[index] if self.shapes else self.open(index).size

    def stamp(self, index: int) -> int:
        """Time of the last change of the image's file, in ns."""
        return os.stat(self.path(index)).st_mtime_ns

    def content(self, index: int) -> bytes:
        """A stamp of what the image's file holds, see `content_stamps.stamp_of`, as it was when it
        was first asked for. Empty of a file that cannot be read, and below an Address, whose stamps
        the server gives."""
        key = self.keys[index]
        if key not in self.contents:
            self.contents[key] = self._content(index)
        return self.contents[key]

    def _content(self, index: int) -> bytes:
        path = self.path(index)
        if isinstance(path, Address):
            return b""
        if not self.places:
            return content_stamps.stamp_of(path)
        at = self.places[index][1]
        if isinstance(self.storage, ByteRanges):
            return content_stamps.stamp_of(path, first=at, size=self.sizes[index])
        # where an image lies is known to its storage alone: any change of the file counts
        return content_stamps.stamp_of_file(path) + b"%d" % at

    @property
    def content_fingerprint(self) -> str:
        """SHA-256 over the `content` of all images in order, in hexadecimal."""
        digest = hashlib.sha256()
        for index in range(len(self)):
            digest.update(self.content(index) or b"-")
        return digest.hexdigest()

    def take(self, indices: Sequence[int] | np.ndarray) -> ImageSet:
        """The set of the images at `indices`, in that order."""
        return replace(
            self,
            keys=tuple(self.keys[i] for i in indices),
            sizes=tuple(self.sizes[i] for i in indices),
            places=tuple(self.places[i] for i in indices) if self.places else (),
            shapes=tuple(self.shapes[i] for i in indices) if self.shapes else (),
        )

    @property
    def fingerprint(self) -> str:
        """SHA-256 over (relative path, size in bytes) in order, in hexadecimal; contents are not
        read."""
        digest = hashlib.sha256()
        for key, size in zip(self.keys, self.sizes, strict=True):
            digest.update(f"{key}\0{size}\n".encode("utf-8", "surrogateescape"))
        return digest.hexdigest()


# Listing ------------------------------------------------------------------------------------------


def list_images(
    flag: str, root: str | Path, *, measured: bool = False, accepted: str = "a folder of images"
) -> ImageSet:
    """All images below a folder, at any depth, in natural order.

    Images in an index, or in the output of --dedup, are skipped.
    measured: skip also what stages write below a folder that is measured: evaluations, generations,
    checkpoints and states;
    accepted: what the flag takes, for the error about a file.
    UsageError, which names `flag`, if there are no images, or if the folder is a run, an
    evaluation, an index or another output that is no generation."""
    root = other_files.require_folder(flag, root, accepted=accepted)
    folder_kinds.require_pictures(flag, root)
    try:
        found = folder_walk.walk(root, skip=measured)
    except OSError as error:  # no permission
        raise UsageError(
            f"{flag}={str(root)!r}: {error.filename!r} cannot be read ({error.strerror})"
        ) from None
    left_out = image_names.counted(found.left_out)
    if not found.images:
        raise no_images(flag, root, found.bad, left_out, accepted="a folder with")
    images = sorted(found.images, key=lambda image: natural_key(image[0]))
    return ImageSet(
        root,
        tuple(key for key, _ in images),
        tuple(size for _, size in images),
        bad=tuple(sorted(found.bad, key=lambda pair: natural_key(pair[0]))),
        left_out=left_out,
    )


def no_images(
    flag: str,
    source: str | Path,
    bad: Sequence[tuple[str, str]],
    left_out: LeftOut,
    *,
    accepted: str,
) -> UsageError:
    """The error about a data source without an image, which names what it holds instead."""
    found = [f"{bad[0][0]!r} {bad[0][1]}"] if bad else []
    found += [f"left out: {image_names.in_words(left_out)}"] if left_out else []
    return UsageError(
        f"{flag}={str(source)!r} holds no images{''.join(f' ({text})' for text in found)}; use"
        f" {accepted} {image_names.accepted()} files"
    )


def say_left_out(flag: str, images: ImageSet, say: Callable[[str], None]) -> None:
    """Say what was found where images were listed, if files were left out that are neither images
    nor texts. say: prints a line."""
    if images.left_out:
        read, others = len(images), sum(count for _, count in images.left_out)
        seen = read + len(images.bad) + others
        say(
            f"{flag}={str(images.root)!r}: {seen:,} files, {read:,} images; left out:"
            f" {image_names.in_words(images.left_out)}"
        )


# Checking -----------------------------------------------------------------------------------------


def _read(images: ImageSet, index: int) -> tuple[int, int] | str:
    """(width, height) of an image, or why it cannot be read. UnreadError if the disk fails."""
    try:
        return images.open(index).size
    except UnreadError:
        raise
    except DataError as error:
        return str(error).removeprefix(f"{images.root / images.keys[index]}: ")


def require_readable(
    flag: str, images: ImageSet, bad: Iterable[tuple[str, str]], *, max_bad: float
) -> None:
    """Raise UsageError if more than the share `max_bad` of a set's images cannot be read, or all of
    them.

    One bad image is always accepted if another image can be read.
    bad: (key, reason) of images that cannot be read; those in `images.bad` are added to them;
    max_bad: in [0, 1]."""
    bad, total = (*images.bad, *bad), len(images) + len(images.bad)
    accepted = int(max(1, max_bad * total))
    if len(bad) > accepted or len(bad) == total:
        raise UsageError(
            f"{flag}={str(images.root)!r} has {len(bad)} of {total} images that cannot be read,"
            f" first {bad[0][0]!r} ({bad[0][1]}); --max_bad_images={max_bad} accepts {accepted}"
        )


def readable(
    flag: str,
    images: ImageSet,
    *,
    max_bad: float,
    workers: int,
    show: Callable[[list[range]], Iterable[range]] = lambda spans: spans,
) -> ImageSet:
    """The set of the images that can be read, with their `shapes`; the others are added to its
    `bad`.

    Every image is decoded once. UsageError as in `require_readable`; UnreadError if the disk fails,
    which says nothing about an image.
    max_bad: share of images that may be bad, in [0, 1];
    workers: number of threads;
    show: wraps the list of spans of SPAN images, for a progress bar."""
    spans = [range(first, min(first + SPAN, len(images))) for first in range(0, len(images), SPAN)]
    with ThreadPoolExecutor(max(1, workers)) as pool:
        results = pool.map(lambda span: [_read(images, i) for i in span], spans)
        read = [each for _span, part in zip(show(spans), results, strict=True) for each in part]
    bad = tuple((k, r) for k, r in zip(images.keys, read, strict=True) if isinstance(r, str))
    require_readable(flag, images, bad, max_bad=max_bad)
    kept = images.take([i for i, r in enumerate(read) if not isinstance(r, str)])
    shapes = tuple(r for r in read if not isinstance(r, str))
    return replace(kept, bad=(*images.bad, *bad), shapes=shapes)
