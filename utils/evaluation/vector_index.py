"""An index of descriptors on disk: of each shard of images a .npy of vectors and a Parquet of what is known of each image.

    DIR/index.json              what made the vectors, the shards there will be, where the images lie; counts once complete
    DIR/shards/<name>.parquet   a row an image (COLUMNS); as its metadata what the shard was made of, what could not be read
    DIR/shards/<name>.npy       [rows, D] float16, L2-normalised; written last: a shard is there once this is

Vectors are memory-mapped and never all held: what a search holds is a block of them. A row of the index is a number, counted
through the shards that are there in natural order.
"""

import functools
import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from utils.data.image_sets import ImageSet, natural_key
from utils.errors import DataError, UsageError
from utils.manifest import read_manifest, whole_file, write_manifest

KIND, FILE, FOLDER = "index", "index.json", "shards"
FACTS = b"diffrep"  # the key of our facts in a Parquet's metadata
COLUMNS = ("key", "caption", "url", "width", "height", "bytes", "offset")
MOST_MAPS = 16_384  # maps that are kept open; a system allows 65,530 a process
BLOCK_BYTES = 128 << 20  # of float32 vectors that are held at once


def _schema():
    import pyarrow as pa

    # key: as training names the image; width, height: pixels as stored; bytes: of the file; offset: in its tar, else null
    types = (pa.string(), pa.string(), pa.string(), pa.int32(), pa.int32(), pa.int64(), pa.int64())
    return pa.schema(list(zip(COLUMNS, types, strict=True)))


def is_index(path):
    """Whether a path is an index: a folder that holds an index.json of ours."""
    found = Path(path) / FILE
    return found.is_file() and found.read_bytes()[:4096].find(b'"kind": "index"') >= 0


# Writing -------------------------------------------------------------------------------------------------------------


def write_index(root, *, descriptor, source, planned, **more):
    """Write index.json. descriptor: dict, pt_style and the record of the extractor; source: {"folder", "shards": bool};
    planned: names of shards; more: of JSON types, such as counts."""
    source = source | {"relative": os.path.relpath(source["folder"], root)}
    names = sorted(planned, key=natural_key)
    write_manifest(Path(root) / FILE, KIND, descriptor=descriptor, source=source, shards=names, **more)


def paths_of(root, name):
    """The two files of a shard. Returns: (.npy, .parquet)."""
    return Path(root) / FOLDER / f"{name}.npy", Path(root) / FOLDER / f"{name}.parquet"


