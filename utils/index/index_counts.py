"""What an index holds, counted when it is complete: images, captions, bytes, sizes, and what could
not be read."""

import numpy as np

from utils.index import shard_files
from utils.runtime.errors import UsageError


def _filled(footer, column):
    """Rows of a Parquet in which a column is not null, from its footer alone."""
    place = shard_files.COLUMNS.index(column)
    groups = (footer.row_group(g) for g in range(footer.num_row_groups))
    return sum(g.num_rows - g.column(place).statistics.null_count for g in groups if g.num_rows)


def count(root, names):
    """Counts over shards that are there. Returns: dict of JSON types; short_side: [min, median,
    max] in pixels, or None; damaged_shards: names of those whose tar file could not be read to its
    end."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    totals = dict.fromkeys(("images", "unreadable", "with_caption", "with_url", "bytes", "flat"), 0)
    damaged = []
    sides = np.zeros(1, np.int64)  # how many images have a short side of i pixels
    for name in names:
        rows, facts = shard_files.shard_facts(root, name)
        damaged += [name] if "damage" in facts else []
        with pq.ParquetFile(shard_files.paths_of(root, name)[1]) as file:
            table = file.read(columns=["width", "height", "bytes"])
            found = (
                rows,
                len(facts["bad"]),
                _filled(file.metadata, "caption"),
                _filled(file.metadata, "url"),
                pc.sum(table["bytes"]).as_py() or 0,
                facts.get("flat", 0),
            )
        totals = {key: totals[key] + n for key, n in zip(totals, found, strict=True)}
        short = np.bincount(
            pc.min_element_wise(table["width"], table["height"]).to_numpy(), minlength=len(sides)
        )
        short[: len(sides)] += sides
        sides = short
    there = np.flatnonzero(sides)
    # the lower one of two
    middle = int(np.searchsorted(sides.cumsum(), (totals["images"] + 1) // 2))
    short_side = [int(there[0]), middle, int(there[-1])] if len(there) else None
    return totals | {"short_side": short_side, "shards": len(names), "damaged_shards": damaged}


def in_words(counts):
    """A line of `count`."""
    sides = ""
    if counts["short_side"]:
        low, middle, high = counts["short_side"]
        sides = f", short side {low} to {high} px, median {middle}"
    total = counts["images"] + counts["unreadable"]
    return (
        f"{counts['shards']} shards: {counts['images']} images, {counts['unreadable']} of {total}"
        f" unreadable, {counts['with_caption']} with a caption, {counts['with_url']} with a URL,"
        f" {counts['bytes'] / 1e9:.3f} GB{sides}"
        + (
            f", {counts['flat']} of one grey all over, which match nothing"
            if counts["flat"]
            else ""
        )
    )


SHOWN = 3  # damaged tar files that are named in a line


def damage_in_words(root, counts):
    """A line that names the first damaged tar files, with why, and says how many there are."""
    names = counts["damaged_shards"]
    shown = [
        f"{n + '.tar'!r} ({shard_files.shard_facts(root, n)[1]['damage']})" for n in names[:SHOWN]
    ]
    more = [f"{len(names) - SHOWN} more"] if len(names) > SHOWN else []
    told = ", ".join([*shown, *more])
    return (
        f"{len(names)} of {counts['shards']} tar files are damaged: {told}; what comes before the"
        " damage is kept"
    )


def require_whole(flag, root, counts, *, max_bad):
    """UsageError when more than the share `max_bad` of an index's tar files are damaged; not even
    one is free, as each may lack any number of images. flag: the source, for the message."""
    accepted = int(max_bad * counts["shards"])
    if len(counts["damaged_shards"]) > accepted:
        raise UsageError(
            f"{flag}: {damage_in_words(root, counts)}, --max_bad_images={max_bad} accepts"
            f" {accepted}"
        )


def require_readable(flag, root, names, counts, *, max_bad):
    """UsageError when more than the share `max_bad` of an index's images could not be read; one
    always may, if another can. flag: the source, for the message; names: of the shards that
    `counts` is of."""
    total, bad = counts["images"] + counts["unreadable"], counts["unreadable"]
    accepted = int(max(1, max_bad * total))
    if bad <= accepted and counts["images"]:
        return
    if not total:
        raise UsageError(f"{flag} holds no images")
    key, reason = next(b for n in names for b in shard_files.shard_facts(root, n)[1]["bad"])
    raise UsageError(
        f"{flag} has {bad} of {total} images that cannot be read, first {key!r} ({reason});"
        f" --max_bad_images={max_bad} accepts {accepted}. The index in {str(root)!r} is whole"
        " without them"
    )
