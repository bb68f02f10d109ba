"""A shard of an index on disk: its vectors and what is known of each image, two files that are
written whole and checked.

DIR/shards/<name>.parquet   a row an image (COLUMNS); as its metadata what the shard was made of,
what could not be read DIR/shards/<name>.npy       [rows, D] float16, L2-normalised; written last: a
shard is there once this is"""

import hashlib
import json
import os
import tokenize
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from utils.data.image_sets import natural_key
from utils.files.whole_files import whole_file
from utils.runtime.errors import DataError, first_line

FOLDER = "shards"
FACTS = b"diffrep"  # the key of our facts in a Parquet's metadata
ANEW = "--build_index makes this shard anew"
# what numpy raises on the header of a .npy that is damaged: it reads it as Python
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


def schema():
    """The types of COLUMNS. Returns: pyarrow.Schema."""
    import pyarrow as pa

    # key: as training names the image; width, height: pixels as stored; bytes: of the file; offset:
    # in its tar, else null
    types = (pa.string(), pa.string(), pa.string(), pa.int32(), pa.int32(), pa.int64(), pa.int64())
    return pa.schema(list(zip(COLUMNS, types, strict=True)))


# Writing ------------------------------------------------------------------------------------------


def paths_of(root, name):
    """The two files of a shard. Returns: (.npy, .parquet)."""
    return Path(root) / FOLDER / f"{name}.npy", Path(root) / FOLDER / f"{name}.parquet"


def write_shard(root, name, vectors, rows, *, descriptor, made_of, bad=(), damage=None):
    """Write a shard whole: first its Parquet, then its vectors, without which it counts as absent.

    vectors: [n, D], L2-normalised; rows: n dicts of COLUMNS, missing ones are null, keys are UTF-8
    (UnicodeEncodeError); made_of: of JSON types, what tells the shard's images from the same ones
    changed; bad: [(key, reason)] of images that are left out; damage: why its tar file could not be
    read to the end."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    vectors = np.asarray(vectors)
    facts = {
        "descriptor": descriptor,
        "made_of": made_of,
        "bad": [list(b) for b in bad],
        "fingerprint": _fingerprint(rows),
    }
    facts |= {"damage": damage} if damage else {}
    # of one grey all over, under `pixel`: they match nothing, not even themselves
    facts |= {"flat": flat} if (flat := int((vectors == 0).all(1).sum())) else {}
    cleaned = [{c: _utf8(r.get(c)) for c in COLUMNS} | {"key": r["key"]} for r in rows]
    table = pa.Table.from_pylist(cleaned, schema())
    array_path, table_path = paths_of(root, name)
    array_path.unlink(missing_ok=True)  # of an earlier build: it does not belong to the new Parquet
    with whole_file(table_path) as part:
        pq.write_table(table.replace_schema_metadata({FACTS: json.dumps(facts)}), part)
    with whole_file(array_path) as part, open(part, "wb") as handle:
        np.save(handle, vectors.astype(np.float16))


def is_utf8(name):
    """Whether a file name is UTF-8; one that is not would not be found again by what Parquet could
    hold of it."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _utf8(value):
    """Text that Parquet can hold: half a character, as JSON may hold one, becomes ?."""
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value


def _fingerprint(rows):
    digest = hashlib.sha256()
    for row in rows:
        digest.update(f"{row['key']}\0{row['bytes']}\n".encode())
    return digest.hexdigest()


# Reading ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shard:
    """A shard that is there. first: its first row in the index; offset: of the vectors in the .npy,
    in bytes; stamp: as `stamp_of`, when it was opened."""

    name: str
    first: int
    rows: int
    offset: int
    facts: dict
    stamp: int


def _header(path):
    """(rows, dimensions, offset of the data) of a .npy of ours; DataError if it is not one, or not
    whole."""
    try:
        with open(path, "rb") as handle:
            np.lib.format.read_magic(handle)
            shape, fortran, dtype = np.lib.format.read_array_header_1_0(handle)
            offset = handle.tell()
    except NO_HEADER as error:
        raise DataError(f"{path}: is not a .npy of vectors ({first_line(error)}); {ANEW}") from None
    if dtype != np.float16 or len(shape) != 2 or fortran:
        raise DataError(
            f"{path}: holds {dtype} of shape {shape}; an index holds float16 vectors, {ANEW}"
        )
    size, needed = os.stat(path).st_size, offset + 2 * shape[0] * shape[1]
    if size != needed:
        raise DataError(f"{path}: is truncated, {size} bytes of {needed}; {ANEW}")
    return *shape, offset


def shard_facts(root, name):
    """(rows of its Parquet, facts) of a shard; DataError when its Parquet is missing, damaged or
    not ours."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    array_path, path = paths_of(root, name)
    if not path.is_file():
        raise DataError(f"{array_path}: its Parquet {path.name!r} is missing; {ANEW}")
    try:
        footer = pq.read_metadata(path)
        facts = json.loads(footer.metadata[FACTS])
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: cannot be read ({first_line(error)}); {ANEW}") from None
    wrong = wrong_field(facts, descriptor=dict, made_of=dict, bad=list, fingerprint=str)
    if not wrong and not all(
        isinstance(b, list) and [type(text) for text in b] == [str, str] for b in facts["bad"]
    ):
        wrong = "bad"
    if wrong:
        raise DataError(f"{path}: cannot be read (no {wrong!r} in what it says of itself); {ANEW}")
    return footer.num_rows, facts


def wrong_field(found, **types):
    """The first name that is not in a dict of JSON types, or not of its type; None if all are."""
    if not isinstance(found, dict):
        return next(iter(types))
    return next(
        (
            name
            for name, kind in types.items()
            if name not in found or not isinstance(found[name], kind)
        ),
        None,
    )


def read_shard(root, name, *, first=0):
    """A shard that is there: (Shard, its dimensions). DataError unless both files are whole and of
    one length."""
    path, stamp = paths_of(root, name)[0], stamp_of(root, name)
    rows, dimensions, offset = _header(path)
    count, facts = shard_facts(root, name)
    if count != rows:
        raise DataError(f"{path}: holds {rows} vectors, its Parquet {count} rows; {ANEW}")
    return Shard(name, first, rows, offset, facts, stamp), dimensions


def is_finished(root, name):
    """Whether a shard's vectors are there: they are written last."""
    return paths_of(root, name)[0].is_file()


def stamp_of(root, name):
    """When a shard was made, in ns, which tells it from one made anew; None when it is not
    there."""
    try:
        return os.stat(paths_of(root, name)[0]).st_mtime_ns
    except OSError:
        return None


def finished(root):
    """Names of the shards whose vectors are there, in natural order."""
    folder = Path(root) / FOLDER
    names = (
        [e.name.removesuffix(".npy") for e in os.scandir(folder) if e.name.endswith(".npy")]
        if folder.is_dir()
        else []
    )
    return sorted((n for n in names if not n.startswith(".")), key=natural_key)


def read_rows(root, name, columns):
    """Columns of a shard's rows. DataError when its Parquet cannot be read. Returns:
    pyarrow.Table."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = paths_of(root, name)[1]
    try:
        return pq.read_table(path, columns=list(columns), memory_map=True).select(list(columns))
    except (OSError, pa.ArrowException, KeyError) as error:
        raise DataError(f"{path}: cannot be read ({first_line(error)}); {ANEW}") from None
