"""--dedup of diff_retrieval.py: groups of near-duplicates in an index, weights that make up for
them, pictures of them.

<index>/dedup-<threshold>/     (or --output_dir)
  groups.parquet     a row an image that is in a group, the largest group first, in it the one to
keep first (COLUMNS)
  weights.json       image -> 1 / size of its group, for --weights_file of diff_train.py: a group is
drawn as one image
  summary.json       threshold, counts, what made the descriptors
  gallery/           PNG, a row a group
"""

import json
import re
import shlex
import time
from pathlib import Path

import numpy as np

from utils.cli import flags
from utils.files import owned_folders, whole_files
from utils.index import index_descriptor, index_evaluation, near_duplicates, search
from utils.reports import galleries
from utils.reports.progress import progress
from utils.retrieval import evaluation_files
from utils.retrieval.descriptors.extractors import EXTRACTORS
from utils.runtime import environment
from utils.runtime.errors import UsageError

KIND = "dedup"
FILES = ("groups.parquet", "weights.json", "summary.json", "gallery")
OUR_FILES = re.compile(r"groups\.parquet|weights\.json|summary\.json|gallery/(?:page_\d+\.png)?")
COLUMNS = (
    "group",
    "size",
    "rank",
    "key",
    "similarity",
    "width",
    "height",
    "bytes",
    "caption",
    "url",
)
# of them, what the index says of an image
KNOWN = ("key", "width", "height", "bytes", "caption", "url")
# scores from which two pictures count as near-duplicates; SSCD's authors give a precision of 90 %
# at theirs, while the 0.5 of the papers on copying is of generations
THRESHOLDS = {"pixel": 0.95, "sscd": 0.75}
# vectors are stored in half precision: a picture and its copy score 1 within some 1e-4, 1e-3 at
# worst
HIGHEST = 0.999
ROWS_AT_ONCE = 65536  # of groups.parquet that are written at once
NAME_ALL = 100_000  # images up to which weights.json names all; beyond, those of groups
GALLERY_ROWS, GALLERY_COLUMNS, GALLERY_PAGES = 8, 7, 10
CHAIN_SHARE, CHAIN_IMAGES = 0.01, 100  # a group larger than both is worth a warning


# Where, and from which score on -------------------------------------------------------------------


def threshold_of(opts, descriptor):
    """The score from which two images count as near-duplicates: --copy_threshold, else the
    descriptor's own.

    UsageError where there is none, or for one that is 0 or less (all images would be one group) or
    above HIGHEST."""
    style = descriptor.get("pt_style")
    found = opts.copy_threshold if opts.copy_threshold is not None else THRESHOLDS.get(style)
    if found is None:
        raise UsageError(
            f"--dedup takes --copy_threshold for --pt_style {style}: the field has no score from"
            " which its pictures count as near-duplicates; it has one for"
            f" {', '.join(s for s in EXTRACTORS if s in THRESHOLDS)}"
        )
    if not 0 < found <= HIGHEST:
        raise UsageError(
            f"--copy_threshold={found:g} does not go with --dedup; takes a number above 0, to"
            f" {HIGHEST} (vectors are stored in half precision, in which a picture and its copy"
            " score 0.999 and more)"
        )
    return found


def planned(opts, root, threshold):
    """Paths that a --dedup of the index at `root` writes, whether there is an index yet or not.
    Returns: [str]."""
    return [str(_folder(opts, root, threshold) / name) for name in FILES]


def require_possible(opts):
    """What can be told of --dedup before --build_index has made the index, which takes long.
    UsageError on a threshold or folder that cannot be. Returns: as `planned`."""
    threshold = threshold_of(opts, {"pt_style": opts.pt_style})
    folder_of(opts, opts.build_index, threshold)
    return planned(opts, opts.build_index, threshold)


def _folder(opts, root, threshold):
    return Path(opts.output_dir) if opts.output_dir else Path(root) / f"dedup-{threshold:g}"


def folder_of(opts, root, threshold):
    """Path of the folder to write for the index at `root`; UsageError unless it is new, empty, or a
    --dedup and nothing else."""
    folder = _folder(opts, root, threshold)
    owned_folders.require_ours(
        "--output_dir", folder, files=OUR_FILES, record="summary.json", kind=KIND, writer="--dedup"
    )
    return folder


# The work -----------------------------------------------------------------------------------------


