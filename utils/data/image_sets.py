"""A folder of images as an ordered, keyed set: natural order, relative paths, read as a viewer
would show them."""

import contextlib
import errno
import hashlib
import io
import os
import re
import struct
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from utils.files.downloads import Address, read_part
from utils.runtime.errors import DataError, UnreadError, UsageError, require_dir

# where Pillow finds an orientation
TELL_ORIENTATION = frozenset(("exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp"))
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
# What a file of such a name may hold. Pillow would go by the content, and open whatever it has a
# decoder for: strangers' pictures would reach those that hand them to other programs (EPS) or raise
# errors of their own (DDS, AVIF)
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")  # JPEG: a camera's MPO too
# what the system says of a file that is not there to be read, by its nature; all else is the disk's
NO_FILE = (errno.ENOENT, errno.EACCES, errno.EISDIR, errno.ELOOP, errno.ENOTDIR, errno.ENAMETOOLONG)
CHANGED = "has changed since the index was built; --build_index reads it again"
STORED_SIZE = "stored_size"  # in the info of an image that was read
# what the stages themselves write below a folder that is measured
OUTPUT_FOLDERS = re.compile(r"evaluations|inferences|wandb|checkpoint.*|state_.*")
INDEX_KIND = b'"kind": "index"'  # in the index.json that utils.index.vector_index writes
# What Pillow raises on files that are no image, are truncated, lie about their size, or are bombs.
BROKEN_EXIF = (
    struct.error,
    TypeError,
    ValueError,
    KeyError,
    IndexError,
    ZeroDivisionError,
    OSError,
    SyntaxError,
)
UNREADABLE = (*BROKEN_EXIF, EOFError, UnidentifiedImageError, Image.DecompressionBombError)


def natural_key(path):
    """Sort key: runs of digits by value, so that 2.png comes before 10.png; then the text itself,
    so no two tie."""
    text = path.as_posix() if isinstance(path, Path) else str(path)
    return [
        (0, int(p), "") if p.isascii() and p.isdigit() else (1, 0, p)
        for p in re.split(r"([0-9]+)", text)
        if p
    ], text


@dataclass(frozen=True)
class ImageSet:
    """Images below root. root: a Path, or for places an Address; keys: relative paths with /,
    natural order; bad: [(key, reason)] of files left out.

    places: of images inside larger files (tar shards), their (file below root, offset in bytes);
    else empty. changed: keys of images that are known to be others than those that were listed:
    they are not opened; states: of an Address, {file: its state when it was listed}: a picture of a
    file of another state is not shown."""

    root: Path | Address
    keys: tuple
    sizes: tuple
    bad: tuple = ()
    places: tuple = ()
    changed: frozenset = frozenset()
    states: dict = field(default_factory=dict)

    def __len__(self):
        return len(self.keys)

    def path(self, index):
        """The file that holds the image."""
        return self.root / (self.places[index][0] if self.places else self.keys[index])

    def open(self, index, **how):
        """The image as PIL RGB, as `open_image` reads it; DataError with the reason if it cannot be
        read, or has changed, UnreadError if the disk or the server does not give it."""
        name = self.root / self.keys[index]
        if self.keys[index] in self.changed:
            raise DataError(f"{name}: {CHANGED}")
        if not self.places:
            return open_image(self.path(index), **how)
        return open_image(io.BytesIO(self._bytes(index)), name=name, **how)

    def _bytes(self, index):
        """Of an image inside a larger file. UnreadError when that was moved, the disk fails, or the
        server does."""
        path, (file, offset), size = self.path(index), self.places[index], self.sizes[index]
        name, state = self.root / self.keys[index], None
        try:
            if isinstance(self.root, Address):
                content, state = read_part(path, offset, size)
            else:
                with open(path, "rb") as handle:
                    handle.seek(offset)
                    content = handle.read(size)
        except (OSError, DataError) as error:
            why = (
                error.strerror
                if isinstance(error, OSError)
                else str(error).removeprefix(f"{path}: ")
            )
            raise UnreadError(f"{name}: {why}") from None
        if self.states.get(file, state) != state:
            raise DataError(f"{name}: {CHANGED}")
        return content

    def stamp(self, index):
        """When the image's file was last changed, in ns."""
        return os.stat(self.path(index)).st_mtime_ns

    def take(self, indices):
        """The images at `indices`, in that order."""
        keys, sizes = (tuple(part[i] for i in indices) for part in (self.keys, self.sizes))
        return replace(
            self,
            keys=keys,
            sizes=sizes,
            places=tuple(self.places[i] for i in indices) if self.places else (),
        )

    @property
    def fingerprint(self):
        """SHA-256 over (relative path, size in bytes) in order; contents are not read. Hex."""
        digest = hashlib.sha256()
        for key, size in zip(self.keys, self.sizes, strict=True):
            digest.update(f"{key}\0{size}\n".encode("utf-8", "surrogateescape"))
        return digest.hexdigest()


