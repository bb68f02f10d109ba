"""Read and write one shard of an index: a file of vectors and a Parquet of image metadata.

DIR/shards/<name>.parquet   a row per image (COLUMNS); its metadata holds the facts of the shard:
                            descriptor, change stamp of its images, images that cannot be read
DIR/shards/<name>.npy       [rows, D] float16, L2-normalised; written last, so a shard exists only
                            once this file does

Both files are written to a temporary name and renamed, and are checked when they are read."""

from __future__ import annotations

import hashlib
import json
import os
import tokenize
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from utils.data.image_names import LeftOut
from utils.data.image_sets import natural_key
from utils.files.whole_files import whole_file
from utils.runtime.errors import DataError, first_line

if TYPE_CHECKING:
    import pyarrow as pa

FOLDER = "shards"
FACTS = b"diffrep"  # the key of our facts in a Parquet's metadata
FACTS_SHA256 = b"diffrep_sha256"  # the key of their checksum
CONTENT = "sha256"  # fact: checksums of the vectors and of the rows
DIFFERS = "differs from its checksum: it was changed or damaged after it was written"
REMOVE = "remove it and run --build_index, which rebuilds this shard"
REBUILD = "run --build_index to rebuild this shard"
# what numpy raises on a damaged .npy header, which it parses as Python
NO_HEADER = (
    ValueError,
    OSError,
    SyntaxError,
    TypeError,
    tokenize.TokenError,
    MemoryError,
    RecursionError,
)
COLUMNS = ("key", "caption", "url", "width", "height", "bytes", "offset")


def schema() -> pa.Schema:
    """The Arrow types of COLUMNS.

    key: the image's name in training; width, height: of the stored image, in pixels; bytes: size of
    the image file; offset: of the file in its tar, in bytes, null for a folder of images."""
    import pyarrow as pa

    types = (pa.string(), pa.string(), pa.string(), pa.int32(), pa.int32(), pa.int64(), pa.int64())
    return pa.schema(list(zip(COLUMNS, types, strict=True)))


# Writing ------------------------------------------------------------------------------------------


def paths_of(root: str | Path, name: str) -> tuple[Path, Path]:
    """The two files of a shard: (.npy, .parquet)."""
    folder = Path(root) / FOLDER
    return folder / f"{name}.npy", folder / f"{name}.parquet"


def write_shard(
    root: str | Path,
    name: str,
    vectors: np.ndarray,
    rows: Sequence[dict[str, Any]],
    *,
    descriptor: dict[str, Any],
    change_stamp: Mapping[str, Any],
    bad: Iterable[Sequence[str]] = (),
    damage: str | None = None,
    caption_faults: Sequence[tuple[str, str]] = (),
    left_out: LeftOut = (),
) -> None:
    """Write a shard: first its Parquet, then its vectors, without which the shard counts as absent.

    vectors: [n, D], L2-normalised.
    rows: n dicts of COLUMNS, missing values as null; UnicodeEncodeError for keys that are no UTF-8.
    descriptor: record of the descriptor that computed the vectors.
    change_stamp: JSON types; it differs when the images of the shard have changed.
    bad, caption_faults: (key, reason) of each image that was skipped, or whose text cannot be used.
    damage: why the tar file could not be read to its end, or None.
    left_out: other files beside the images, by kind."""
    import pyarrow.parquet as pq

    vectors = np.asarray(vectors)
    facts = {
        "descriptor": descriptor,
        "made_of": change_stamp,
        "bad": [list(pair) for pair in bad],
        "fingerprint": _fingerprint(rows),
    } | _optional_facts(vectors, damage, caption_faults, left_out)
    table = _table_of(rows)
    halves = vectors.astype(np.float16)
    facts[CONTENT] = {"vectors": _sha256(halves), "rows": _sha256_of_rows(table)}
    array_path, table_path = paths_of(root, name)
    array_path.unlink(missing_ok=True)  # vectors of an earlier build do not match the new Parquet
    with whole_file(table_path) as part:
        pq.write_table(table.replace_schema_metadata(_metadata(facts)), part)
    with whole_file(array_path) as part, open(part, "wb") as handle:
        np.save(handle, halves)


