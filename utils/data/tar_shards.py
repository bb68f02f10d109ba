"""WebDataset shards as an image set: local tar files, images beside .txt or .json members, read in place.

Nothing is unpacked and nothing is decoded but images, text and JSON: a member of any other kind is not opened.
"""

import glob
import json
import re
import tarfile
from pathlib import Path

from utils.data.image_sets import SUFFIXES, ImageSet, natural_key
from utils.errors import DataError, UsageError

CAPTION_FIELDS = ("caption", "text")  # of a .json member; img2dataset writes `caption`


def is_shards(source):
    """Whether a data source names tar files: by pattern, by name, or as a folder that holds some at its top."""
    if str(source).endswith(".tar"):
        return True
    return Path(source).is_dir() and any(Path(source).glob("*.tar"))


def expand(pattern):
    """Paths of 'DIR/{00000..00012}.tar' or of a glob, natural order. Digits keep their width."""
    span = re.search(r"\{(\d+)\.\.(\d+)\}", pattern)
    if span is None:
        return sorted(glob.glob(pattern), key=natural_key) if glob.has_magic(pattern) else [pattern]
    first, last = span.groups()
    numbers = range(int(first), int(last) + 1)
    return [p for n in numbers for p in expand(f"{pattern[: span.start()]}{n:0{len(first)}d}{pattern[span.end() :]}")]


def _shard_paths(flag, source):
    if re.match(r"\w+:", str(source)):
        raise UsageError(f"{flag}={str(source)!r} is an address; training takes shards on this machine")
    path = Path(source)
    paths = sorted(path.glob("*.tar"), key=natural_key) if path.is_dir() else [Path(p) for p in expand(str(source))]
    missing = [p for p in paths if not p.is_file()]
    if missing or not paths:
        raise UsageError(
            f"{flag}={str(source)!r}: {str(missing[0] if missing else source)!r} does not exist; takes tar files"
        )
    return paths


def _caption(name, content):
    if name.endswith(".txt"):
        return content.decode("utf-8", "replace").strip()
    try:
        fields = json.loads(content)
    except ValueError:
        return None
    found = [fields[k] for k in CAPTION_FIELDS if isinstance(fields, dict) and isinstance(fields.get(k), str)]
    return found[0] if found else None


def _read_shard(path):
    """Yield (member, offset, size) of images and collect captions. Returns: ([(member, offset, size)], {stem: caption})."""
    images, captions = [], {}
    try:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                name = member.name.lower()
                if not member.isfile():
                    continue
                # a sample's name ends at the first dot of its last part
                folder, _, last = member.name.rpartition("/")
                stem = f"{folder}/{last.split('.')[0]}"
                if name.endswith(SUFFIXES):
                    images.append((member.name, stem, member.offset_data, member.size))
                elif name.endswith((".txt", ".json")) and not (stem in captions and name.endswith(".json")):
                    text = _caption(name, archive.extractfile(member).read())
                    if text:
                        captions[stem] = text
    except (tarfile.TarError, OSError) as error:
        raise DataError(f"{path}: is not a whole tar file ({error})") from None
    return images, captions


def list_shards(flag, source):
    """Images and captions of shards, in natural order of shards, in each in the order of its members.

    source: a tar file, a folder with tar files, a glob, or 'DIR/{00000..00012}.tar'. An image's key is
    <shard>/<member>. Returns: (ImageSet, {key: [caption]}), where images without a caption are not in the latter.
    """
    paths = _shard_paths(flag, source)
    roots = {p.parent for p in paths}
    if len(roots) > 1:
        raise UsageError(f"{flag}={str(source)!r} names shards in {len(roots)} folders; takes those of one")
    keys, sizes, places, captions = [], [], [], {}
    for path in paths:
        images, texts = _read_shard(path)
        for member, stem, offset, size in images:
            key = f"{path.name}/{member}"
            keys.append(key)
            sizes.append(size)
            places.append((path.name, offset))
            if stem in texts:
                captions[key] = [texts[stem]]
    if not keys:
        raise UsageError(f"{flag}={str(source)!r} holds no images; takes shards with {', '.join(SUFFIXES)}")
    return ImageSet(roots.pop(), tuple(keys), tuple(sizes), places=tuple(places)), captions
