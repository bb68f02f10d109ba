"""An index of descriptors on disk: of each shard of images a .npy of vectors and a Parquet of what
is known of each image.

    DIR/index.json     what made the vectors, the shards there will be, where the images lie; counts
once complete
    DIR/shards/        the shards, as utils.index.shard_files writes them

Vectors are memory-mapped and never all held: what a search holds is a block of them. A row of the
index is a number, counted through the shards that are there in natural order."""

import contextlib
import functools
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from utils.data import tar_shards
from utils.data.image_sets import INDEX_KIND, ImageSet, natural_key
from utils.files import downloads
from utils.files.whole_files import read_manifest, write_manifest
from utils.index.index_descriptor import difference
from utils.index.shard_files import (
    COLUMNS,
    finished,
    is_utf8,
    paths_of,
    read_rows,
    read_shard,
    schema,
    stamp_of,
    wrong_field,
)
from utils.runtime.errors import DataError, UsageError

KIND, FILE = "index", "index.json"
MOST_MAPS = 16_384  # maps that are kept open; a system allows 65,530 a process
BLOCK_BYTES = 128 << 20  # of float32 vectors that are held at once


def is_index(path):
    """Whether a path is an index: a folder that holds an index.json of ours, or a damaged one
    beside shards."""
    found = Path(path) / FILE
    if not found.is_file():
        return False
    with open(found, "rb") as file:
        return INDEX_KIND in file.read(4096) or bool(finished(path))


# Writing ------------------------------------------------------------------------------------------


def write_index(root, *, descriptor, source, planned, **more):
    """Write index.json. descriptor: dict, pt_style and the record of the extractor; source:
    {"folder", "shards": bool}; planned: names of shards; more: of JSON types, such as counts."""
    folder = source["folder"]
    relative = (
        folder if tar_shards.is_address(folder) else os.path.relpath(folder, Path(root).resolve())
    )
    source = source | {"relative": relative}
    names = sorted(planned, key=natural_key)
    write_manifest(
        Path(root) / FILE, KIND, descriptor=descriptor, source=source, shards=names, **more
    )