def find(opts, index, processes, *, threshold, say, searcher=None):
    """Groups of the index: exact up to EXACT_ROWS rows, else or with --ann from the NEIGHBOURS
    nearest rows of each.

    Exactly, every process looks at its share of the pairs of blocks; approximately, the main
    process does it all. Returns: (Groups, method), on other processes than the main one (None,
    method)."""
    if _is_approximate(opts, index):
        return (
            _approximately(index, processes, threshold=threshold, say=say, searcher=searcher),
            "approximate",
        )
    with processes.together():
        labels = near_duplicates.exact_groups(
            index,
            threshold=threshold,
            device=processes.device,
            part=processes.index,
            parts=processes.count,
            wrap=lambda pairs: progress(
                pairs, total=len(pairs), label="near-duplicates", main_process=processes.main
            ),
        )
    parts = processes.gather(labels)
    return (
        near_duplicates.groups_of(index, near_duplicates.joined(parts)) if processes.main else None
    ), "exact"


def _is_approximate(opts, index):
    return opts.ann or len(index) > near_duplicates.EXACT_ROWS


def _approximately(index, processes, *, threshold, say, searcher):
    if not processes.main:
        return None
    if searcher is None:
        searcher = search.approximate(
            index, say=say, wrap=index_evaluation.block_bar(index, "filling lists")
        )
    found = near_duplicates.neighbours(
        index, searcher, wrap=index_evaluation.block_bar(index, "near-duplicates")
    )
    return near_duplicates.groups_of(
        index, near_duplicates.approximate_groups(index, found, threshold=threshold)
    )


def counts_of(index, groups):
    """How many images and groups. Returns: flat dict."""
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


# Files --------------------------------------------------------------------------------------------


def _schema(names=COLUMNS, *, text=None):
    """Of some columns; text: their type of text, else string."""
    import pyarrow as pa

    text = text or pa.string()
    types = (
        pa.int64(),
        pa.int64(),
        pa.int64(),
        text,
        pa.float32(),
        pa.int32(),
        pa.int32(),
        pa.int64(),
        text,
        text,
    )
    types = dict(zip(COLUMNS, types, strict=True))
    return pa.schema([(name, types[name]) for name in names])


