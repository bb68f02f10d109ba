"""WebDataset shards: tar files of images with texts beside them (.txt, .caption or .json members),
read in place as an image set.

Nothing is unpacked, and only images, texts and JSON are decoded; members of other kinds are not
opened. A shard lies on this machine, or at an https address: --build_index then downloads it, other
stages read single images of it."""

from __future__ import annotations

import glob
import os
import re
import tarfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from utils.data import content_stamps, image_names, tar_texts
from utils.data.caption_files import StoredCaptions
from utils.data.field_names import USUAL, Columns
from utils.data.folder_walk import holds_images
from utils.data.image_names import LeftOut
from utils.data.image_sets import BadImages, ImageSet, natural_key, no_images
from utils.data.tar_texts import NOTHING, Known, TarTexts, cut_stem, whole_stem
from utils.files import downloads
from utils.runtime.errors import DataError, UnreadError, UsageError, first_line
from utils.runtime.regular_files import irregular

# what tarfile raises on files that are no tar file, on impossible sizes, and on endless chains of
# headers; an OSError is a failure of the disk
DAMAGE = (
    tarfile.TarError,
    ValueError,
    OverflowError,
    MemoryError,
    IndexError,
    KeyError,
    RecursionError,
)
# address of a shard: without user, query and fragment, which may hold secrets that must not be
# recorded
ADDRESS = re.compile(r"((?i:https)://[^\s/?#@]+(?:/[^\s/?#@*{}]+)*)/([^\s/?#@*{}]+\.tar)")


@dataclass(frozen=True)
class Member:
    """An image in a tar file."""

    name: str
    offset: int  # of its first byte in the tar file
    size: int  # in bytes
    known: Known = NOTHING  # captions and url, from the members beside it


@dataclass(frozen=True)
class ShardContent:
    """What a tar file holds."""

    images: tuple[Member, ...]  # in the order of the file
    bad: BadImages  # (name, reason) of members that are skipped
    damage: str | None  # why the file cannot be read to its end
    left_out: LeftOut = ()  # other members, by kind


def change_stamp(path: str | Path) -> dict[str, int | str]:
    """Size, modification time and a stamp of the content of a tar file, to detect a change. OSError
    if there is no such file."""
    facts = os.stat(path)
    content = content_stamps.stamp_of(path, pieces=content_stamps.FILE_PIECES)
    return {
        "bytes": facts.st_size,
        "mtime_ns": facts.st_mtime_ns,
        content_stamps.CONTENT: content.hex(),
    }


def is_address(source: str | Path) -> bool:
    """Whether a data source starts like an address of any kind, and is not a file or folder."""
    return re.match(r"\w+:", str(source)) is not None and not os.path.lexists(source)


def is_shards(source: str | Path) -> bool:
    """Whether a data source is tar files: a file, a pattern, an address, or a folder with tar files
    at its top."""
    if str(source).endswith(".tar") or is_address(source):
        return True
    return Path(source).is_dir() and any(Path(source).glob("*.tar"))


def _braces(pattern: str) -> Iterator[str]:
    """Yield the names that 'DIR/{00000..00012}.tar' stands for. Digits keep their width."""
    span = re.search(r"\{(\d+)\.\.(\d+)\}", pattern)
    if span is None:
        yield pattern
        return
    first, last = span.groups()
    for number in range(int(first), int(last) + 1):
        yield from _braces(
            f"{pattern[: span.start()]}{number:0{len(first)}d}{pattern[span.end() :]}"
        )


def expand(pattern: str) -> list[str]:
    """The paths that 'DIR/{00000..00012}.tar' or a glob stands for, in natural order.

    Digits keep their width."""
    # a set, because with a glob two numbers may match the same file
    return sorted({p for name in _braces(pattern) for p in _matching(name)}, key=natural_key)


def _matching(pattern: str) -> list[str]:
    """The paths that a glob stands for. The name of an existing file or folder is not a pattern,
    whatever characters it has."""
    if os.path.lexists(pattern):
        return [pattern]
    folder, name = os.path.split(pattern)
    if folder and os.path.isdir(folder):
        if not glob.has_magic(name):
            return [pattern]
        pattern = os.path.join(glob.escape(folder), name)
    return sorted(glob.glob(pattern), key=natural_key) if glob.has_magic(pattern) else [pattern]