def _is_output(entry):
    """Whether a stage wrote this folder: by its name, or an evaluation that --output_dir put
    there."""
    evaluation = all(
        os.path.exists(os.path.join(entry.path, name)) for name in ("metrics.json", "report.html")
    )
    return evaluation or OUTPUT_FOLDERS.fullmatch(entry.name) is not None


def _is_made_of_images(folder):
    """Whether a folder is an index or the near-duplicates of one: the pictures in their galleries
    are nobody's images."""
    groups, shards, index = (
        os.path.join(folder, name) for name in ("groups.parquet", "shards", "index.json")
    )
    if os.path.isfile(groups) and os.path.isfile(os.path.join(folder, "summary.json")):
        return True
    if not (os.path.isfile(index) and os.path.isdir(shards)):
        return False
    with open(index, "rb") as file:  # others have files of that name too
        return INDEX_KIND in file.read(4096)


def _walk(folder, root, skip):
    if _is_made_of_images(folder):
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                if not (entry.name.startswith(".") or skip and _is_output(entry)):
                    yield from _walk(entry.path, root, skip)
            elif entry.name.lower().endswith(SUFFIXES) and not entry.name.startswith("."):
                # a dangling link is a bad image
                size = entry.stat().st_size if os.path.exists(entry.path) else 0
                yield os.path.relpath(entry.path, root).replace(os.sep, "/"), size


def holds_images(root):
    """Whether there is an image anywhere below a folder."""
    return next(_walk(root, root, False), None) is not None


def list_images(flag, root, *, measured=False):
    """All images below `root`, any depth, natural order; UsageError naming the flag when there are
    none. Indices and what --dedup wrote are never read.

    measured: of a folder that stages write to, what they write is not read (evaluations,
    inferences, checkpoints, states)."""
    root = require_dir(flag, root)
    try:
        found = sorted(_walk(root, root, measured), key=lambda item: natural_key(item[0]))
    except OSError as error:  # no permission, or links in a circle
        raise UsageError(
            f"{flag}={str(root)!r}: {error.filename!r} cannot be read ({error.strerror})"
        ) from None
    if not found:
        raise UsageError(
            f"{flag}={str(root)!r} holds no images; takes a folder with {', '.join(SUFFIXES)} at"
            " any depth"
        )
    return ImageSet(root, tuple(k for k, _ in found), tuple(s for _, s in found))


