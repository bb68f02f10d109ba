"""What an index is made of: the shards of --val_dir, their images, and what tells them from the
same ones changed."""

import contextlib
import os
from dataclasses import replace

from utils.data import captions, image_sets, tar_shards
from utils.data.image_sets import ImageSet
from utils.files import downloads, whole_files
from utils.index import shard_files
from utils.retrieval import feature_cache
from utils.runtime.errors import DataError, UsageError, require_file

# images of a folder that make a shard: what a killed build computes again is some of these
FOLDER_SHARD = 10_000
NOT_UTF8 = "its name is not UTF-8"


def _named(images, rows):
    """Images and rows without those whose names Parquet cannot hold, which join `bad`. Returns:
    (ImageSet, [dict])."""
    named = [i for i, key in enumerate(images.keys) if shard_files.is_utf8(key)]
    if len(named) == len(images):
        return images, rows
    bad = tuple((key, NOT_UTF8) for key in images.keys if not shard_files.is_utf8(key))
    return replace(images.take(named), bad=(*images.bad, *bad)), [rows[i] for i in named]


def _tar_content(name, path):
    """The images of a shard of tar file `path`, whose `bad` are members that are not taken; what is
    known of each; why the file cannot be read to its end, or None: what comes before is kept.
    Returns: (ImageSet, [dict], text or None)."""
    content = tar_shards.read_shard(path, whole=False)
    bad = tuple((f"{name}.tar/{member}", reason) for member, reason in content.bad)
    rows = [
        {
            "key": f"{name}.tar/{m.name}",
            "caption": m.caption,
            "url": m.url,
            "bytes": m.size,
            "offset": m.offset,
        }
        for m in content.images
    ]
    places = tuple((path.name, m.offset) for m in content.images)
    keys, sizes = tuple(r["key"] for r in rows), tuple(r["bytes"] for r in rows)
    return *_named(ImageSet(path.parent, keys, sizes, bad=bad, places=places), rows), content.damage


class TarSource:
    """Tar files of one folder, a shard each. names: of the shards, natural order; folder: of the
    tar files."""

    shards = True

    def __init__(self, paths):
        self.paths = {p.name.removesuffix(".tar"): p for p in paths}
        self.folder, self.names = paths[0].parent.resolve(), list(self.paths)

    def made_of(self, name):
        """What changes when the shard's images do. Returns: dict of JSON types."""
        try:
            return tar_shards.change_stamp(self.paths[name])
        except OSError as error:
            raise DataError(f"{self.paths[name]}: cannot be read ({error.strerror})") from None

    def gone(self, names):
        """Those of some shards, named or not, that have lost their tar file. Returns: [name]."""
        return [n for n in names if not (self.folder / f"{n}.tar").exists()]

    @contextlib.contextmanager
    def content(self, name, scratch):
        """Yield `_tar_content` of a shard, whose images can be read until the block ends. scratch:
        a folder to write to."""
        yield _tar_content(name, self.paths[name])


class AddressSource:
    """Tar files behind https addresses of one folder, a shard each, downloaded one at a time to be
    read. As `TarSource`."""

    shards = True

    def __init__(self, folder, names):
        self.folder, self.names, self._states = folder, names, {}

    def require_there(self, flag):
        """UsageError naming the flag unless every address answers; all are asked, and what they say
        is kept."""
        found = downloads.change_stamps(map(self._address, self.names))
        failed = [state for state in found if isinstance(state, DataError)]
        if failed:
            raise UsageError(
                f"{flag}: {len(failed)} of {len(found)} addresses do not give a file, first"
                f" {failed[0]}"
            )
        self._states = dict(zip(self.names, found, strict=True))

    def _address(self, name):
        return self.folder / f"{name}.tar"

    def made_of(self, name):
        """As `TarSource.made_of`; what was said at the start, where it was asked."""
        return self._states.get(name) or downloads.change_stamp(self._address(name))

    def gone(self, names):
        """As `TarSource.gone`, which is asked for; one that does not answer may be there another
        time."""
        found = downloads.change_stamps(map(self._address, names))
        return [
            n
            for n, state in zip(names, found, strict=True)
            if isinstance(state, downloads.GoneError)
        ]

    @contextlib.contextmanager
    def content(self, name, scratch):
        """As `TarSource.content`."""
        scratch.mkdir(parents=True, exist_ok=True)
        # what a kill leaves, the next launch removes
        path = scratch / f".{name}.tar.{os.getpid()}.part"
        try:
            downloads.fetch(self._address(name), path, size=self.made_of(name)["bytes"])
            content = _tar_content(name, path)
            # what a login or a dead link answers
            if content[2] and not content[1] and not content[0].bad:
                raise DataError(f"{self._address(name)}: is no tar file ({content[2]})")
            yield content
        finally:
            path.unlink(missing_ok=True)


class FolderSource:
    """A folder of images, cut into shards of FOLDER_SHARD consecutive images in natural order,
    named by number.

    captions_file: as captions.read_captions takes it, or None; DataError when it lacks an image.
    """

    shards = False

    def __init__(self, images, captions_file=None):
        self.images, self.folder = images, images.root.resolve()
        self.captions = captions.read_captions(captions_file, images)[0] if captions_file else {}
        self.captions_sha256 = captions_file and whole_files.file_sha256(captions_file)
        self.names = [f"{i:05d}" for i in range(-(-len(images) // FOLDER_SHARD))]

    def _part(self, name):
        first = FOLDER_SHARD * int(name)
        return self.images.take(range(first, min(first + FOLDER_SHARD, len(self.images))))

    def made_of(self, name):
        """As `TarSource.made_of`: of the images keys, sizes and times of change, of the captions
        all."""
        return feature_cache.change_stamp(self._part(name)) | {"captions_sha256": self.captions_sha256}

    @contextlib.contextmanager
    def content(self, name, scratch):
        """As `TarSource.content`."""
        images = self._part(name)
        rows = [
            {"key": key, "caption": self.captions.get(key, [None])[0], "bytes": size}
            for key, size in zip(images.keys, images.sizes, strict=True)
        ]
        yield *_named(images, rows), None


def open_source(opts, *, ask=True):
    """The images of --val_dir. UsageError for what holds none; nothing of it is decoded. ask:
    addresses whether they are there, which one process does for all. Returns: a source, as
    above."""
    if not tar_shards.is_shards(opts.val_dir):
        images = image_sets.list_images("--val_dir", opts.val_dir, measured=True)
        return FolderSource(
            images, require_file("--val_captions", opts.val_captions) if opts.val_captions else None
        )
    if opts.val_captions:
        raise UsageError(
            f"--val_captions={opts.val_captions!r} does not go with --build_index of tar shards,"
            " which hold their captions"
        )
    if tar_shards.is_address(opts.val_dir):
        source = AddressSource(*tar_shards.shard_addresses("--val_dir", opts.val_dir))
    else:
        source = TarSource(tar_shards.shard_paths("--val_dir", opts.val_dir))
    hidden = [n for n in source.names if n.startswith(".")]
    if hidden:
        raise UsageError(
            f"--val_dir={opts.val_dir!r}: {hidden[0] + '.tar'!r} is hidden; takes tar files that"
            " are not"
        )
    if ask and tar_shards.is_address(opts.val_dir):
        source.require_there(f"--val_dir={opts.val_dir!r}")
    return source
