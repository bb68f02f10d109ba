"""WebDataset shards as an image set: tar files, images beside .txt or .json members, read in place.

Nothing is unpacked and nothing is decoded but images, text and JSON: a member of any other kind is
not opened. Tar files lie on this machine, or behind https addresses; of the latter --build_index
alone takes all images, and others single ones."""

import glob
import json
import os
import re
import tarfile
from dataclasses import dataclass
from pathlib import Path

from utils.data.image_sets import SUFFIXES, ImageSet, holds_images, natural_key
from utils.files import downloads
from utils.runtime.errors import DataError, UnreadError, UsageError, first_line

CAPTION_FIELDS = ("caption", "text")  # of a .json member; img2dataset writes `caption`
TEXT_BYTES = 1 << 20  # that are read of a .txt or .json member: a caption is no book
# what tarfile raises on bytes that are no tar file, on sizes that are none, or on headers of
# headers without an end; an OSError is the disk's
DAMAGE = (
    tarfile.TarError,
    ValueError,
    OverflowError,
    MemoryError,
    IndexError,
    KeyError,
    RecursionError,
)
TEXTS = (".txt", ".json")
# of an https shard: no user, query or fragment, which would hold what a record must not
ADDRESS = re.compile(r"((?i:https)://[^\s/?#@]+(?:/[^\s/?#@*{}]+)*)/([^\s/?#@*{}]+\.tar)")


@dataclass(frozen=True)
class Member:
    """An image in a tar file. offset, size: of its bytes; caption, url: of the members beside it,
    or None."""

    name: str
    offset: int
    size: int
    caption: str | None = None
    url: str | None = None


@dataclass(frozen=True)
class ShardContent:
    """images: [Member] in the order of the file; bad: [(name, reason)] of members that are not
    taken; damage: why the file cannot be read to its end, or None."""

    images: tuple
    bad: tuple
    damage: str | None


def change_stamp(path):
    """What tells a tar file from the same one changed. Returns: dict of JSON types; OSError when it
    is not there."""
    facts = os.stat(path)
    return {"bytes": facts.st_size, "mtime_ns": facts.st_mtime_ns}


def is_address(source):
    """Whether a data source begins as an address does, of whatever kind, and is no file or
    folder."""
    return re.match(r"\w+:", str(source)) is not None and not os.path.lexists(source)


def is_shards(source):
    """Whether a data source names tar files: by pattern, by name, by address, or as a folder that
    holds some at its top."""
    if str(source).endswith(".tar") or is_address(source):
        return True
    return Path(source).is_dir() and any(Path(source).glob("*.tar"))


def _braces(pattern):
    """Yield the names of 'DIR/{00000..00012}.tar'. Digits keep their width."""
    span = re.search(r"\{(\d+)\.\.(\d+)\}", pattern)
    if span is None:
        yield pattern
        return
    first, last = span.groups()
    for number in range(int(first), int(last) + 1):
        yield from _braces(
            f"{pattern[: span.start()]}{number:0{len(first)}d}{pattern[span.end() :]}"
        )


def expand(pattern):
    """Paths of 'DIR/{00000..00012}.tar' or of a glob, natural order. Digits keep their width."""
    # two numbers with a glob may match one file
    return sorted({p for name in _braces(pattern) for p in _matching(name)}, key=natural_key)


def _matching(pattern):
    """Paths of a glob; a file or a folder that exists is no pattern, whatever is in its name."""
    if os.path.lexists(pattern):
        return [pattern]
    folder, name = os.path.split(pattern)
    if folder and os.path.isdir(folder):
        if not glob.has_magic(name):
            return [pattern]
        pattern = os.path.join(glob.escape(folder), name)
    return sorted(glob.glob(pattern), key=natural_key) if glob.has_magic(pattern) else [pattern]


