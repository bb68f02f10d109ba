"""The output folder of --dedup: groups of near-duplicates, sampling weights, and a gallery.

groups.parquet     a row per image in a group (COLUMNS): the largest group first, in each group the
                   image to keep first
weights.json       image -> 1 / size of its group, for --weights_file of diff_train.py, which then
                   draws a group as often as one image
summary.json       threshold, counts, and the descriptor of the index
gallery/           PNG pages, a row per group
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from utils.files import owned_folders, whole_files
from utils.reports import galleries
from utils.retrieval import evaluation_pictures
from utils.runtime import environment

if TYPE_CHECKING:
    import pyarrow as pa

    from utils.index.near_duplicates import Groups
    from utils.index.vector_index import VectorIndex

KIND = "dedup"  # of summary.json
FILES = ("groups.parquet", "weights.json", "summary.json", "gallery")
OUR_FILES = re.compile(r"groups\.parquet|weights\.json|summary\.json|gallery/(?:page_\d+\.png)?")
COLUMNS = (
    "group",  # number of the group, from 0
    "size",  # images in the group
    "rank",  # place in the group, 0 for the image to keep
    "key",
    "similarity",  # to the image to keep
    "width",
    "height",
    "bytes",
    "caption",
    "url",
)
# the columns that the index knows
KNOWN = ("key", "width", "height", "bytes", "caption", "url")
ROWS_AT_ONCE = 65536  # rows of groups.parquet that are written at once
NAME_ALL = 100_000  # images up to which weights.json lists all; beyond, only those in groups
GALLERY_ROWS, GALLERY_COLUMNS, GALLERY_PAGES = 8, 7, 10


@dataclass(frozen=True)
class Deduplication:
    """The near-duplicates of an index, and how they were found."""

    groups: Groups
    threshold: float  # least similarity of a pair
    method: str  # "exact" or "approximate"
    seconds: float


@dataclass(frozen=True)
class WrittenGroups:
    """What `write` reports of its files."""

    counts: dict[str, int]
    has_weights: bool  # whether there is a weights.json
    unreadable: dict[str, str]  # {key: reason} of the images that are grey in the gallery


def counts_of(index: VectorIndex, groups: Groups) -> dict[str, int]:
    """Numbers of images, groups and shards, as summary.json stores them."""
    members = len(groups.rows)
    return {
        "images": len(index),
        "left_out": len(index.bad),
        "damaged_shards": len(index.damaged),
        "flat": index.flat,
        "groups": len(groups),
        "images_in_groups": members,
        "images_that_could_go": members - len(groups),
        "largest_group": int(groups.sizes[0]) if len(groups) else 0,
        "shards": len(index.shards),
        "shards_planned": len(index.planned),
    }


def schema(names: Sequence[str] = COLUMNS, *, text: pa.DataType | None = None) -> pa.Schema:
    """The Arrow types of some columns. text: the type of text columns, else string."""
    import pyarrow as pa

    text = text or pa.string()
    types = {
        "group": pa.int64(),
        "size": pa.int64(),
        "rank": pa.int64(),
        "key": text,
        "similarity": pa.float32(),
        "width": pa.int32(),
        "height": pa.int32(),
        "bytes": pa.int64(),
        "caption": text,
        "url": text,
    }
    return pa.schema([(name, types[name]) for name in names])


def write_groups(path: Path, index: VectorIndex, groups: Groups) -> list[str]:
    """Write groups.parquet, some rows at a time. Holds the known columns of all members in memory.
    Returns: the keys of the members, in the order of the file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    numbers, ranks, step = groups.numbers, groups.ranks, ROWS_AT_ONCE
    order = np.argsort(groups.rows)
    # members of a group are in any shards: each shard is read once, in the order of the index, and
    # the rows are then put in the order of the groups. Captions together may exceed 2 GiB, which
    # only large_string can address
    known = (
        index.arrow(groups.rows[order], KNOWN)
        .cast(schema(KNOWN, text=pa.large_string()))
        .combine_chunks()
    )
    places = np.argsort(order)
    with whole_files.whole_file(path) as part, pq.ParquetWriter(part, schema()) as writer:
        for start in range(0, len(groups.rows), step):
            span = slice(start, start + step)
            columns = {
                "group": numbers[span],
                "size": groups.sizes[numbers[span]],
                "rank": ranks[span],
                "similarity": groups.similarity[span],
            }
            rows = known.take(places[span])
            columns |= {name: rows[name] for name in KNOWN}
            writer.write_table(pa.table({name: columns[name] for name in COLUMNS}).cast(schema()))
    return known["key"].take(places).to_pylist()


