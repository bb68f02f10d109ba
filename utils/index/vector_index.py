"""An index of descriptors on disk: open it, read its vectors block by block or by row, and map rows
to images.

    DIR/index.json     descriptor, planned shards, where the images are; counts once complete
    DIR/shards/        the shards, as utils.index.shard_files writes them

Vectors are memory-mapped: a search holds one block of them, never all. A row of the index is a
number; rows are counted through the finished shards in natural order."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from utils.data import tar_shards
from utils.data.content_stamps import CONTENT
from utils.data.folder_walk import INDEX_KIND
from utils.data.image_sets import ImageSet, natural_key
from utils.data.image_storage import ByteRanges
from utils.files import downloads
from utils.files.text_files import MalformedError
from utils.files.whole_files import read_manifest, write_manifest
from utils.index import shard_files
from utils.index.index_descriptor import difference
from utils.index.shard_files import COLUMNS, Shard
from utils.runtime.errors import DataError, UsageError

if TYPE_CHECKING:
    import pyarrow as pa
    import torch

    Rows = Sequence[int] | range | np.ndarray

KIND, FILE = "index", "index.json"
CHECKSUM = "checksum"  # field of index.json, of all others
MOST_MAPS = 16_384  # memory maps that are kept open; a system allows 65,530 per process
BLOCK_BYTES = 128 << 20  # of float32 vectors that are held at once


def is_index(path: str | Path) -> bool:
    """Whether a path is an index: a folder with our index.json, or with a damaged one beside
    shards."""
    record_path = Path(path) / FILE
    if not record_path.is_file():
        return False
    with open(record_path, "rb") as file:
        return INDEX_KIND in file.read(4096) or bool(shard_files.finished(path))


# Writing ------------------------------------------------------------------------------------------


def write_index(
    root: str | Path,
    *,
    descriptor: dict[str, Any],
    source: dict[str, Any],
    planned: Iterable[str],
    **more: Any,
) -> None:
    """Write index.json.

    descriptor: pt_style and the record of the extractor.
    source: {"folder": of the images or tar files, "shards": whether they are tar files}.
    planned: names of all shards, finished or not.
    more: further fields of JSON types, such as counts.
    """
    folder = source["folder"]
    relative = (
        folder if tar_shards.is_address(folder) else os.path.relpath(folder, Path(root).resolve())
    )
    source = source | {"relative": relative}
    names = sorted(planned, key=natural_key)
    fields = {"descriptor": descriptor, "source": source, "shards": names, **more}
    write_manifest(Path(root) / FILE, KIND, **fields, **{CHECKSUM: _checksum(fields)})


def _checksum(fields: Mapping[str, Any]) -> str:
    """SHA-256 of the fields of index.json, in hexadecimal."""
    kept = {k: v for k, v in fields.items() if k not in ("kind", "version", CHECKSUM)}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


# Reading ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class VectorIndex:
    """The finished shards of an index. Its length is the number of images."""

    root: Path
    descriptor: dict[str, Any]  # record of the descriptor that computed the vectors
    source: dict[str, Any]  # where the images are: folder, relative, shards (whether of tar files)
    planned: tuple[str, ...]  # names of all shards, finished or not
    shards: tuple[Shard, ...]  # the finished ones, in natural order
    dimensions: int

    def __len__(self) -> int:
        return self.shards[-1].first + self.shards[-1].rows

    @property
    def complete(self) -> bool:
        """Whether all planned shards are finished."""
        return {s.name for s in self.shards} == set(self.planned)

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the fingerprints of the shards, which cover (key, size in bytes) of their
        images. Hexadecimal."""
        return hashlib.sha256(
            "\n".join(s.facts["fingerprint"] for s in self.shards).encode()
        ).hexdigest()

    @property
    def change_stamp(self) -> dict[str, str]:
        """Two hashes, of the images and of the facts of all shards: they change when a shard is
        rebuilt or added."""
        facts = [(s.name, s.rows, s.facts) for s in self.shards]
        made_of = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
        return {"index": self.fingerprint, "facts": made_of}

    @property
    def content_fingerprint(self) -> str | None:
        """SHA-256 over the change stamps of the shards, which cover the contents of their images.
        None where a shard was built by an earlier version, or its server gives no content."""
        made_of = [s.facts["made_of"] for s in self.shards]
        if not all(CONTENT in stamp for stamp in made_of):
            return None
        contents = "\n".join(stamp[CONTENT] for stamp in made_of)
        return hashlib.sha256(contents.encode()).hexdigest()

    @property
    def bad(self) -> list[tuple[str, str]]:
        """(key, reason) of each image that was skipped."""
        return [(key, reason) for s in self.shards for key, reason in s.facts["bad"]]

    @property
    def flat(self) -> int:
        """How many images have a zero vector, as uniformly grey images have under `pixel`. A search
        never returns them."""
        return sum(s.facts.get("flat", 0) for s in self.shards)

    @property
    def damaged(self) -> list[tuple[str, str]]:
        """(file name, reason) of each tar file that could not be read to its end. The images before
        the damage are in the index."""
        return [(f"{s.name}.tar", s.facts["damage"]) for s in self.shards if "damage" in s.facts]

    # Vectors

    def vectors(self, shard: Shard) -> torch.Tensor:
        """The vectors of a shard, memory-mapped: [rows, D] float16, read-only."""
        import torch

        if shard.name not in self._maps:
            if not shard.rows:  # an empty file cannot be mapped
                return torch.empty(0, self.dimensions, dtype=torch.float16)
            if len(self._maps) >= MOST_MAPS:
                self._maps.clear()
            # unlike numpy's, torch's map holds no file descriptor: a system allows some thousand
            start, count = shard.offset // 2, shard.rows * self.dimensions
            path = str(shard_files.paths_of(self.root, shard.name)[0])
            with self._require_unchanged(shard):
                whole = torch.from_file(path, shared=False, size=start + count, dtype=torch.float16)
            self._maps[shard.name] = whole[start:].view(shard.rows, self.dimensions)
        return self._maps[shard.name]

    @contextlib.contextmanager
    def _require_unchanged(self, shard: Shard) -> Iterator[None]:
        """Raise DataError if a shard that the block reads was rebuilt since the index was opened. A
        build rebuilds a shard whose images have changed, under the same file names."""
        try:
            yield
        finally:
            if shard_files.stamp_of(self.root, shard.name) != shard.stamp:
                path = shard_files.paths_of(self.root, shard.name)[0]
                raise DataError(
                    f"{path}: was rebuilt after the index was opened; search again"
                ) from None

    @functools.cached_property
    def _maps(self) -> dict[str, torch.Tensor]:
        return {}

    def block_rows(self) -> int:
        """Number of rows of a block of BLOCK_BYTES."""
        return max(1, BLOCK_BYTES // (4 * self.dimensions))

    def blocks(
        self, rows: int | None = None, *, part: int = 0, parts: int = 1
    ) -> Iterator[tuple[int, torch.Tensor]]:
        """All vectors, or the part-th of `parts` consecutive parts of them, `rows` at a time.

        Yields: (first row, [n, D] float32 tensor, which the next block overwrites)."""
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
    def _firsts(self) -> np.ndarray:
        return np.array([s.first for s in self.shards], np.int64)

    def _by_shard(self, rows: Rows) -> Iterator[tuple[Shard, np.ndarray, np.ndarray]]:
        """Yield (shard, places in `rows`, positions in the shard) for each shard that holds some of
        the rows."""
        rows = np.asarray(rows, np.int64)
        owners = np.searchsorted(self._firsts, rows, side="right") - 1
        order = np.argsort(owners, kind="stable")
        cuts = np.flatnonzero(np.diff(owners[order])) + 1
        for places in np.split(order, cuts) if len(order) else ():
            shard = self.shards[owners[places[0]]]
            yield shard, places, rows[places] - shard.first

    def take(self, rows: Rows) -> np.ndarray:
        """The vectors of some rows, in that order. Returns: [n, D] float32."""
        import torch

        # numpy gathers shard by shard, as its calls cost a third of torch's; all rows are then
        # converted and put in order at once
        gathered = np.empty((len(rows), self.dimensions), np.float16)
        order, filled = [np.empty(0, np.int64)], 0
        for shard, places, positions in self._by_shard(rows):
            part = gathered[filled : filled + len(places)]
            # mode: with it numpy writes into `out` without a copy
            np.take(self.vectors(shard).numpy(), positions, axis=0, out=part, mode="clip")
            order.append(places)
            filled += len(places)
        vectors, places = torch.from_numpy(gathered), np.concatenate(order)
        if not (np.diff(places) > 0).all():  # ascending rows are in order already
            vectors = torch.empty_like(vectors).index_copy_(0, torch.from_numpy(places), vectors)
        return vectors.float().numpy()

    # Images

    def arrow(self, rows: Rows, columns: Sequence[str] = COLUMNS) -> pa.Table:
        """Columns of some rows, in that order; each shard's Parquet is read once."""
        import pyarrow as pa

        schema = shard_files.schema()
        wanted = pa.schema([schema.field(c) for c in columns])
        parts, order = [wanted.empty_table()], [np.empty(0, np.int64)]
        for shard, places, positions in self._by_shard(rows):
            with self._require_unchanged(shard):
                part = shard_files.read_rows(self.root, shard.name, columns).take(positions)
            parts.append(part.replace_schema_metadata(None))
            order.append(places)
        places, table = np.concatenate(order), pa.concat_tables(parts)
        # ascending rows are in order already: no copy
        return table if (np.diff(places) > 0).all() else table.take(np.argsort(places))

    def table(self, rows: Rows, columns: Sequence[str] = COLUMNS) -> list[dict[str, Any]]:
        """`arrow` as a list of dicts, for few rows."""
        return self.arrow(rows, columns).to_pylist()

    def find(self, keys: Iterable[str]) -> dict[str, int]:
        """{key: row} for the keys that are in the index."""
        import pyarrow as pa
        import pyarrow.compute as pc

        keys = list(keys)
        wanted = pa.array([k for k in keys if shard_files.is_utf8(k)], pa.string())
        tars = {str(k).split("/")[0].removesuffix(".tar") for k in keys}
        rows: dict[str, int] = {}
        for shard in self.shards:
            if self.source["shards"] and shard.name not in tars:
                continue  # the key of a tar member begins with the name of the tar
            with self._require_unchanged(shard):
                column = shard_files.read_rows(self.root, shard.name, ["key"])["key"]
            for position in np.flatnonzero(pc.is_in(column, wanted)):
                rows.setdefault(column[int(position)].as_py(), shard.first + int(position))
        return rows

    @functools.cached_property
    def image_root(self) -> Path | downloads.Address:
        """The folder of the images: the recorded one, or the one relative to the index if both were
        moved together."""
        folders = folders_of(self.root, self.source)
        existing = [f for f in folders if isinstance(f, Path) and f.exists()]
        return existing[0] if existing else folders[0]

    def images(self, rows: Rows) -> ImageSet:
        """The images of some rows, in that order; those of tar files are read in place, also at an
        https address. `changed` are the images whose tar file was modified since the build, or
        whose own file has another size."""
        keys, sizes, offsets = (
            tuple(c.to_pylist()) for c in self.arrow(rows, ("key", "bytes", "offset")).columns
        )
        if not self.source["shards"]:
            changed = frozenset(
                key
                for key, size in zip(keys, sizes, strict=True)
                if self._has_another_size(key, size)
            )
            return ImageSet(self.image_root, keys, sizes, changed=changed)
        places = tuple((k.split("/")[0], offset) for k, offset in zip(keys, offsets, strict=True))
        tars = {tar for tar, _ in places}
        # a server's stamps are compared when a picture is read
        if isinstance(self.image_root, downloads.Address):
            stamps = {tar: self._tar_stamps[tar] for tar in tars if self._tar_stamps.get(tar)}
            storage = ByteRanges(stamps)
            return ImageSet(self.image_root, keys, sizes, places=places, storage=storage)
        rewritten = {tar for tar in tars if self._has_changed(tar, self._tar_stamps.get(tar, {}))}
        changed = frozenset(k for k, (tar, _) in zip(keys, places, strict=True) if tar in rewritten)
        return ImageSet(self.image_root, keys, sizes, places=places, changed=changed)

    @functools.cached_property
    def _tar_stamps(self) -> dict[str, Any]:
        """{file name: change stamp at the time of the build} of the tar files."""
        return {f"{s.name}.tar": s.facts["made_of"] for s in self.shards}

    def _has_another_size(self, key: str, size: int) -> bool:
        """Whether an image's file has another size than when the index was built. False for a
        missing file."""
        path = self.image_root / key
        return os.path.exists(path) and os.stat(path).st_size != size

    def _has_changed(self, name: str, recorded: dict[str, Any]) -> bool:
        """Whether a file differs from its recorded stamp. False for a missing file: reading it
        gives the error."""
        try:
            stamp = tar_shards.change_stamp(self.image_root / name)
        except OSError:
            return False
        return any(stamp[k] != recorded.get(k, stamp[k]) for k in stamp)


def folders_of(root: str | Path, source: dict[str, Any]) -> list[Path | downloads.Address]:
    """Where the images of an index may be: its Address, or the recorded Path and the Path that it
    has if it was moved together with the index.

    source: of index.json."""
    if tar_shards.is_address(source["folder"]):
        return [downloads.Address(source["folder"])]
    return [Path(source["folder"]), (Path(root) / source["relative"]).resolve()]


def read_record(root: str | Path) -> dict[str, Any]:
    """The content of index.json, checked. DataError, which says what to do, when it is damaged or
    not of an index."""
    path, advice = Path(root) / FILE, "remove it, and --build_index rebuilds it from the shards"
    try:
        data = read_manifest(path, KIND)
    except MalformedError as error:
        raise DataError(f"{error}; {advice}") from None
    wrong = shard_files.wrong_field(data, descriptor=dict, source=dict, shards=list)
    wrong = wrong or shard_files.wrong_field(data["source"], folder=str, relative=str, shards=bool)
    if wrong or not all(isinstance(name, str) for name in data["shards"]):
        raise DataError(f"{path}: has no valid {wrong or 'shards'!r}; {advice}")
    if CHECKSUM in data and data[CHECKSUM] != _checksum(data):
        raise DataError(f"{path}: {shard_files.DIFFERS}; {advice}")
    return data


def open_index(flag: str, root: str | Path) -> VectorIndex:
    """Open the finished shards of an index; only headers and footers are read. Shards that are not
    planned are ignored.

    flag: the flag that names `root`, for messages.

    UsageError when no image is indexed yet; DataError when index.json or a shard is damaged, or a
    shard was computed with another descriptor."""
    root = Path(root)
    data = read_record(root)
    planned = set(data["shards"])
    shards, dimensions = _open_shards(
        root, (n for n in shard_files.finished(root) if n in planned), data["descriptor"]
    )
    if not any(shard.rows for shard in shards):
        why = "no shard of this index is finished yet; run --build_index to continue"
        if shards:
            why = f"none of the {len(shards)} finished shards holds an image"
        raise UsageError(f"{flag}={str(root)!r}: {why}")
    return VectorIndex(
        root,
        data["descriptor"],
        data["source"],
        tuple(data["shards"]),
        tuple(shards),
        dimensions,
    )


def _open_shards(root, names, descriptor):
    """Open the shards of these names; rows are numbered across all shards. DataError unless all are
    whole and of the given descriptor. Returns: ([Shard], dimensions of their vectors, 0 without a
    vector)."""
    shards, dimensions, first = [], 0, 0
    for name in names:
        shard, width = shard_files.read_shard(root, name, first=first)
        reason = difference(shard.facts["descriptor"], descriptor)
        # a shard none of whose images could be read holds vectors of shape [0, 0]
        if not reason and shard.rows and dimensions and width != dimensions:
            reason = f"{width} dimensions, others {dimensions}"
        if reason:
            raise DataError(
                f"{shard_files.paths_of(root, name)[0]}: was computed with another descriptor than"
                f" the index ({reason})"
            )
        dimensions = width if shard.rows else dimensions
        first += shard.rows
        shards.append(shard)
    return shards, dimensions