def shard_addresses(flag, source):
    """Addresses of the tar files of 'https://HOST/DIR/{00000..00012}.tar'. UsageError for what is
    none, and for those of several folders. Returns: (Address of the folder, [name of a shard]),
    natural order."""
    shown, names = f"{flag}={str(source)!r}", set()
    folders = set()
    for address in _braces(str(source)):
        parts = ADDRESS.fullmatch(address)
        if parts is None:
            raise UsageError(
                f"{shown} is an address that is not read; takes"
                " 'https://HOST/FOLDER/{00000..00012}.tar', without a user, a ? or a #, or tar"
                " files on this machine"
            )
        folders.add("https" + parts[1][len("https") :])  # which may be written in capitals
        names.add(parts[2].removesuffix(".tar"))
    if not names:
        raise UsageError(f"{shown} names no file; takes a first number that is not above the last")
    if len(folders) > 1:
        raise UsageError(f"{shown} names shards in {len(folders)} folders; takes those of one")
    return downloads.Address(folders.pop()), sorted(names, key=natural_key)


def shard_paths(flag, source):
    """Paths of the tar files that a source names: one file, a folder of them, a glob, or
    'DIR/{00000..00012}.tar'.

    UsageError when it names none, one that is absent, those of several folders, or an address.
    Returns: [Path], natural order."""
    shown = f"{flag}={str(source)!r}"
    if is_address(source):
        raise UsageError(
            f"{shown} is an address; --build_index takes those of https, all else takes tar files"
            " on this machine: download them first"
        )
    path = Path(source)
    if path.is_dir():
        if holds_images(path):
            raise UsageError(
                f"{shown} holds tar files and images; takes a folder of one kind, or 'FOLDER/*.tar'"
            )
        paths = sorted(path.glob("*.tar"), key=natural_key)
    else:
        # a name that exists is no pattern, whatever is in it
        paths = [path] if path.is_file() else [Path(p) for p in expand(str(source))]
    missing = [p for p in paths if not p.is_file()]
    if missing:
        raise UsageError(
            f"{shown}: {str(missing[0])!r}"
            f" {'is a folder' if missing[0].is_dir() else 'does not exist'}; takes tar files"
        )
    if not paths:
        raise UsageError(f"{shown} matches no file; takes tar files")
    folders = len({p.parent for p in paths})
    if folders > 1:
        raise UsageError(f"{shown} names shards in {folders} folders; takes those of one")
    return paths


def _text(name, content):
    """What a .txt or .json member says of its image. Returns: (caption or None, url or None)."""
    if name.endswith(".txt"):
        return content.decode("utf-8", "replace").strip() or None, None
    try:
        fields = json.loads(content)
    except (ValueError, RecursionError):
        return None, None
    found = (
        {k: v for k, v in fields.items() if isinstance(v, str) and v}
        if isinstance(fields, dict)
        else {}
    )
    return next((found[k] for k in CAPTION_FIELDS if k in found), None), found.get("url")


def _unsafe(name):
    """Why a member's name is not taken: it would lead out of a folder, were it ever unpacked. None
    if it is taken."""
    parts = name.replace("\\", "/").split("/")
    if parts[0] == "" or re.fullmatch("[A-Za-z]:", parts[0]) and len(parts) > 1:
        return "its name is absolute"
    return "its name has .. as a part" if ".." in parts else None


def _untaken(member, seen):
    """Why a member that is not the first of its name, or is a link, is not taken. None if it is
    taken."""
    if not member.isfile():
        return "is a link in the tar, which is not followed"
    return "stands twice in its tar" if member.name in seen else None


def _stem(name):
    """What the members of a sample share: a name up to the first dot of its last part."""
    folder, _, last = name.rpartition("/")
    return f"{folder}/{last.split('.')[0]}"


def _require_end(path, offset):
    """TarError unless a tar file ends where reading it ended: tarfile takes a header that is
    damaged, cut or zero for its end, and leaves out what comes after."""
    with open(path, "rb") as handle:
        handle.seek(offset)
        block = handle.read(tarfile.BLOCKSIZE)
        if len(block) < tarfile.BLOCKSIZE:
            raise tarfile.ReadError("unexpected end of data")
        while block:
            if block.count(0) < len(block):
                raise tarfile.ReadError(f"no header at byte {offset}, and no end")
            block = handle.read(1 << 20)