# Reading ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class VectorIndex:
    """What of an index is there. descriptor: what made the vectors; source: where the images lie;
    planned: names of all shards; shards: those of them that are there, in natural order."""

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
        return {s.name for s in self.shards} == set(self.planned)

    @property
    def fingerprint(self):
        """SHA-256 over the shards' own, which are over (key, size in bytes) of their images.
        Hex."""
        return hashlib.sha256(
            "\n".join(s.facts["fingerprint"] for s in self.shards).encode()
        ).hexdigest()

    @property
    def bad(self):
        """[(key, reason)] of images that were left out."""
        return [tuple(b) for s in self.shards for b in s.facts["bad"]]

    @property
    def flat(self):
        """How many images have the vector 0, as those of one grey have under `pixel`: no search
        finds them."""
        return sum(s.facts.get("flat", 0) for s in self.shards)

    @property
    def damaged(self):
        """[(name of a tar file, why)] of those that could not be read to their end: what comes
        before is in the index."""
        return [(f"{s.name}.tar", s.facts["damage"]) for s in self.shards if "damage" in s.facts]

    def vectors(self, shard):
        """The vectors of a shard, memory-mapped: a [rows, D] float16 torch tensor, not to be
        written to."""
        import torch

        if shard.name not in self._maps:
            if not shard.rows:  # nothing that could be mapped
                return torch.empty(0, self.dimensions, dtype=torch.float16)
            if len(self._maps) >= MOST_MAPS:
                self._maps.clear()
            # torch's map holds no file descriptor, numpy's holds one: a system allows some thousand
            start, count = shard.offset // 2, shard.rows * self.dimensions
            path = str(paths_of(self.root, shard.name)[0])
            with self._as_opened(shard):
                whole = torch.from_file(path, shared=False, size=start + count, dtype=torch.float16)
            self._maps[shard.name] = whole[start:].view(shard.rows, self.dimensions)
        return self._maps[shard.name]

    @contextlib.contextmanager
    def _as_opened(self, shard):
        """DataError unless a shard that is read in the block is still the one that was opened: a
        build that finds its images changed makes it anew, under the same names."""
        try:
            yield
        finally:
            if stamp_of(self.root, shard.name) != shard.stamp:
                path = paths_of(self.root, shard.name)[0]
                raise DataError(
                    f"{path}: was made anew after the index was opened; search again"
                ) from None

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
                buffer[filled : filled + taken] = vectors[
                    start - shard.first : start - shard.first + taken
                ]
                filled, start = filled + taken, start + taken
                if filled == rows:
                    yield start - filled, buffer[:filled]
                    filled = 0
        if filled:
            yield last - filled, buffer[:filled]

    @functools.cached_property
    def _firsts(self):
        return np.array([s.first for s in self.shards], np.int64)

    def _by_shard(self, rows):
        """Yield (shard, places in `rows`, positions in the shard)."""
        rows = np.asarray(rows, np.int64)
        owners = np.searchsorted(self._firsts, rows, side="right") - 1
        order = np.argsort(owners, kind="stable")
        cuts = np.flatnonzero(np.diff(owners[order])) + 1
        for places in np.split(order, cuts) if len(order) else ():
            shard = self.shards[owners[places[0]]]
            yield shard, places, rows[places] - shard.first

    def take(self, rows):
        """The vectors of some rows, in that order. Returns: [n, D] float32."""
        import torch

        # gathered shard by shard by numpy, whose calls cost a third of torch's, then converted and
        # put in order at once
        gathered, order, filled = (
            np.empty((len(rows), self.dimensions), np.float16),
            [np.empty(0, np.int64)],
            0,
        )
        for shard, places, positions in self._by_shard(rows):
            part = gathered[filled : filled + len(places)]
            # which writes into `out` itself
            np.take(self.vectors(shard).numpy(), positions, axis=0, out=part, mode="clip")
            order.append(places)
            filled += len(places)
        found, places = torch.from_numpy(gathered), np.concatenate(order)
        if not (np.diff(places) > 0).all():  # rows that rise are in order already
            found = torch.empty_like(found).index_copy_(0, torch.from_numpy(places), found)
        return found.float().numpy()

    def arrow(self, rows, columns=COLUMNS):
        """What is known of some rows, in that order; each shard's Parquet is read once. Returns:
        pyarrow.Table."""
        import pyarrow as pa

        wanted = pa.schema([schema().field(c) for c in columns])
        parts, order = [wanted.empty_table()], [np.empty(0, np.int64)]
        for shard, places, positions in self._by_shard(rows):
            with self._as_opened(shard):
                known = read_rows(self.root, shard.name, columns).take(positions)
            parts.append(known.replace_schema_metadata(None))
            order.append(places)
        places = np.concatenate(order)
        found = pa.concat_tables(parts)
        # rows that rise are in order already: no copy
        return found if (np.diff(places) > 0).all() else found.take(np.argsort(places))

    def table(self, rows, columns=COLUMNS):
        """`arrow` as [dict of `columns`], for few rows."""
        return self.arrow(rows, columns).to_pylist()

    def find(self, keys):
        """Rows of images by key. Returns: {key: row} of those that are there."""
        import pyarrow as pa
        import pyarrow.compute as pc

        wanted, found = pa.array([k for k in keys if is_utf8(k)], pa.string()), {}
        named = {str(k).split("/")[0].removesuffix(".tar") for k in keys}
        for shard in self.shards:
            if self.source["shards"] and shard.name not in named:
                continue  # a key of a tar's member begins with the tar's name
            with self._as_opened(shard):
                column = read_rows(self.root, shard.name, ["key"])["key"]
            for position in np.flatnonzero(pc.is_in(column, wanted)):
                found.setdefault(column[int(position)].as_py(), shard.first + int(position))
        return found

    @functools.cached_property
    def image_root(self):
        """The folder of the images: as it was, or where it lies now if it was moved together with
        the index."""
        was, *moved = folders_of(self.root, self.source)
        return moved[0] if moved and moved[0].exists() and not was.exists() else was

    def images(self, rows):
        """The images of some rows, in that order, as an ImageSet; those of tar files are read in
        place, also behind an address. Those whose tar file was written to since, or whose file has
        another size, are its `changed`."""
        keys, sizes, offsets = (
            tuple(c.to_pylist()) for c in self.arrow(rows, ("key", "bytes", "offset")).columns
        )
        if not self.source["shards"]:
            others = frozenset(
                k
                for k, size in zip(keys, sizes, strict=True)
                if self._has_changed(k, {"bytes": size})
            )
            return ImageSet(self.image_root, keys, sizes, changed=others)
        places = tuple((k.split("/")[0], offset) for k, offset in zip(keys, offsets, strict=True))
        # what it says is compared when a picture is asked for
        if isinstance(self.image_root, downloads.Address):
            states = {
                tar: self._made_of[tar]
                for tar in {tar for tar, _ in places}
                if self._made_of.get(tar)
            }
            return ImageSet(self.image_root, keys, sizes, places=places, states=states)
        others = {
            tar
            for tar in {tar for tar, _ in places}
            if self._has_changed(tar, self._made_of.get(tar, {}))
        }
        changed = frozenset(k for k, (tar, _) in zip(keys, places, strict=True) if tar in others)
        return ImageSet(self.image_root, keys, sizes, places=places, changed=changed)

    @functools.cached_property
    def _made_of(self):
        return {f"{s.name}.tar": s.facts["made_of"] for s in self.shards}

    def _has_changed(self, name, recorded):
        """Whether a file is another than the recorded one; one that is gone is told when it is
        opened."""
        try:
            state = tar_shards.change_stamp(self.image_root / name)
        except OSError:
            return False
        return any(state[k] != recorded.get(k, state[k]) for k in state)