def shard_addresses(flag: str, source: str) -> tuple[downloads.Address, list[str]]:
    """The tar files that 'https://HOST/DIR/{00000..00012}.tar' stands for.

    UsageError if it is not such an address, or the files lie in several folders. Returns: address
    of the folder; names of the shards, without .tar, in natural order."""
    shown = f"{flag}={str(source)!r}"
    names, folders = set(), set()
    for address in _braces(str(source)):
        parts = ADDRESS.fullmatch(address)
        if parts is None:
            raise UsageError(
                f"{shown} is not an address that can be read; use"
                " 'https://HOST/FOLDER/{00000..00012}.tar', without a user, a ? or a #, or tar"
                " files on this machine"
            )
        folders.add("https" + parts[1][len("https") :])  # it may be written in capitals
        names.add(parts[2].removesuffix(".tar"))
    if not names:
        raise UsageError(f"{shown} names no file: the first number is above the last")
    if len(folders) > 1:
        raise UsageError(
            f"{shown} names shards in {len(folders)} folders; use the shards of one folder"
        )
    return downloads.Address(folders.pop()), sorted(names, key=natural_key)


def shard_paths(flag: str, source: str | Path) -> list[Path]:
    """Paths of the tar files on this machine that a data source stands for, in natural order.

    source: a file, a folder, a glob, or 'DIR/{00000..00012}.tar'. UsageError if there are none, one
    does not exist, they lie in several folders, or the source is an address."""
    shown = f"{flag}={str(source)!r}"
    if is_address(source):
        raise UsageError(
            f"{shown} is an address, which only --build_index reads; download the tar files and"
            " give their path"
        )
    path = Path(source)
    if path.is_dir():
        if holds_images(path):
            raise UsageError(
                f"{shown} holds tar files and images; use a folder of one kind, or 'FOLDER/*.tar'"
            )
        paths = sorted(path.glob("*.tar"), key=natural_key)
    else:
        # the name of an existing file is not a pattern
        paths = [path] if path.is_file() else [Path(p) for p in expand(str(source))]
    missing = [(p, problem) for p in paths if (problem := irregular(p)) is not None]
    if missing:
        raise UsageError(f"{shown}: {str(missing[0][0])!r} {missing[0][1]}; use tar files")
    if not paths:
        raise UsageError(f"{shown} matches no file; use tar files")
    folders = len({p.parent for p in paths})
    if folders > 1:
        raise UsageError(f"{shown} names shards in {folders} folders; use the shards of one folder")
    return paths


def _unsafe(name: str) -> str | None:
    """Why a member's name is refused: unpacked, it could lie outside its folder. None if it is
    safe."""
    parts = name.replace("\\", "/").split("/")
    if parts[0] == "" or re.fullmatch("[A-Za-z]:", parts[0]) and len(parts) > 1:
        return "its name is absolute"
    return "its name has .. as a part" if ".." in parts else None


def _refusal(member: tarfile.TarInfo, seen: set[str]) -> str | None:
    """Why an image member is skipped: it is a link, or its name occurred before. None if it is
    read."""
    if not member.isfile():
        is_link = member.issym() or member.islnk()
        return "is a link in the tar, which is not followed" if is_link else "is no regular file"
    return "occurs twice in its tar" if member.name in seen else None


def _require_end(path: str | Path, offset: int) -> None:
    """Raise TarError unless a tar file has only zeros from `offset` on.

    tarfile takes a damaged, cut or zero header for the end of the file, and skips what follows."""
    with open(path, "rb") as handle:
        handle.seek(offset)
        block = handle.read(tarfile.BLOCKSIZE)
        if len(block) < tarfile.BLOCKSIZE:
            raise tarfile.ReadError("unexpected end of data")
        while block:
            if block.count(0) < len(block):
                raise tarfile.ReadError(f"no header at byte {offset}, and no end")
            block = handle.read(1 << 20)


def _other_kind(path: str | Path) -> str | None:
    """The real format of a file without a readable member, by its first bytes; None if it is
    unknown."""
    if downloads.is_web_page(path):
        return "is a web page"
    with open(path, "rb") as handle:
        return "is compressed; use plain tar files" if handle.read(2) == b"\x1f\x8b" else None


def _members(path: str | Path) -> Iterator[tuple[tarfile.TarInfo, bytes | None]]:
    """Yield the regular members of a tar file, and links and devices that are named like images.

    Yields: (member, its first TEXT_BYTES if it is a text). Raises DAMAGE."""
    length = os.stat(path).st_size
    with tarfile.open(path, "r:") as archive:
        for member in archive:
            has_bytes = member.isfile() or member.type not in tarfile.SUPPORTED_TYPES
            # a negative size would lead back to members that were read before
            if member.size < 0 or (has_bytes and member.offset_data + member.size > length):
                raise tarfile.ReadError("unexpected end of data")
            if member.isfile():
                text = None
                if member.name.lower().endswith(tar_texts.SUFFIXES):
                    archive.fileobj.seek(member.offset_data)
                    text = archive.fileobj.read(min(member.size, tar_texts.TEXT_BYTES))
                yield member, text
            elif not member.isdir() and image_names.has_suffix(member.name):
                yield member, None
    _require_end(path, archive.offset)