def write_groups(path, index, groups):
    """groups.parquet, some rows at a time. Holds what the index knows of all members. Returns:
    their keys, in its order."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    numbers, ranks, step = groups.numbers, groups.ranks, ROWS_AT_ONCE
    order = np.argsort(groups.rows)
    # members of a group lie in any shards: each shard is read once, in the index's order, and the
    # rows put in that of the groups here. Offsets of 64 bits, as captions together may exceed 2 GiB
    known = (
        index.arrow(groups.rows[order], KNOWN)
        .cast(_schema(KNOWN, text=pa.large_string()))
        .combine_chunks()
    )
    places = np.argsort(order)
    with whole_files.whole_file(path) as part, pq.ParquetWriter(part, _schema()) as writer:
        for start in range(0, len(groups.rows), step):
            here = slice(start, start + step)
            columns = {
                "group": numbers[here],
                "size": groups.sizes[numbers[here]],
                "rank": ranks[here],
                "similarity": groups.similarity[here],
            }
            taken = known.take(places[here])
            columns |= {name: taken[name] for name in KNOWN}
            writer.write_table(pa.table({name: columns[name] for name in COLUMNS}).cast(_schema()))
    return known["key"].take(places).to_pylist()


def weights_of(index, groups, keys):
    """Sampling weights for --weights_file: {key: 1 / size of its group}, and 1 for images of none,
    which are named as long as the index has at most NAME_ALL images: diff_train.py refuses a file
    that names none.

    keys: of the groups' members. Returns: {} when no image is named.
    """
    everything = (
        index.arrow(np.arange(len(index)), ("key",))["key"].to_pylist()
        if len(index) <= NAME_ALL
        else []
    )
    return dict.fromkeys(everything, 1.0) | dict(
        zip(keys, (1 / groups.sizes[groups.numbers]).tolist(), strict=True)
    )


def write_gallery(folder, index, groups, *, workers):
    """Pages of GALLERY_ROWS groups, the largest first, GALLERY_PAGES at most, as PNG. Returns:
    {key: why} of pictures that cannot be read and are grey."""
    unshown = {}
    shown = range(min(len(groups), GALLERY_ROWS * GALLERY_PAGES))
    pages = [shown[first : first + GALLERY_ROWS] for first in range(0, len(shown), GALLERY_ROWS)]

    def row_of(group):
        start, size = int(groups.starts[group]), int(groups.sizes[group])
        here = slice(start, start + min(size, GALLERY_COLUMNS))
        images = index.images(groups.rows[here])
        opened = (
            evaluation_files.to_look_at(images, i, galleries.SIDE, unshown)
            for i in range(len(images))
        )
        pictures = [galleries.fitted(image, galleries.SIDE) for image in opened]
        return list(zip(pictures, groups.similarity[here].tolist(), images.keys, strict=True)), size

    def draw(chosen):
        return galleries.group_page([row_of(group) for group in chosen], columns=GALLERY_COLUMNS)

    galleries.write_pages(folder, pages, draw, workers=workers)
    return unshown


def write(folder, index, groups, *, threshold, method, seconds, options, workers):
    """The files of --dedup, put in place whole: a --dedup of ours there is replaced (`folder_of`
    looks at what is there).

    seconds: that finding took; options: of the script, of JSON types. Returns: counts; whether
    there is a weights.json; {key: why} of pictures that are grey."""
    counts = counts_of(index, groups)
    named, unshown = False, {}

    def write_all(part):
        nonlocal named, unshown
        part.mkdir(parents=True)
        weights = weights_of(index, groups, write_groups(part / "groups.parquet", index, groups))
        named = bool(weights)
        if named:
            whole_files.write_json(part / "weights.json", weights)
        unshown = write_gallery(part / "gallery", index, groups, workers=workers)
        whole_files.write_manifest(
            part / "summary.json",
            KIND,
            threshold=threshold,
            method=method,
            descriptor=index.descriptor,
            counts=counts,
            index={"folder": str(index.root), "fingerprint": index.fingerprint},
            source=index.source,
            seconds=seconds,
            options=options,
            environment=environment.environment(),
        )

    owned_folders.save_folder(write_all, folder)
    return counts, named, unshown


# What is said -------------------------------------------------------------------------------------


def said(counts, *, threshold, method, named, folder):
    """Lines for the user: what was found, what to be wary of, where it lies."""
    if counts["damaged_shards"]:
        yield (
            f"{counts['damaged_shards']} tar files could not be read to the end when the index was"
            " built: see index.json"
        )
    if counts["shards"] < counts["shards_planned"]:
        yield (
            f"the index is still being built: {counts['shards']} of {counts['shards_planned']}"
            " shards were looked at"
        )
    if counts["flat"]:
        yield (
            f"{counts['flat']} pictures of one grey all over have no descriptor and are in no"
            " group, equal or not: this descriptor cannot tell them"
        )
    head = f"{counts['images']} images, {method}, similarity at least {threshold:g}: "
    if counts["groups"]:
        head += (
            f"{counts['groups']} groups of near-duplicates hold {counts['images_in_groups']}"
            f" images, {counts['images_that_could_go']} could go; the largest group has"
            f" {counts['largest_group']}"
        )
    yield head if counts["groups"] else head + "no near-duplicates"
    if counts["largest_group"] > max(CHAIN_IMAGES, CHAIN_SHARE * counts["images"]):
        yield (
            f"the largest group holds {counts['largest_group'] / counts['images']:.1%} of all"
            " images: groups are chains of pairs; if the gallery shows unlike pictures in it,"
            " raise --copy_threshold"
        )
    yield f"written to {folder}"
    if named and counts["groups"]:  # without a group all weights are 1, which changes nothing
        path = shlex.quote(str(folder / "weights.json"))
        yield f"to draw each group as often as one image: diff_train.py --weights_file {path}"
    elif not named:
        yield f"no weights.json: no group, and more than {NAME_ALL} images to name with weight 1"


def deduplicate(opts, index, processes, say=print, *, searcher=None):
    """Find the groups of an opened VectorIndex and write them. say: takes lines, heard of the main
    process alone.

    opts: RetrievalOptions, of which copy_threshold, output_dir, ann, num_workers and dry_run are
    read; processes: devices.Processes; searcher: for approximate groups, else one is built.
    UsageError on a threshold or folder that cannot be."""
    say = say if processes.main else (lambda line: None)
    with processes.together():
        if any(
            getattr(opts, name) != flags.default_of(opts, name)
            for name in index_descriptor.AS_GIVEN
        ):
            # else it need not be said again
            index_descriptor.require_descriptor(opts, index.root, index.descriptor)
        threshold = threshold_of(opts, index.descriptor)
        folder = folder_of(opts, index.root, threshold)
    if opts.dry_run:
        lists = search.planned(index) if _is_approximate(opts, index) else []
        writes = [*map(str, lists), *planned(opts, index.root, threshold)]
        say(json.dumps({"options": flags.as_dict(opts), "writes": writes}, indent=1))
        return
    started = time.perf_counter()
    groups, method = find(opts, index, processes, threshold=threshold, say=say, searcher=searcher)
    if groups is None:
        return
    seconds = round(time.perf_counter() - started, 1)
    counts, named, unshown = write(
        folder,
        index,
        groups,
        threshold=threshold,
        method=method,
        seconds=seconds,
        options=flags.as_dict(opts),
        workers=opts.num_workers,
    )
    for line in said(counts, threshold=threshold, method=method, named=named, folder=folder):
        say(line)
    if unshown:
        say(evaluation_files.unshown_in_words(unshown))