def _optional_facts(vectors, damage, caption_faults, left_out):
    """Facts that most shards lack: the damage of the tar file, texts that cannot be used, kinds of
    files that are left out, and how many vectors are zero."""
    facts: dict[str, Any] = {"damage": damage} if damage else {}
    facts |= {"left_out": dict(left_out)} if left_out else {}
    if caption_faults:
        key, reason = caption_faults[0]
        first = f"{_utf8(key)!r} ({_utf8(reason)})"
        facts["caption_faults"] = {"images": len(caption_faults), "first": first}
    # uniformly grey images under `pixel`: a zero vector matches nothing, not even itself
    flat = int((vectors == 0).all(1).sum())
    return facts | {"flat": flat} if flat else facts


def is_utf8(name: str) -> bool:
    """Whether a file name is valid UTF-8. Parquet would store any other name in altered form, and
    the file would not be found again."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _utf8(value):
    """Text that Parquet can store: a lone surrogate, which JSON may contain, becomes ?."""
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value


def _fingerprint(rows):
    """SHA-256 over (key, size in bytes) of the rows, in hexadecimal."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(f"{row['key']}\0{row['bytes']}\n".encode())
    return digest.hexdigest()


def _table_of(rows: Sequence[dict[str, Any]]) -> pa.Table:
    """Rows as the columns of a shard's Parquet."""
    import pyarrow as pa

    cleaned = [{c: _utf8(row.get(c)) for c in COLUMNS} | {"key": row["key"]} for row in rows]
    return pa.Table.from_pylist(cleaned, schema())


def _metadata(facts: dict[str, Any]) -> dict[bytes, str]:
    """The metadata of a shard's Parquet: its facts, and their checksum."""
    text = json.dumps(facts)
    return {FACTS: text, FACTS_SHA256: hashlib.sha256(text.encode()).hexdigest()}


def _sha256(vectors: np.ndarray) -> str:
    """SHA-256 of the bytes of vectors, in hexadecimal."""
    return hashlib.sha256(np.ascontiguousarray(vectors).view(np.uint8).data).hexdigest()


def _sha256_of_rows(table: pa.Table) -> str:
    """SHA-256 of the values of all rows, in hexadecimal: a bit of a Parquet file that changes no
    value does not change it."""
    digest = hashlib.sha256()
    for row in table.select(list(COLUMNS)).to_pylist():
        digest.update(json.dumps([row[column] for column in COLUMNS]).encode() + b"\n")
    return digest.hexdigest()


# Reading ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shard:
    """A finished shard of an opened index."""

    name: str
    first: int  # number of its first row in the index
    rows: int
    offset: int  # of the vectors in the .npy, in bytes
    facts: dict[str, Any]  # as `write_shard` stores them in the Parquet
    stamp: int | None  # modification time of the .npy when it was opened, in ns


def _header(path):
    """Read the header of a shard's .npy file. Returns: (rows, dimensions, offset of the data in
    bytes). DataError if the file is anything else, or truncated."""
    try:
        with open(path, "rb") as handle:
            np.lib.format.read_magic(handle)
            shape, fortran, dtype = np.lib.format.read_array_header_1_0(handle)
            offset = handle.tell()
    except NO_HEADER as error:
        why = first_line(error)
        raise DataError(f"{path}: is not a .npy of vectors ({why}); {REBUILD}") from None
    if dtype != np.float16 or len(shape) != 2 or fortran:
        raise DataError(
            f"{path}: holds {dtype} of shape {shape}; an index holds float16 vectors, {REBUILD}"
        )
    size, needed = os.stat(path).st_size, offset + 2 * shape[0] * shape[1]
    if size != needed:
        raise DataError(f"{path}: is truncated, {size} bytes of {needed}; {REBUILD}")
    return *shape, offset