class _Contents:
    """The members of a tar file, as they are read one after the other."""

    def __init__(self, columns: Columns) -> None:
        self._columns = columns
        self.images: list[tuple[str, int, int]] = []  # name, offset, size
        self.bad: list[tuple[str, str]] = []  # name, reason
        self.left_out: Counter[str] = Counter()  # other members, by kind
        self._texts: list[tuple[str, bytes, int]] = []  # name, content, size
        self._again: list[tuple[str, bytes, int]] = []  # the same, of names that occurred before
        self._seen: set[str] = set()

    def add(self, member: tarfile.TarInfo, text: bytes | None) -> None:
        """Add a member. text: the contents of a text."""
        kind, reason = image_names.kind_of(member.name), _unsafe(member.name)
        is_image = image_names.has_suffix(member.name)
        if reason is None and kind is not None:
            self.left_out[kind] += 1
            return
        if reason is None and is_image:
            reason = _refusal(member, self._seen)
        if reason is not None:
            self.bad.append((member.name, reason))
        elif is_image:
            self.images.append((member.name, member.offset_data, member.size))
        elif text is not None:
            texts = self._again if member.name in self._seen else self._texts
            texts.append((member.name, text, member.size))
        if member.isfile():
            self._seen.add(member.name)

    def members(self) -> tuple[Member, ...]:
        """The images, each with what its texts say."""
        texts = TarTexts(self._columns)
        # a second text of a name belongs to the second image of its name, which was skipped
        skipped = {stem(name) for name, _ in self.bad for stem in (whole_stem, cut_stem)}
        again = [each for each in self._again if whole_stem(each[0]) not in skipped]
        for each in (*self._texts, *again):
            texts.add(*each)
        known = texts.of([name for name, _offset, _size in self.images])
        return tuple(Member(*i, known=k) for i, k in zip(self.images, known, strict=True))


def read_shard(path: str | Path, *, whole: bool = True, columns: Columns = USUAL) -> ShardContent:
    """List the images of a tar file, with their captions and urls. No image is decoded.

    columns: the field of captions in .json members.
    whole: raise DataError for a file that is cut or damaged; otherwise the members before the
    damage are listed. UnreadError if the disk fails."""
    contents, damage = _Contents(columns), None
    try:
        for member, text in _members(path):
            contents.add(member, text)
    except DAMAGE as error:
        damage = first_line(error)
        if not (contents.images or contents.bad):
            damage = _other_kind(path) or damage
        if whole:
            raise DataError(
                f"{path}: is not a whole tar file ({damage}); get it again, or remove it from the"
                " list"
            ) from None
    except OSError as error:
        raise UnreadError(f"{path}: cannot be read ({error.strerror})") from None
    left_out = image_names.counted(contents.left_out)
    return ShardContent(contents.members(), tuple(contents.bad), damage, left_out)


def list_shards(
    flag: str, source: str | Path, columns: Columns = USUAL
) -> tuple[ImageSet, StoredCaptions]:
    """The images and captions of shards: shards in natural order, images in the order of their
    shard.

    The key of an image is <shard>/<member>; skipped members are in the set's `bad`.
    source: as in `shard_paths`; columns: the field of captions in .json members.
    DataError for a file that is cut or damaged. Returns: the set; the captions of the images that
    have some."""
    paths = shard_paths(flag, source)
    keys: list[str] = []
    sizes: list[int] = []
    places: list[tuple[str, int]] = []
    bad: list[tuple[str, str]] = []
    captions = StoredCaptions()
    left_out: Counter[str] = Counter()
    for path in paths:
        content = read_shard(path, columns=columns)
        left_out.update(dict(content.left_out))
        bad += [(f"{path.name}/{name}", reason) for name, reason in content.bad]
        for member in content.images:
            key = f"{path.name}/{member.name}"
            keys.append(key)
            sizes.append(member.size)
            places.append((path.name, member.offset))
            captions.add(key, member.known.captions, member.known.fault)
    if not keys:
        raise no_images(flag, source, bad, image_names.counted(left_out), accepted="shards with")
    images = ImageSet(
        paths[0].parent,
        tuple(keys),
        tuple(sizes),
        tuple(bad),
        tuple(places),
        left_out=image_names.counted(left_out),
    )
    return images, captions