def to_rgb(image):
    """A Pillow image of any mode as RGB, the way a viewer on a white page would show it.

    EXIF orientation is applied, transparency laid over white, 16-bit greys scaled to 8 bits.
    """
    # else Pillow would copy the pixels to find none
    if not TELL_ORIENTATION.isdisjoint(image.info):
        with contextlib.suppress(*BROKEN_EXIF):  # viewers then show the pixels as they are stored
            image = ImageOps.exif_transpose(image)
    if image.mode in ("I;16", "I;16B", "I;16L", "I;16N", "I"):
        # Pillow's own conversion clips at 255 instead of scaling
        grey = np.asarray(image).astype(np.float64) / 257.0
        image = Image.fromarray(np.clip(np.round(grey), 0, 255).astype(np.uint8))
    if image.mode in ("LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
    if image.mode == "RGBA":
        page = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(page, image).convert("RGB")
    # Pillow copies the pixels of an image that needs no conversion, which costs a third of decoding
    # it
    return image if image.mode == "RGB" else image.convert("RGB")


def open_image(source, *, name=None, at_least=None):
    """Read an image file as PIL RGB; DataError with the reason if it is none of FORMATS, is
    truncated or is a bomb, UnreadError if the disk does not give it.

    source: a path, or an open file with its name for messages; at_least: of pictures to look at, a
    side in pixels that is enough: a larger JPEG is then decoded at a half, a quarter or an eighth.
    Never of what is measured. Its .info[STORED_SIZE] is (width, height) in the file, before it is
    turned as its EXIF data say."""
    name = name or source
    if isinstance(source, str | Path):
        source = io.BytesIO(_content(source))
    try:
        with Image.open(source, formats=FORMATS) as image:
            stored = image.size
            # up to twice the limit Pillow only warns
            if image.width * image.height > Image.MAX_IMAGE_PIXELS:
                raise Image.DecompressionBombError(
                    f"{image.width} x {image.height} pixels may be a decompression bomb"
                )
            if at_least:
                image.draft(None, (at_least, at_least))
            image.load()
            shown = to_rgb(image)
            shown.info[STORED_SIZE] = stored
            return shown
    except UNREADABLE as error:
        reason = (
            "is not an image"
            if isinstance(error, UnidentifiedImageError)
            else str(error) or type(error).__name__
        )
        raise DataError(f"{name}: {reason}") from None


def _content(path):
    """The bytes of an image's own file, read before they are decoded, as Pillow's errors of both
    are one."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise (DataError if error.errno in NO_FILE else UnreadError)(
            f"{path}: {error.strerror}"
        ) from None


def _reason(images, index):
    try:
        images.open(index)
    except UnreadError:
        raise
    except DataError as error:
        return str(error).removeprefix(f"{images.root / images.keys[index]}: ")
    return None


def require_readable(flag, images, bad, *, max_bad):
    """UsageError when more than the share `max_bad` of a set cannot be read; one always may, if
    another can.

    bad: [(key, reason)] of the set's images; what the set left out before counts with them.
    """
    bad, total = (*images.bad, *bad), len(images) + len(images.bad)
    accepted = int(max(1, max_bad * total))
    if len(bad) > accepted or len(bad) == total:
        raise UsageError(
            f"{flag}={str(images.root)!r} has {len(bad)} of {total} images that cannot be read,"
            f" first {bad[0][0]!r} ({bad[0][1]}); --max_bad_images={max_bad} accepts {accepted}"
        )


def readable(flag, images, *, max_bad, workers, show=lambda spans: spans):
    """The images that can be read, the others kept in `bad` with those of the set; UsageError when
    too many cannot.

    Every file is decoded once, by threads. UnreadError when the disk fails: what it does not give
    now is no bad image. show: wraps the list of spans of 256 images, for a progress bar."""
    spans = [range(first, min(first + 256, len(images))) for first in range(0, len(images), 256)]
    # a task a span: a million futures would hold gigabytes
    with ThreadPoolExecutor(max(1, workers)) as pool:
        found = pool.map(lambda span: [_reason(images, i) for i in span], spans)
        reasons = [
            reason for _span, part in zip(show(spans), found, strict=True) for reason in part
        ]
    bad = tuple((k, r) for k, r in zip(images.keys, reasons, strict=True) if r is not None)
    require_readable(flag, images, bad, max_bad=max_bad)
    return replace(
        images.take([i for i, r in enumerate(reasons) if r is None]), bad=(*images.bad, *bad)
    )