def _no_tar(path):
    """What a file is of which not one member could be read, as far as its beginning tells; None if
    it does not."""
    if downloads.is_web_page(path):
        return "is a web page"
    with open(path, "rb") as handle:
        return "is compressed; takes plain tar files" if handle.read(2) == b"\x1f\x8b" else None


def _members(path):
    """Yield (TarInfo, its bytes if it is a text) of a tar file's regular members, and of links by
    the name of an image. What DAMAGE names is raised."""
    length = os.stat(path).st_size
    with tarfile.open(path, "r:") as archive:
        for member in archive:
            has_bytes = member.isfile() or member.type not in tarfile.SUPPORTED_TYPES
            # a size below 0 would lead back to members that were read
            if member.size < 0 or (has_bytes and member.offset_data + member.size > length):
                raise tarfile.ReadError("unexpected end of data")
            if member.isfile():
                text = None
                if member.name.lower().endswith(TEXTS):
                    archive.fileobj.seek(member.offset_data)
                    text = archive.fileobj.read(min(member.size, TEXT_BYTES))
                yield member, text
            elif (member.issym() or member.islnk()) and member.name.lower().endswith(SUFFIXES):
                yield member, None
    _require_end(path, archive.offset)


def read_shard(path, *, whole=True):
    """What a tar file holds: names and places of images, what lies beside them. No image is
    decoded.

    whole: a file that is cut or damaged is a DataError; else what comes before the damage is kept,
    and the damage told. A .txt beside an image says its caption before a .json does. UnreadError
    when the disk does not give the file. Returns: ShardContent."""
    images, bad, captions, urls, damage, seen = [], [], {}, {}, None, set()
    try:
        for member, content in _members(path):
            name, stem = member.name.lower(), _stem(member.name)
            reason = _unsafe(member.name) or (name.endswith(SUFFIXES) and _untaken(member, seen))
            if reason:
                bad.append((member.name, reason))
            # a text that stands twice: the first one is the first picture's
            elif member.name in seen:
                continue
            elif name.endswith(SUFFIXES):
                images.append((member.name, member.offset_data, member.size))
            elif content is not None:
                caption, url = _text(name, content)
                if caption and not (stem in captions and name.endswith(".json")):
                    captions[stem] = caption
                if url:
                    urls[stem] = url
            if member.isfile():
                seen.add(member.name)
    except DAMAGE as error:
        damage = first_line(error) if images or bad else _no_tar(path) or first_line(error)
        if whole:
            raise DataError(
                f"{path}: is not a whole tar file ({damage}); get it again, or leave it out"
            ) from None
    except OSError as error:
        raise UnreadError(f"{path}: cannot be read ({error.strerror})") from None
    found = (
        Member(*image, captions.get(_stem(image[0])), urls.get(_stem(image[0]))) for image in images
    )
    return ShardContent(tuple(found), tuple(bad), damage)


def list_shards(flag, source):
    """Images and captions of shards, in natural order of shards, in each in the order of its
    members.

    source: as `shard_paths` takes it. An image's key is <shard>/<member>; members that are not
    taken are the set's `bad`. DataError for a file that is cut or damaged. Returns: (ImageSet,
    {key: [caption]}), where images without a caption are not in the latter."""
    paths = shard_paths(flag, source)
    keys, sizes, places, bad, captions = [], [], [], [], {}
    for path in paths:
        content = read_shard(path)
        bad += [(f"{path.name}/{name}", reason) for name, reason in content.bad]
        for member in content.images:
            key = f"{path.name}/{member.name}"
            keys.append(key)
            sizes.append(member.size)
            places.append((path.name, member.offset))
            if member.caption:
                captions[key] = [member.caption]
    if not keys:
        raise UsageError(
            f"{flag}={str(source)!r} holds no images; takes shards with {', '.join(SUFFIXES)}"
        )
    return ImageSet(paths[0].parent, tuple(keys), tuple(sizes), tuple(bad), tuple(places)), captions