def folders_of(root, source):
    """Where the images of an index may lie: an Address, or a Path as it was and one as it is when
    it was moved together with the index. source: of index.json. Returns: list of one or two."""
    if tar_shards.is_address(source["folder"]):
        return [downloads.Address(source["folder"])]
    return [Path(source["folder"]), (Path(root) / source["relative"]).resolve()]


def read_record(root):
    """index.json, checked. DataError when it is damaged or no index's, with what to do. Returns:
    dict."""
    path, anew = Path(root) / FILE, "remove it, and --build_index makes it anew from the shards"
    try:
        data = read_manifest(path, KIND)
    except DataError as error:
        raise DataError(f"{error}; {anew}" if "is not JSON" in str(error) else str(error)) from None
    wrong = wrong_field(data, descriptor=dict, source=dict, shards=list)
    wrong = wrong or wrong_field(data["source"], folder=str, relative=str, shards=bool)
    if wrong or not all(isinstance(name, str) for name in data["shards"]):
        raise DataError(f"{path}: holds no {wrong or 'shards'!r} as an index does; {anew}")
    return data


def open_index(flag, root):
    """Open what is there of an index: headers and footers alone are read. Shards that are not
    planned are none of it.

    UsageError when nothing is there yet; DataError when index.json or a shard is damaged, or one
    was made by another descriptor."""
    root = Path(root)
    data = read_record(root)
    shards, width, first = [], None, 0
    planned = set(data["shards"])
    for name in (n for n in finished(root) if n in planned):
        shard, dimensions = read_shard(root, name, first=first)
        theirs = shard.facts["descriptor"]
        what = difference(theirs, data["descriptor"])
        if what or (shard.rows and dimensions != (width or dimensions)):
            what = what or f"{dimensions} dimensions, others {width}"
            raise DataError(
                f"{paths_of(root, name)[0]}: was made by another descriptor than the index ({what})"
            )
        # a shard whose images could not be read holds [0, 0]
        width, first = dimensions if shard.rows else width, first + shard.rows
        shards.append(shard)
    if shards and not first:
        raise UsageError(
            f"{flag}={str(root)!r}: none of the {len(shards)} shards that are finished holds an"
            " image"
        )
    if not first:
        raise UsageError(
            f"{flag}={str(root)!r}: no shard of this index is finished yet; --build_index goes on"
            " with it"
        )
    return VectorIndex(
        root, data["descriptor"], data["source"], tuple(data["shards"]), tuple(shards), width
    )
