"""diff_retrieval.py between the sets and the files: networks, one pass over each set, and the
metrics of what came out."""

import functools
from dataclasses import replace

import numpy as np

from utils.data import image_sets
from utils.retrieval import features, metrics
from utils.retrieval.descriptors import clip, extractors, inception, timm_models
from utils.retrieval.descriptors.network import Wanted
from utils.retrieval.descriptors.weights import WeightsMissingError
from utils.retrieval.evaluation_inputs import source_indices
from utils.retrieval.formulas import alignment, complexity, memorized
from utils.retrieval.formulas import similarity as sim
from utils.runtime.errors import DataError, UsageError

# metrics of all training images, which an index does not hold
NEED_IMAGES = ("background", "fid", "fd", "kid", "prdc", "mq")

# Networks -----------------------------------------------------------------------------------------


class Networks:
    """What images go through. extractors: {name: Extractor}; clip: Clip or None; missing: {metric:
    why it cannot run}."""

    def __init__(self):
        self.extractors, self.clip, self.missing = {}, None, {}

    def record(self, name):
        return self.extractors[name].record if name in self.extractors else None


def build_descriptor(opts, *, device, dtype):
    """The descriptor of --pt_style. Returns: Extractor."""
    return extractors.EXTRACTORS[opts.pt_style](
        Wanted(
            arch=opts.arch,
            preset=opts.preset,
            weights=opts.weights,
            imsize=opts.imsize,
            multiscale=opts.multiscale,
            layer=opts.layer,
            patch_tokens=opts.patch_tokens,
            isvit=opts.isvit,
            device=device,
            dtype=dtype,
        )
    )


def build_networks(opts, sets, *, device, dtype):
    """The descriptor, and what the metrics need that were asked for or can run.

    Weights that cannot be had leave a metric out, or are an error where it was asked for by name.
    Returns: Networks."""
    common = {"device": device, "dtype": dtype}
    networks = Networks()
    _leave_out_what_an_index_lacks(opts, sets, networks)
    networks.extractors["descriptor"] = build_descriptor(opts, **common)
    _require_chunks(opts, networks.extractors["descriptor"])
    asked = [name for name in opts.metrics or metrics.METRICS if name not in networks.missing]
    if {"fid", "kid", "prdc"} & set(asked):
        _try(networks, opts, "fid", lambda: _inception(opts, networks, device))
    # kernel distance and coverage are published on Inception's features; without, on those of the
    # other network
    if "fd" in asked or ({"kid", "prdc"} & set(asked) and "fid" not in networks.extractors):
        _try(networks, opts, "fd", lambda: _fd_network(opts, networks, common))
    for name in ("kid", "prdc"):
        if "fid" not in networks.extractors and "fd" in networks.missing:
            _leave_out(networks, opts, name, networks.missing["fd"])
    pairs = len(sets.training) * max(len(sets.generated), len(sets.training))
    if not opts.metrics and pairs > metrics.MOST_PRDC_PAIRS:
        networks.missing["prdc"] = (
            f"{pairs} pairs of images take a while; ask for it with --metrics prdc"
        )
    if "clip" in asked:
        _try(networks, opts, "clip", lambda: _clip(opts, sets, networks, common))
    if "mq" in asked:
        _try(networks, opts, "mq", lambda: _memorized(opts, sets, networks))
    return networks


def _leave_out_what_an_index_lacks(opts, sets, networks):
    """Of the training images of an index there is one descriptor each: what needs more is left out,
    or refused by name."""
    for name in NEED_IMAGES if sets.index is not None else ():
        _leave_out(
            networks,
            opts,
            name,
            "an index holds one descriptor an image; takes a folder or shards as --val_dir",
        )


def require_enough(opts, sets):
    """UsageError when a metric was asked for by name that takes more images than there are: said
    before any is read."""
    for name in opts.metrics or ():
        generated, training = metrics.LEAST.get(name, (1, 1))
        if len(sets.generated) < generated or len(sets.training) < training:
            raise UsageError(
                f"--metrics={name!r} cannot be computed: takes {generated} generated and {training}"
                f" training images; there are {len(sets.generated)} and {len(sets.training)}"
            )