def weights_of(index: VectorIndex, groups: Groups, keys: Sequence[str]) -> dict[str, float]:
    """Sampling weights for --weights_file: {key: 1 / size of its group}.

    Images in no group have weight 1. They are listed if the index has at most NAME_ALL images,
    since diff_train.py refuses a file that names no image.

    keys: of the groups' members, in their order. Returns: {} when no image is listed."""
    all_keys = []
    if len(index) <= NAME_ALL:
        all_keys = index.arrow(np.arange(len(index)), ("key",))["key"].to_pylist()
    weights = dict.fromkeys(all_keys, 1.0)
    weights.update(zip(keys, (1 / groups.sizes[groups.numbers]).tolist(), strict=True))
    return weights


def write_gallery(
    folder: Path, index: VectorIndex, groups: Groups, *, workers: int
) -> dict[str, str]:
    """Write PNG pages of GALLERY_ROWS groups each, the largest groups first, at most GALLERY_PAGES.

    workers: threads. Returns: {key: reason} of the images that cannot be read and are grey."""
    unreadable: dict[str, str] = {}
    shown = range(min(len(groups), GALLERY_ROWS * GALLERY_PAGES))
    pages = [shown[first : first + GALLERY_ROWS] for first in range(0, len(shown), GALLERY_ROWS)]

    def row_of(group):
        start, size = int(groups.starts[group]), int(groups.sizes[group])
        span = slice(start, start + min(size, GALLERY_COLUMNS))
        images = index.images(groups.rows[span])
        opened = (
            evaluation_pictures.to_look_at(images, i, galleries.SIDE, unreadable)
            for i in range(len(images))
        )
        pictures = [galleries.fitted(image, galleries.SIDE) for image in opened]
        return list(zip(pictures, groups.similarity[span].tolist(), images.keys, strict=True)), size

    def draw(page):
        return galleries.group_page([row_of(group) for group in page], columns=GALLERY_COLUMNS)

    galleries.write_pages(folder, pages, draw, workers=workers)
    return unreadable


def write(
    folder: Path,
    index: VectorIndex,
    result: Deduplication,
    *,
    options: dict[str, Any],
    workers: int,
) -> WrittenGroups:
    """Write the files of --dedup as a whole; they replace an earlier --dedup in `folder`, whose
    content the caller has checked.

    options: of the script, for the record, of JSON types; workers: threads for the gallery."""
    groups = result.groups
    counts = counts_of(index, groups)
    weights: dict[str, float] = {}
    unreadable: dict[str, str] = {}

    def write_all(part):
        part.mkdir(parents=True)
        keys = write_groups(part / "groups.parquet", index, groups)
        weights.update(weights_of(index, groups, keys))
        if weights:
            whole_files.write_json(part / "weights.json", weights)
        unreadable.update(write_gallery(part / "gallery", index, groups, workers=workers))
        whole_files.write_manifest(
            part / "summary.json",
            KIND,
            threshold=result.threshold,
            method=result.method,
            descriptor=index.descriptor,
            counts=counts,
            index={"folder": str(index.root), "fingerprint": index.fingerprint},
            source=index.source,
            seconds=result.seconds,
            options=options,
            environment=environment.environment(),
        )

    owned_folders.save_folder(write_all, folder)
    return WrittenGroups(counts, bool(weights), unreadable)