def write_shard(root, name, vectors, rows, *, descriptor, made_of, bad=()):
    """Write a shard whole: first its Parquet, then its vectors, without which it counts as absent.

    vectors: [n, D], L2-normalised; rows: n dicts of COLUMNS, missing ones are null; made_of: of JSON types, what tells the
    shard's images from the same ones changed; bad: [(key, reason)] of images that are left out.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    vectors = np.asarray(vectors)
    facts = {"descriptor": descriptor, "made_of": made_of, "bad": [list(b) for b in bad], "fingerprint": _fingerprint(rows)}
    table = pa.Table.from_pylist([{c: _utf8(r.get(c)) for c in COLUMNS} for r in rows], _schema())
    array_path, table_path = paths_of(root, name)
    array_path.unlink(missing_ok=True)  # of an earlier build: it does not belong to the new Parquet
    with whole_file(table_path) as part:
        pq.write_table(table.replace_schema_metadata({FACTS: json.dumps(facts)}), part)
    with whole_file(array_path) as part, open(part, "wb") as handle:
        np.save(handle, vectors.astype(np.float16))


def _utf8(value):
    """Text that Parquet can hold: bytes of a file name that are not UTF-8 become ?."""
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value


def _fingerprint(rows):
    digest = hashlib.sha256()
    for row in rows:
        digest.update(f"{row['key']}\0{row['bytes']}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


# Reading -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shard:
    """A shard that is there. first: its first row in the index; offset: of the vectors in the .npy, in bytes."""

    name: str
    first: int
    rows: int
    offset: int
    facts: dict


@dataclass(frozen=True)
class VectorIndex:
    """What of an index is there. descriptor: what made the vectors; source: where the images lie; planned: names of all
    shards; shards: those that are there, in natural order."""

    root: Path
    descriptor: dict
    source: dict
    planned: tuple
    shards: tuple
    dimensions: int

    def __len__(self):
        return self.shards[-1].first + self.shards[-1].rows

    @property
    def complete(self):
        return len(self.shards) == len(self.planned)

    @property
    def fingerprint(self):
        """SHA-256 over the shards' own, which are over (key, size in bytes) of their images. Hex."""
        return hashlib.sha256("\n".join(s.facts["fingerprint"] for s in self.shards).encode()).hexdigest()

    @property
    def bad(self):
        """[(key, reason)] of images that were left out."""
        return [tuple(b) for s in self.shards for b in s.facts["bad"]]

    def vectors(self, shard):
        """The vectors of a shard, memory-mapped: a [rows, D] float16 torch tensor, not to be written to."""
        import torch

        if shard.name not in self._maps:
            if not shard.rows:  # nothing that could be mapped
                return torch.empty(0, self.dimensions, dtype=torch.float16)
            if len(self._maps) >= MOST_MAPS:
                self._maps.clear()
            # torch's map holds no file descriptor, numpy's holds one: a system allows some thousand
            start, count = shard.offset // 2, shard.rows * self.dimensions
            path = str(paths_of(self.root, shard.name)[0])
            whole = torch.from_file(path, shared=False, size=start + count, dtype=torch.float16)
            self._maps[shard.name] = whole[start:].view(shard.rows, self.dimensions)
        return self._maps[shard.name]

    @functools.cached_property
    def _maps(self):
        return {}

    def block_rows(self):
        return max(1, BLOCK_BYTES // (4 * self.dimensions))

    def blocks(self, rows=None, *, part=0, parts=1):
        """All vectors, or the part-th of `parts` consecutive parts of them, `rows` at a time.

        Yields: (first row, [n, D] float32 torch tensor, which the next block overwrites).
        """
        import torch

        rows = rows or self.block_rows()
        first, last = (len(self) * (part + n) // parts for n in (0, 1))
        buffer = torch.empty(min(rows, max(1, last - first)), self.dimensions)
        filled = 0
        for shard in self.shards:
            start, stop = max(first, shard.first), min(last, shard.first + shard.rows)
            if start >= stop:
                continue
            vectors = self.vectors(shard)
            while start < stop:
                taken = min(rows - filled, stop - start)
                buffer[filled : filled + taken] = vectors[start - shard.first : start - shard.first + taken]
                filled, start = filled + taken, start + taken
                if filled == rows:
                    yield start - filled, buffer[:filled]
                    filled = 0
        if filled:
            yield last - filled, buffer[:filled]

    def _by_shard(self, rows):
        """Yield (shard, places in `rows`, positions in the shard)."""
        rows = np.asarray(rows, np.int64)
        owners = np.searchsorted([s.first for s in self.shards], rows, side="right") - 1
        order = np.argsort(owners, kind="stable")
        cuts = np.flatnonzero(np.diff(owners[order])) + 1
        for places in np.split(order, cuts) if len(order) else ():
            shard = self.shards[owners[places[0]]]
            yield shard, places, rows[places] - shard.first

    def take(self, rows):
        """The vectors of some rows, in that order. Returns: [n, D] float32."""
        import torch

        found = torch.empty(len(rows), self.dimensions)
        for shard, places, positions in self._by_shard(rows):
            found[torch.from_numpy(places)] = self.vectors(shard)[torch.from_numpy(positions)].float()
        return found.numpy()

    def table(self, rows, columns=COLUMNS):
        """What is known of some rows, in that order. Returns: [dict of `columns`]."""
        found = [None] * len(rows)
        for shard, places, positions in self._by_shard(rows):
            for place, row in zip(places, self._read(shard, columns).take(positions).to_pylist(), strict=True):
                found[place] = row
        return found

    def _read(self, shard, columns):
        import pyarrow as pa
        import pyarrow.parquet as pq

        path = paths_of(self.root, shard.name)[1]
        try:
            return pq.read_table(path, columns=list(columns), memory_map=True)
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"{path}: cannot be read ({error}); --build_index makes this shard anew") from None

    def find(self, keys):
        """Rows of images by key. Returns: {key: row} of those that are there."""
        import pyarrow as pa
        import pyarrow.compute as pc

        wanted, found = pa.array([_utf8(k) for k in keys], pa.string()), {}
        named = {str(k).split("/")[0].removesuffix(".tar") for k in keys}
        for shard in self.shards:
            if self.source["shards"] and shard.name not in named:
                continue  # a key of a tar's member begins with the tar's name
            column = self._read(shard, ["key"])["key"]
            for position in np.flatnonzero(pc.is_in(column, wanted)):
                found.setdefault(column[int(position)].as_py(), shard.first + int(position))
        return found

    @functools.cached_property
    def image_root(self):
        """The folder of the images: as it was, or where it lies now if it was moved together with the index."""
        moved = self.root / self.source["relative"]
        return moved if moved.exists() and not Path(self.source["folder"]).exists() else Path(self.source["folder"])

    def images(self, rows):
        """The images of some rows, in that order, as an ImageSet; those of tar files are read in place."""
        table = self.table(rows, ("key", "bytes", "offset"))
        keys, sizes = tuple(r["key"] for r in table), tuple(r["bytes"] for r in table)
        places = tuple((r["key"].split("/")[0], r["offset"]) for r in table) if self.source["shards"] else ()
        return ImageSet(self.image_root, keys, sizes, places=places)


def _header(path):
    """(rows, dimensions, offset of the data) of a .npy of ours; DataError if it is not one, or not whole."""
    broken = "--build_index makes this shard anew"
    try:
        with open(path, "rb") as handle:
            np.lib.format.read_magic(handle)
            shape, fortran, dtype = np.lib.format.read_array_header_1_0(handle)
            offset = handle.tell()
    except (ValueError, OSError) as error:
        raise DataError(f"{path}: is not a .npy of vectors ({error}); {broken}") from None
    if dtype != np.float16 or len(shape) != 2 or fortran:
        raise DataError(f"{path}: holds {dtype} of shape {shape}; an index holds float16 vectors, {broken}")
    size, needed = os.stat(path).st_size, offset + 2 * shape[0] * shape[1]
    if size != needed:
        raise DataError(f"{path}: is truncated, {size} bytes of {needed}; {broken}")
    return *shape, offset


def shard_facts(root, name):
    """(rows of its Parquet, facts) of a shard; DataError when its Parquet is missing, damaged or not ours."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    array_path, path = paths_of(root, name)
    if not path.is_file():
        raise DataError(f"{array_path}: its Parquet {path.name!r} is missing; --build_index makes this shard anew")
    try:
        footer = pq.read_metadata(path)
        return footer.num_rows, json.loads(footer.metadata[FACTS])
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error}); --build_index makes this shard anew") from None


def read_shard(root, name, *, first=0):
    """A shard that is there: (Shard, its dimensions). DataError unless both files are whole and of one length."""
    path = paths_of(root, name)[0]
    rows, dimensions, offset = _header(path)
    count, facts = shard_facts(root, name)
    if count != rows:
        raise DataError(f"{path}: holds {rows} vectors, its Parquet {count} rows; --build_index makes this shard anew")
    return Shard(name, first, rows, offset, facts), dimensions


def finished(root):
    """Names of the shards whose vectors are there, in natural order."""
    folder = Path(root) / FOLDER
    names = [e.name.removesuffix(".npy") for e in os.scandir(folder) if e.name.endswith(".npy")] if folder.is_dir() else []
    return sorted((n for n in names if not n.startswith(".")), key=natural_key)


def open_index(flag, root):
    """Open what is there of an index: headers and footers alone are read.

    UsageError when nothing is there yet; DataError when a shard is damaged or was made by another descriptor.
    """
    root = Path(root)
    data = read_manifest(root / FILE, KIND)
    shards, width, first = [], None, 0
    for name in finished(root):
        shard, dimensions = read_shard(root, name, first=first)
        theirs = shard.facts["descriptor"]
        what = difference(theirs, data["descriptor"])
        if what or (shard.rows and dimensions != (width or dimensions)):
            what = what or f"{dimensions} dimensions, others {width}"
            raise DataError(f"{paths_of(root, name)[0]}: was made by another descriptor than the index ({what})")
        # a shard whose images could not be read holds [0, 0]
        width, first = dimensions if shard.rows else width, first + shard.rows
        shards.append(shard)
    if shards and not first:
        raise UsageError(f"{flag}={str(root)!r}: none of the {len(shards)} shards that are finished holds an image")
    if not first:
        raise UsageError(f"{flag}={str(root)!r}: no shard of this index is finished yet; --build_index goes on with it")
    return VectorIndex(root, data["descriptor"], data["source"], tuple(data["shards"]), tuple(shards), width)


def differing(found, expected):
    """The first entry in which two descriptors differ; None if their vectors can be compared.

    A precision or a file's name is no difference: half precision moves a score by some 1e-3, and weights have a hash.
    """
    keys = dict.fromkeys((*expected, *found))
    return next((k for k in keys if k not in ("dtype", "weights") and found.get(k) != expected.get(k)), None)


def difference(found, expected):
    """`differing` in words; None if there is nothing to say."""
    key = differing(found, expected)
    return None if key is None else f"{key} {found.get(key)!r}, not {expected.get(key)!r}"