def _require_chunks(opts, descriptor):
    """UsageError when --num_loss_chunks does not divide the descriptor: one black image tells its
    length."""
    import torch
    from PIL import Image

    if opts.num_loss_chunks and opts.num_loss_chunks > 1:
        with torch.no_grad():
            length = descriptor.network(
                descriptor.transform(Image.new("RGB", (64, 64)))[None]
            ).shape[1]
        sim.require_divisor(opts.num_loss_chunks, length)


def _try(networks, opts, metric, build):
    try:
        build()
    except (WeightsMissingError, metrics.CannotMeasureError) as error:
        _leave_out(networks, opts, metric, str(error))


def _leave_out(networks, opts, metric, why):
    """Note why a metric cannot run; UsageError if it was asked for by name."""
    if opts.metrics and metric in opts.metrics:
        raise UsageError(f"--metrics={metric!r} cannot be computed: {why}") from None
    networks.missing[metric] = why


def _inception(opts, networks, device):
    networks.extractors["fid"], module = inception.build(opts.fid_weights, device=device)
    if opts.fid_protocol == "dcr" and "fid" in (opts.metrics or metrics.METRICS):
        networks.extractors["fid_dcr"] = inception.published(
            networks.extractors["fid"], module, device=device
        )


def _fd_network(opts, networks, common):
    built = timm_models.build(Wanted(flag="--fd_extractor", arch=opts.fd_extractor, **common))
    networks.extractors["fd"] = replace(built, as_generated=True)


def _clip(opts, sets, networks, common):
    if all(q.source_prompt is None for q in sets.queries) and not sets.captions:
        raise metrics.CannotMeasureError(metrics.NO_PROMPTS)
    networks.clip = clip.load(
        opts.clip_model,
        opts.clip_pretrained,
        Wanted(**common),
        flag="--clip_model",
        weights_flag="--clip_pretrained",
    )
    networks.extractors["clip"] = networks.clip.images()
    if opts.clip_protocol == "dcr":
        networks.extractors["clip_dcr"] = networks.clip.images("dcr")


def _memorized(opts, sets, networks):
    pairs = len(sets.generated) * len(sets.training)
    if not (opts.metrics and "mq" in opts.metrics) and pairs > memorized.MOST_PAIRS:
        raise metrics.CannotMeasureError(
            f"{pairs} pairs of images take a while; ask for it with --metrics mq"
        )
    if len(sets.training) < memorized.NEIGHBOURS:
        raise metrics.CannotMeasureError(
            f"takes {memorized.NEIGHBOURS} training images; there are {len(sets.training)}"
        )
    networks.extractors["mq"] = memorized.pixels(opts.mq_size)


# One pass over each set ---------------------------------------------------------------------------


def _first_side(images):
    """Short side of the first readable image: the size that generations have. DataError with a
    reason if there is none."""
    for i in range(len(images)):
        try:
            return min(images.open(i).size)
        except DataError as error:
            last = error
    raise last


def read_features(opts, sets, networks, reading):
    """Features of both sets, each image read once. Returns: ({name: (generated, training)}, Sets of
    what could be read).

    UsageError when too many images cannot be read. On other processes than the main one the
    features are empty."""
    generated, kept, bad = features.extract(sets.generated, networks.extractors, reading)
    image_sets.require_readable("--query_dir", sets.generated, bad, max_bad=opts.max_bad_images)
    # the distances compare like with like: a training image as a generation of this size would show
    # it
    side = _first_side(sets.generated)
    training, kept_training, bad_training = features.extract(
        sets.training, networks.extractors, reading, side=side
    )
    image_sets.require_readable(
        "--val_dir", sets.training, bad_training, max_bad=opts.max_bad_images
    )
    read = replace(
        sets,
        queries=[sets.queries[i] for i in kept],
        generated=replace(sets.generated.take(kept), bad=tuple(bad)),
        training=replace(
            sets.training.take(kept_training), bad=(*sets.training.bad, *bad_training)
        ),
    )
    return {k: (generated[k], training[k]) for k in generated}, read


def measure(opts, sets, networks, reading, say):
    """Read both sets and compare them. Returns: (Measured, Sets of what could be read); (None,
    Sets) on processes other than the main one."""
    found, read = read_features(opts, sets, networks, reading)
    main, device = reading.processes.main, reading.processes.device
    return (of_features(opts, read, networks, found, device=device) if main else None), read


