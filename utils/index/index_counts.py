"""Counts of a complete index: images, captions, bytes, sizes, and what could not be read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from utils.data import image_names
from utils.index import shard_files
from utils.runtime.errors import UsageError

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

SHOWN = 3  # damaged tar files that a message names


def count(root: str | Path, names: Sequence[str]) -> dict[str, Any]:
    """Counts over finished shards, as index.json stores them.

    Returns: dict of JSON types. images, unreadable, with_caption, with_url: numbers of images;
    flat: images with a zero vector; bytes: of all images; short_side: [min, median, max] in pixels,
    or None without images; shards: their number; damaged_shards: names of the shards whose tar file
    could not be read to its end; where there are any: caption_faults, {"images": their number,
    "first": the first and why its text cannot be used}, and left_out, {kind: number} of other files
    beside the images."""
    import pyarrow.parquet as pq

    totals = dict.fromkeys(("images", "unreadable", "with_caption", "with_url", "bytes", "flat"), 0)
    damaged, faults = [], []
    left_out: Counter[str] = Counter()
    histogram = np.zeros(1, np.int64)  # entry i: images whose short side is i pixels
    for name in names:
        rows, facts = shard_files.shard_facts(root, name)
        if "damage" in facts:
            damaged.append(name)
        if "caption_faults" in facts:
            faults.append(facts["caption_faults"])
        left_out.update(facts.get("left_out", {}))
        with pq.ParquetFile(shard_files.paths_of(root, name)[1]) as file:
            table = file.read(columns=["width", "height", "bytes"])
            for key, number in _shard_counts(rows, facts, file, table).items():
                totals[key] += number
        histogram = _add_short_sides(histogram, table)
    return totals | {
        "short_side": _smallest_median_largest(histogram),
        "shards": len(names),
        "damaged_shards": damaged,
        **({"caption_faults": _together(faults)} if faults else {}),
        **({"left_out": dict(left_out)} if left_out else {}),
    }


def _together(faults: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Caption faults of several shards as one. faults: of each, at least one."""
    return {"images": sum(each["images"] for each in faults), "first": faults[0]["first"]}


def _shard_counts(
    rows: int, facts: dict[str, Any], file: pq.ParquetFile, table: pa.Table
) -> dict[str, int]:
    """The counts of one shard that are added up. table: with the column bytes."""
    import pyarrow.compute as pc

    return {
        "images": rows,
        "unreadable": len(facts["bad"]),
        "with_caption": _filled(file.metadata, "caption"),
        "with_url": _filled(file.metadata, "url"),
        "bytes": pc.sum(table["bytes"]).as_py() or 0,
        "flat": facts.get("flat", 0),
    }


def _filled(footer: pq.FileMetaData, column: str) -> int:
    """Number of rows of a Parquet in which a column is not null; only the file's footer is read."""
    place = shard_files.COLUMNS.index(column)
    groups = (footer.row_group(g) for g in range(footer.num_row_groups))
    return sum(g.num_rows - g.column(place).statistics.null_count for g in groups if g.num_rows)


def _add_short_sides(histogram: np.ndarray, table: pa.Table) -> np.ndarray:
    """Add the images of a table to the histogram of short sides, which is extended where needed."""
    import pyarrow.compute as pc

    short_sides = pc.min_element_wise(table["width"], table["height"]).to_numpy()
    counts = np.bincount(short_sides, minlength=len(histogram))
    counts[: len(histogram)] += histogram
    return counts


def _smallest_median_largest(histogram: np.ndarray) -> list[int] | None:
    """[min, median, max] of a histogram of short sides in pixels, None when it is empty. Of an even
    number of images the median is the lower of the middle two."""
    sides = np.flatnonzero(histogram)
    if not len(sides):
        return None
    middle = (int(histogram.sum()) + 1) // 2
    median = int(np.searchsorted(histogram.cumsum(), middle))
    return [int(sides[0]), median, int(sides[-1])]


# In words -----------------------------------------------------------------------------------------


def in_words(counts: dict[str, Any]) -> str:
    """The counts in a line for the user. counts: as `count` returns them."""
    total = counts["images"] + counts["unreadable"]
    parts = [
        f"{counts['shards']} shards: {counts['images']} images",
        f"{counts['unreadable']} of {total} unreadable",
        f"{counts['with_caption']} with a caption",
        f"{counts['with_url']} with a URL",
        f"{counts['bytes'] / 1e9:.3f} GB",
    ]
    if counts["short_side"]:
        low, middle, high = counts["short_side"]
        parts += [f"short side {low} to {high} px", f"median {middle}"]
    if counts["flat"]:
        parts.append(
            f"{counts['flat']} uniformly grey, whose descriptor is zero and matches nothing"
        )
    if "caption_faults" in counts:
        faults = counts["caption_faults"]
        parts.append(f"{faults['images']} whose text cannot be used, first {faults['first']}")
    left_out = image_names.in_words(image_names.counted(counts.get("left_out", {})))
    return ", ".join(parts) + (f"; left out: {left_out}" if left_out else "")


def damage_in_words(root: str | Path, counts: dict[str, Any]) -> str:
    """A line that names the first damaged tar files, each with the reason. counts: as `count`
    returns them, with at least one damaged tar file."""
    names = counts["damaged_shards"]
    parts = [
        f"{name + '.tar'!r} ({shard_files.shard_facts(root, name)[1]['damage']})"
        for name in names[:SHOWN]
    ]
    if len(names) > SHOWN:
        parts.append(f"{len(names) - SHOWN} more")
    return (
        f"{len(names)} of {counts['shards']} tar files are damaged: {', '.join(parts)}; the images"
        " before the damage are kept"
    )


# Errors -------------------------------------------------------------------------------------------


def require_whole(flag: str, root: str | Path, counts: dict[str, Any], *, max_bad: float) -> None:
    """Raise UsageError when more than the share `max_bad` of an index's tar files are damaged.

    There is no minimum allowance: a truncated tar file may be missing any number of images.

    flag: the source, for the message; counts: as `count` returns them."""
    accepted = int(max_bad * counts["shards"])
    if len(counts["damaged_shards"]) > accepted:
        raise UsageError(
            f"{flag}: {damage_in_words(root, counts)}, --max_bad_images={max_bad} accepts"
            f" {accepted}"
        )


def require_readable(
    flag: str, root: str | Path, names: Sequence[str], counts: dict[str, Any], *, max_bad: float
) -> None:
    """Raise UsageError when more than the share `max_bad` of an index's images could not be read.
    One unreadable image is always accepted if another one can be read.

    flag: the source, for the message; names: of the shards; counts: of these shards."""
    total, bad = counts["images"] + counts["unreadable"], counts["unreadable"]
    accepted = int(max(1, max_bad * total))
    if bad <= accepted and counts["images"]:
        return
    if not total:
        raise UsageError(f"{flag} holds no images")
    facts = (shard_files.shard_facts(root, name)[1] for name in names)
    key, reason = next(pair for shard in facts for pair in shard["bad"])
    raise UsageError(
        f"{flag} has {bad} of {total} images that cannot be read, first {key!r} ({reason});"
        f" --max_bad_images={max_bad} accepts {accepted}. The index in {str(root)!r} is complete"
        " without them"
    )
