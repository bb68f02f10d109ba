"""The images that an index is built from: local tar files, tar files at https addresses, or a
folder. Each source cuts its images into shards and has a change stamp for each shard."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from utils.data import caption_files, caption_layouts, image_sets, tar_shards
from utils.data.field_names import USUAL, Columns
from utils.data.image_sets import ImageSet
from utils.files import downloads, whole_files
from utils.index import shard_files
from utils.retrieval import feature_cache
from utils.runtime.errors import DataError, UsageError, require_file

if TYPE_CHECKING:
    from utils.runtime.parallel import Say

# images of a folder in one shard: a killed build recomputes at most this many per process
FOLDER_SHARD = 10_000
NOT_UTF8 = "its name is not UTF-8"


class ShardImages(NamedTuple):
    """The images of one shard, before they are decoded."""

    images: ImageSet  # its `bad` are the images that are skipped
    rows: list[dict[str, Any]]  # what is known of each image, by shard_files.COLUMNS
    damage: str | None  # why the tar file cannot be read to its end; earlier images are kept
    # (key, reason) of images whose text in the tar file cannot be used
    caption_faults: tuple[tuple[str, str], ...] = ()


class ImageSource(Protocol):
    """Images in shards, each with a name."""

    from_tars: bool  # a shard is a tar file; else it is a part of a folder of images

    @property
    def folder(self) -> Path | downloads.Address:
        """The folder of the images or of the tar files."""

    @property
    def names(self) -> list[str]:
        """Names of the shards, in natural order."""

    def change_stamp(self, name: str) -> Mapping[str, Any]:
        """JSON types that differ when the images of a shard have changed. DataError when the tar
        file cannot be read."""

    def gone(self, names: Iterable[str]) -> list[str]:
        """The given shards, planned now or earlier, whose tar file no longer exists."""

    def content(self, name: str, scratch: Path) -> AbstractContextManager[ShardImages]:
        """The images of a shard, readable until the block ends. scratch: a folder for temporary
        files."""


def record_of(source: ImageSource) -> dict[str, Any]:
    """The record of a source in index.json, for vector_index.write_index."""
    return {"folder": str(source.folder), "shards": source.from_tars}


def _without_odd_names(images, rows):
    """Images and rows whose names Parquet can store; the other images move to `bad`. Returns:
    (ImageSet, [dict])."""
    valid = [i for i, key in enumerate(images.keys) if shard_files.is_utf8(key)]
    if len(valid) == len(images):
        return images, rows
    bad = tuple((key, NOT_UTF8) for key in images.keys if not shard_files.is_utf8(key))
    return replace(images.take(valid), bad=(*images.bad, *bad)), [rows[i] for i in valid]


def _tar_images(name, path):
    """ShardImages of the tar file at `path`, whose shard is called `name`."""
    content = tar_shards.read_shard(path, whole=False)
    bad = tuple((f"{name}.tar/{member}", reason) for member, reason in content.bad)
    rows = [
        {
            "key": f"{name}.tar/{member.name}",
            "caption": next(iter(member.known.captions), None) or None,
            "url": member.known.url,
            "bytes": member.size,
            "offset": member.offset,
        }
        for member in content.images
    ]
    images = ImageSet(
        path.parent,
        tuple(row["key"] for row in rows),
        tuple(row["bytes"] for row in rows),
        bad=bad,
        places=tuple((path.name, member.offset) for member in content.images),
        left_out=content.left_out,
    )
    images, rows = _without_odd_names(images, rows)
    faults = tuple(
        (f"{name}.tar/{member.name}", member.known.fault)
        for member in content.images
        if member.known.fault
    )
    return ShardImages(images, rows, content.damage, faults)


class TarSource:
    """Local tar files in one folder; each is a shard, named after its file."""

    from_tars = True

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = {p.name.removesuffix(".tar"): p for p in paths}
        self.folder, self.names = paths[0].parent.resolve(), list(self.paths)

    def change_stamp(self, name: str) -> Mapping[str, Any]:
        """Size, modification time and content of the tar file. DataError when it cannot be read."""
        try:
            return tar_shards.change_stamp(self.paths[name])
        except OSError as error:
            raise DataError(f"{self.paths[name]}: cannot be read ({error.strerror})") from None

    def gone(self, names: Iterable[str]) -> list[str]:
        """The given shards whose tar file no longer exists."""
        return [n for n in names if not (self.folder / f"{n}.tar").exists()]

    @contextlib.contextmanager
    def content(self, name: str, scratch: Path) -> Iterator[ShardImages]:
        """Yield the images of a shard; the tar file is read in place."""
        yield _tar_images(name, self.paths[name])


class AddressSource:
    """Tar files at https addresses in one folder. Each is a shard, which is downloaded to be read
    and then deleted."""

    from_tars = True

    def __init__(self, folder: downloads.Address, names: Sequence[str]) -> None:
        self.folder, self.names = folder, list(names)
        self._stamps: dict[str, downloads.Stamp] = {}  # of shards that `require_readable` asked for

    def require_readable(self, flag: str) -> None:
        """Raise UsageError unless the server answers for every address. The change stamps in its
        answers are kept. flag: the source, for the message."""
        answers = downloads.change_stamps(map(self._address, self.names))
        errors = [answer for answer in answers if isinstance(answer, DataError)]
        stamps = [answer for answer in answers if not isinstance(answer, DataError)]
        if errors:
            raise UsageError(
                f"{flag}: {len(errors)} of {len(answers)} addresses cannot be read, first"
                f" {errors[0]}"
            )
        self._stamps = dict(zip(self.names, stamps, strict=True))

    def _address(self, name):
        return self.folder / f"{name}.tar"

    def change_stamp(self, name: str) -> Mapping[str, Any]:
        """Length, ETag and date of the tar file: those that `require_readable` received, else those
        that the server answers now. DataError when it does not."""
        return self._stamps.get(name) or downloads.change_stamp(self._address(name))

    def gone(self, names: Iterable[str]) -> list[str]:
        """The given shards of which the server answers that they do not exist. A server that does
        not answer may have them."""
        names = list(names)
        answers = downloads.change_stamps(map(self._address, names))
        return [
            name
            for name, answer in zip(names, answers, strict=True)
            if isinstance(answer, downloads.GoneError)
        ]

    @contextlib.contextmanager
    def content(self, name: str, scratch: Path) -> Iterator[ShardImages]:
        """Yield the images of a shard; the tar file is in `scratch` until the block ends."""
        scratch.mkdir(parents=True, exist_ok=True)
        # the next build removes the file if this process is killed
        path = scratch / f".{name}.tar.{os.getpid()}.part"
        try:
            downloads.fetch(self._address(name), path, size=self.change_stamp(name)["bytes"])
            content = _tar_images(name, path)
            # a login page or a dead link
            if content.damage and not content.rows and not content.images.bad:
                raise DataError(f"{self._address(name)}: is not a tar file ({content.damage})")
            yield content
        finally:
            path.unlink(missing_ok=True)


class FolderSource:
    """A folder of images, cut into numbered shards of FOLDER_SHARD consecutive images in natural
    order."""

    from_tars = False

    def __init__(
        self,
        images: ImageSet,
        captions_file: str | Path | None = None,
        *,
        columns: Columns = USUAL,
        say: Say = lambda line: None,
    ) -> None:
        """captions_file: as caption_files.read_captions reads it, DataError when an image has no
        caption in it; None takes the captions that lie beside the images;
        columns: of captions files;
        say: prints the line of what was found there."""
        self.images, self.folder = images, Path(images.root).resolve()
        self.names = [f"{i:05d}" for i in range(-(-len(images) // FOLDER_SHARD))]
        self._file_sha256: str | None = None
        if captions_file:
            self.captions = caption_files.read_captions(captions_file, images, columns)[0]
            self._file_sha256 = whole_files.file_sha256(captions_file)
            if columns.named():  # another column holds other captions
                texts = f"{self._file_sha256} {columns.named()}"
                self._file_sha256 = hashlib.sha256(texts.encode()).hexdigest()
        else:
            self.captions = caption_layouts.find_or_say(images, say, columns)

    def _part(self, name):
        first = FOLDER_SHARD * int(name)
        part = self.images.take(range(first, min(first + FOLDER_SHARD, len(self.images))))
        # what was found to be no image when the folder was listed stands in the first shard
        return part if first == 0 else replace(part, bad=(), left_out=())

    def change_stamp(self, name: str) -> Mapping[str, Any]:
        """Keys, sizes, times and contents of the images of a shard, and the whole captions file or
        the captions that lie beside the images of the shard."""
        part = self._part(name)
        stamp = feature_cache.change_stamp(part)
        return stamp | {"captions_sha256": self._file_sha256 or self._captions_sha256(part)}

    def _captions_sha256(self, part: ImageSet) -> str | None:
        """Hash of the captions of a shard; None where it has none, as in an index of 0.2.0."""
        captions = {key: self.captions[key] for key in part.keys if key in self.captions}
        text = json.dumps(captions)
        return hashlib.sha256(text.encode()).hexdigest() if captions else None

    def gone(self, names: Iterable[str]) -> list[str]:
        """Nothing: the shards of a folder are numbers, not files."""
        return []

    @contextlib.contextmanager
    def content(self, name: str, scratch: Path) -> Iterator[ShardImages]:
        """Yield the images of a shard; they are read in place."""
        images = self._part(name)
        rows = [
            {"key": key, "caption": self.captions.get(key, [None])[0] or None, "bytes": size}
            for key, size in zip(images.keys, images.sizes, strict=True)
        ]
        images, rows = _without_odd_names(images, rows)
        yield ShardImages(images, rows, None)


def open_source(
    val_dir: str,
    captions_file: str | None = None,
    *,
    columns: Columns = USUAL,
    ask_server: bool = True,
    say: Say = lambda line: None,
) -> ImageSource:
    """The images of --val_dir; no image is decoded.

    captions_file: --val_captions, for a folder of images; None takes what lies beside them.
    columns: of captions files of a folder.
    ask_server: ask for every address, which one process does for all.
    say: prints a line for the user.

    UsageError when there are no images, or for an address that cannot be read."""
    flag = f"--val_dir={val_dir!r}"
    if not tar_shards.is_shards(val_dir):
        images = image_sets.list_images("--val_dir", val_dir, measured=True)
        image_sets.say_left_out("--val_dir", images, say)
        path = require_file("--val_captions", captions_file) if captions_file else None
        return FolderSource(images, path, columns=columns, say=say)
    _require_own_captions(captions_file, columns)
    if not tar_shards.is_address(val_dir):
        local = TarSource(tar_shards.shard_paths("--val_dir", val_dir))
        _require_visible(flag, local.names)
        return local
    remote = AddressSource(*tar_shards.shard_addresses("--val_dir", val_dir))
    _require_visible(flag, remote.names)
    if ask_server:
        remote.require_readable(flag)
    return remote


def _require_own_captions(captions_file: str | None, columns: Columns) -> None:
    """Raise UsageError for flags that do not apply to tar shards, which hold their own captions."""
    given = [("--val_captions", captions_file)] if captions_file else columns.named()
    for flag, value in given:
        raise UsageError(
            f"{flag}={value!r} does not go with --build_index of tar shards, which hold their own"
            " captions, under the usual names; leave it out"
        )


def _require_visible(flag, names):
    """Raise UsageError for a hidden tar file: its shard would count as a temporary file of the
    index."""
    hidden = [name for name in names if name.startswith(".")]
    if hidden:
        raise UsageError(
            f"{flag}: {hidden[0] + '.tar'!r} is hidden; use tar files whose names do not begin with"
            " a dot"
        )
