"""What an index on disk says and holds, for tests of how it is made."""

import json

import pyarrow.parquet as pq

from utils.index import shard_files, vector_index

NAMES = ["00000", "00001", "00002", "00003"]


def opened(root):
    return vector_index.open_index("--val_dir", root)


def record(root):
    return json.loads((root / "index.json").read_text())


def stamps(root, names=NAMES):
    return {n: shard_files.paths_of(root, n)[0].stat().st_mtime_ns for n in names}


def contents(root, names=NAMES):
    """Bytes of the vectors and rows of the Parquets."""
    paths = [shard_files.paths_of(root, n) for n in names]
    return [(array.read_bytes(), pq.read_table(table).to_pylist()) for array, table in paths]


def left_over(root):
    return [p.name for p in root.rglob("*") if p.name.endswith((".part", ".stop"))]
