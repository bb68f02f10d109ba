"""diff_retrieval.py against an index: the evaluation of a folder, with descriptors of training
images that lie on disk."""

import math
from dataclasses import replace

import numpy as np

from utils.cli import flags
from utils.data import image_sets
from utils.index import index_descriptor, search, vector_index
from utils.reports.progress import progress
from utils.retrieval import evaluation_inputs, features, measurement, metrics
from utils.retrieval.formulas import similarity as sim
from utils.runtime.errors import UsageError


def read_sets(opts, *, say):
    """The generations, and an index as the training images. say: takes a line for the user.
    Returns: Sets, whose `training` is the index until `measure` knows which of its images
    matter."""
    for name in ("sim_save_path", "val_captions", "einsum_chunks"):
        if getattr(opts, name) != flags.default_of(opts, name):
            raise UsageError(
                f"--{name}={getattr(opts, name)!r} does not go with an index as --val_dir; leave"
                " it out"
            )
    if opts.chunked != "dotproduct":
        raise UsageError(
            f"--similarity_metric={opts.similarity_metric!r} does not go with an index; takes"
            " dotproduct"
        )
    index = vector_index.open_index("--val_dir", opts.val_dir)
    index_descriptor.require_descriptor(opts, opts.val_dir, index.descriptor)
    if not index.complete:
        say(
            f"the index {opts.val_dir} is not complete: {len(index.shards)} of {len(index.planned)}"
            f" shards are there, {len(index)} images; these are searched"
        )
    generated, queries, data = evaluation_inputs.read_queries(opts.query_dir, say=say)
    run = evaluation_inputs.training_run(opts, data, say)
    duplicated = list(run.record["duplicated"]) if run else None
    named = list(dict.fromkeys(q.source_image for q in queries if q.source_image))
    known = index.find([*named, *(duplicated or ())])
    if duplicated and not all(key in known for key in duplicated):
        absent = sum(key not in known for key in duplicated)
        say(
            f"{absent} duplicated images of {run.path / 'run.json'} are not in the index;"
            " duplication is left out"
        )
        duplicated = None
    evaluation_inputs.require_duplicated(opts, duplicated)
    if named and not any(key in known for key in named):
        say(
            f"none of the {len(named)} training images that the manifest names is in the index: was"
            " it made of the folder that was trained on?"
        )
    return evaluation_inputs.Sets(
        generated,
        queries,
        index,
        duplicated,
        data,
        {key: key for key in named if key in known},
        images_per_prompt=evaluation_inputs.images_per_prompt(opts.query_dir, queries, data),
        index=index,
        index_rows=known,
    )


def measure(opts, sets, networks, reading, say):
    """Search the index for every generation. Every process searches a part of it or, approximately,
    for a part of the generations. reading: as of features.extract. Returns: (Measured, Sets of what
    was found); (None, sets) on others than the main process."""
    processes = reading.processes
    with processes.together():
        record = index_descriptor.descriptor_record(opts, networks.extractors["descriptor"])
        index_descriptor.require_descriptor(opts, opts.val_dir, sets.index.descriptor, record)
    generated, kept, bad = features.extract(sets.generated, networks.extractors, reading)
    image_sets.require_readable("--query_dir", sets.generated, bad, max_bad=opts.max_bad_images)
    query = processes.share(
        sim.normalised(generated["descriptor"]).numpy() if processes.main else None
    )
    find = _approximately if opts.ann else _exactly
    scores, rows, how = find(sets.index, query, opts.num_matches, processes, say)
    if not processes.main:
        return None, sets
    queries = [sets.queries[i] for i in kept]
    own = [
        sets.index_rows[key] for key in {sets.sources.get(q.source_image) for q in queries} - {None}
    ]
    unique, places = np.unique(
        np.concatenate([rows.ravel(), np.array(own, np.int64)]), return_inverse=True
    )
    known = {r["key"]: r for r in sets.index.table(unique)}
    captions = {key: r["caption"] for key, r in known.items() if r["caption"]}
    found = replace(
        sets,
        queries=queries,
        generated=replace(sets.generated.take(kept), bad=tuple(bad)),
        training=sets.index.images(unique),
        captions=captions,
        known=known,
        search=how,
    )

    def source_scores(known, sources):
        vectors = sets.index.take(unique[sources])
        return np.einsum("nd,nd->n", query[known], vectors, dtype=np.float64, casting="same_kind")

    def no_background():
        raise metrics.CannotMeasureError(networks.missing["background"])

    others = {name: (rows, None) for name, rows in generated.items() if name != "descriptor"}
    return (
        measurement.assemble(
            opts,
            found,
            networks,
            others,
            scores=scores,
            matches=places[: rows.size].reshape(rows.shape),
            source_scores=source_scores,
            find_background=no_background,
        ),
        found,
    )


def block_bar(index, label, *, parts=1, main_process=True):
    """What wraps the blocks of one of `parts` parts of an index, for a bar where there are
    several."""
    total = math.ceil(len(index) / parts / index.block_rows())
    return lambda blocks: progress(
        blocks, total=total, label=label, main_process=main_process and total > 1
    )


def _exactly(index, query, k, processes, say):
    wrap = block_bar(index, "searching", parts=processes.count, main_process=processes.main)
    searcher = search.Exact(index, processes.device, processes.index, processes.count, wrap)
    with processes.together():  # a disk may fail one of them
        found = searcher.search(query, k)
    return *search.merged(processes.gather(found), k), searcher.settings


def _approximately(index, query, k, processes, say):
    wrap = block_bar(index, "filling lists")
    with processes.together():
        # the main process trains, where that is still to be done; the others then read what it
        # kept, if it could
        searcher = search.approximate(index, say=say, wrap=wrap) if processes.main else None
    parts = processes.count if processes.share(searcher and searcher.kept) else 1
    first, last = (len(query) * min(processes.index + n, parts) // parts for n in (0, 1))
    with processes.together():
        if first < last and searcher is None:
            searcher = search.approximate(index, say=say)
        found = searcher.search(query[first:last], k) if first < last else None
    found = [part for part in processes.gather(found) if part is not None]
    settings = processes.share(searcher and searcher.settings)
    return *(np.concatenate(side) for side in zip(*found, strict=True)), settings