def shard_facts(root: str | Path, name: str) -> tuple[int, dict[str, Any]]:
    """Read the facts of a shard. Returns: (rows of its Parquet, facts). DataError when the Parquet
    is missing, damaged or was not written by this toolkit."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    array_path, path = paths_of(root, name)
    if not path.is_file():
        raise DataError(f"{array_path}: its Parquet {path.name!r} is missing; {REBUILD}")
    try:
        footer = pq.read_metadata(path)
        facts = json.loads(footer.metadata[FACTS])
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: cannot be read ({first_line(error)}); {REBUILD}") from None
    wrong = wrong_field(facts, descriptor=dict, made_of=dict, bad=list, fingerprint=str)
    if not wrong and not all(
        isinstance(pair, list) and [type(text) for text in pair] == [str, str]
        for pair in facts["bad"]
    ):
        wrong = "bad"
    if wrong:
        raise DataError(f"{path}: cannot be read (its metadata has no valid {wrong!r}); {REBUILD}")
    return footer.num_rows, facts


def require_content(root: str | Path, name: str) -> None:
    """Raise DataError if a shard differs from the checksums that were stored when it was built; it
    names the file. Both files are read as a whole. A shard of an earlier version has no checksums;
    of it both files are parsed alone."""
    import pyarrow.parquet as pq

    array_path, path = paths_of(root, name)
    rows, dimensions, offset = _header(array_path)
    _, facts = shard_facts(root, name)
    about = pq.read_metadata(path).metadata
    recorded = about.get(FACTS_SHA256)
    if recorded is not None and hashlib.sha256(about[FACTS]).hexdigest().encode() != recorded:
        raise DataError(f"{path}: {DIFFERS}; {REMOVE}")
    table, content = read_rows(root, name, COLUMNS), facts.get(CONTENT)
    if content is None:
        return
    if _sha256_of_rows(table) != content["rows"]:
        raise DataError(f"{path}: {DIFFERS}; {REMOVE}")
    shape = (rows, dimensions)
    halves = (
        np.memmap(array_path, np.float16, "r", offset, shape) if rows else np.empty(shape, "f2")
    )
    if _sha256(halves) != content["vectors"]:
        raise DataError(f"{array_path}: {DIFFERS}; {REMOVE}")


def wrong_field(data: Any, **types: type) -> str | None:
    """The first of the named fields that is missing in `data`, a dict of JSON types, or that has
    another type; None if all are right."""
    if not isinstance(data, dict):
        return next(iter(types))
    return next(
        (
            name
            for name, kind in types.items()
            if name not in data or not isinstance(data[name], kind)
        ),
        None,
    )


def read_shard(root: str | Path, name: str, *, first: int = 0) -> tuple[Shard, int]:
    """Read a finished shard. Returns: (Shard, number of dimensions). DataError unless both files
    are whole and have the same number of rows. first: number of its first row in the index."""
    path, stamp = paths_of(root, name)[0], stamp_of(root, name)
    rows, dimensions, offset = _header(path)
    count, facts = shard_facts(root, name)
    if count != rows:
        raise DataError(f"{path}: holds {rows} vectors, its Parquet {count} rows; {REBUILD}")
    return Shard(name, first, rows, offset, facts, stamp), dimensions


def is_finished(root: str | Path, name: str) -> bool:
    """Whether a shard is finished: its vectors are written last."""
    return paths_of(root, name)[0].is_file()


def stamp_of(root: str | Path, name: str) -> int | None:
    """The modification time of a shard's vectors in ns, to detect a rebuild; None when there are no
    vectors."""
    try:
        return os.stat(paths_of(root, name)[0]).st_mtime_ns
    except OSError:
        return None


def finished(root: str | Path) -> list[str]:
    """Names of the finished shards, in natural order."""
    folder = Path(root) / FOLDER
    if not folder.is_dir():
        return []
    names = [e.name.removesuffix(".npy") for e in os.scandir(folder) if e.name.endswith(".npy")]
    return sorted((n for n in names if not n.startswith(".")), key=natural_key)


def read_rows(root: str | Path, name: str, columns: Iterable[str]) -> pa.Table:
    """Some columns of a shard's rows. DataError when its Parquet cannot be read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path, names = paths_of(root, name)[1], list(columns)
    try:
        return pq.read_table(path, columns=names, memory_map=True).select(names)
    except (OSError, pa.ArrowException, KeyError) as error:
        raise DataError(f"{path}: cannot be read ({first_line(error)}); {REBUILD}") from None