def of_features(opts, sets, networks, found, *, device):
    """What the metrics read, from the features of both sets. sets: of what could be read. Returns:
    Measured."""
    query, train = (sim.normalised(f) for f in found["descriptor"])
    chunks = opts.num_loss_chunks or networks.extractors["descriptor"].chunks
    scores = sim.SIMILARITIES[opts.chunked](chunks)
    options = {"scores": scores, "block_rows": opts.einsum_chunks}
    best, matches = sim.top_matches(query, train, k=opts.num_matches, device=device, **options)

    def source_scores(known, sources):
        return sim.paired(query[known], train[sources], scores=scores).numpy()

    def background():
        if len(train) < 2:
            raise metrics.CannotMeasureError(
                "background compares training images with each other; there is only 1"
            )
        return sim.top_matches(train, train, k=1, exclude_self=True, device=device, **options)[0][
            :, 0
        ].numpy()

    return assemble(
        opts,
        sets,
        networks,
        found,
        scores=best.numpy(),
        matches=matches.numpy(),
        source_scores=source_scores,
        find_background=background,
        write_matrix=lambda path: sim.write_matrix(path, query, train, **options),
    )


def assemble(opts, sets, networks, found, *, scores, matches, source_scores, **more):
    """What the metrics read, of best matches that were found in a folder or in an index.

    sets.training: at least every image that is matched or a prompt's own; scores, matches: [Q, k],
    indices into it; source_scores: (indices of generations, indices of their own training images)
    -> scores; more: fields of Measured. Returns: Measured."""
    sources = source_indices(sets)
    of_source = np.full(len(sets.queries), np.nan)
    known = np.flatnonzero(sources >= 0)
    of_source[known] = source_scores(known, sources[known])
    descriptor = networks.extractors["descriptor"]
    chunks = opts.num_loss_chunks or descriptor.chunks
    # the field's thresholds are of whole descriptors; a chunk's product is smaller
    usual = descriptor.copy_threshold if opts.chunked == "dotproduct" or chunks == 1 else None

    def matched_complexity():
        try:
            return complexity.of_images(sets.training, matches[:, 0], workers=opts.num_workers)
        except DataError as error:  # it could be read a minute ago
            raise metrics.CannotMeasureError(str(error)) from None

    return metrics.Measured(
        scores=scores,
        matches=matches,
        sources=sources,
        source_scores=of_source,
        duplicated=(
            None if sets.duplicated is None else np.isin(sets.training.keys, sets.duplicated)
        ),
        threshold=opts.copy_threshold if opts.copy_threshold is not None else usual,
        seed=opts.seed,
        missing=networks.missing,
        mq_flip=opts.mq_flip,
        chunks=chunks,
        fd_key=f"fd_{opts.fd_extractor}",
        prompts=[q.source_prompt if q.source_prompt is not None else q.key for q in sets.queries],
        features={k: f for k, f in found.items() if k != "descriptor"},
        alignment=_alignment(sets, networks, found),
        find_complexity=matched_complexity,
        **more,
    )


def _alignment(sets, networks, found):
    """Cosines of images with prompts. Returns: {key of metrics.json: [Q] or [M]}."""
    rows, embed_once = {}, functools.cache(lambda prompts: networks.clip.texts(list(prompts)))
    sides = (
        ("clipscore", 0, [q.source_prompt for q in sets.queries]),
        ("clipscore_edited", 0, _edited(sets.queries)),
        ("clipscore_bg", 1, [sets.captions.get(k) for k in sets.training.keys]),
    )[: 2 if sets.index else 3]
    for name, ending in (("clip", ""), ("clip_dcr", "_dcr")):
        for key, side, prompts in sides if name in found else ():
            rows[key + ending] = alignment.cosines(
                found[name][side], prompts, lambda texts: embed_once(tuple(texts))
            )
    return rows


def _edited(queries):
    """Prompts as they were given to the model, when some were edited; else none: they would score
    as the source does."""
    if all(q.prompt == q.source_prompt for q in queries):
        return [None] * len(queries)
    return [q.prompt for q in queries]


def compute(opts, measured):
    """Every metric that was asked for or can run. Returns: (flat dict, {metric: why it was left
    out})."""
    row, left_out = {}, {}
    for name in opts.metrics or metrics.METRICS:
        try:
            row |= metrics.METRICS[name](measured)
        except metrics.CannotMeasureError as error:
            if opts.metrics is not None:
                raise UsageError(f"--metrics={name!r} cannot be computed: {error}") from None
            left_out[name] = str(error)
    return row, left_out
