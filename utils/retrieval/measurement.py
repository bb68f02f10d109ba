"""Evaluate: extract the features of both image sets, compare them, and compute the metrics."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from utils.data import image_sets
from utils.retrieval import features, metrics, second_look, show_nothing
from utils.retrieval.descriptors import extractors
from utils.retrieval.descriptors.network import Extractor, Wanted
from utils.retrieval.evaluation_networks import Networks
from utils.retrieval.evaluation_request import DescriptorChoice, EvaluationRequest, MatchSettings
from utils.retrieval.evaluation_sets import Query, Sets, source_indices
from utils.retrieval.formulas import alignment, complexity
from utils.retrieval.formulas import similarity as sim
from utils.retrieval.innocents import InnocentSet
from utils.retrieval.measured import (
    NO_IMAGES,
    NO_RUN,
    CannotMeasureError,
    Matches,
    Measured,
    NetworkFeatures,
    OnDemand,
    Origins,
)
from utils.retrieval.metric_record import Metric, Numbers
from utils.runtime.errors import DataError, UsageError

if TYPE_CHECKING:
    import torch

# name of an extractor -> features of the generated and of the training images
Features = Mapping[str, tuple["torch.Tensor", "torch.Tensor | None"]]

# Before an image is read --------------------------------------------------------------------------


def require_possible(named: tuple[str, ...] | None, sets: Sets) -> None:
    """Raise UsageError if --metrics names a metric that these sets of images do not allow.

    named: names that --metrics gives, or None"""
    for name in named or ():
        metric = metrics.METRICS[name]
        try:
            if metric.needs_images and sets.indexed is not None:
                raise CannotMeasureError(NO_IMAGES)
            metric.require_images(len(sets.generated), len(sets.training))
            if name == "duplication" and sets.known.duplicated is None:
                raise CannotMeasureError(NO_RUN)
        except CannotMeasureError as error:
            raise UsageError(f"--metrics={name!r} cannot be computed: {error}") from None


def build_descriptor(
    choice: DescriptorChoice, *, device: torch.device, dtype: torch.dtype
) -> Extractor:
    """Build the descriptor of --pt_style."""
    return extractors.EXTRACTORS[choice.pt_style](Wanted(device=device, dtype=dtype, choice=choice))


def require_chunks(chunks: int | None, descriptor: Extractor) -> None:
    """Raise UsageError if --num_loss_chunks does not divide the length of the descriptor, which is
    measured on a black image."""
    import torch
    from PIL import Image

    if chunks is not None and chunks > 1:
        black = descriptor.transform(Image.new("RGB", (64, 64)))
        with torch.no_grad():
            length = descriptor.network(black[None]).shape[1]
        sim.require_divisor(chunks, length)


OF_INNOCENTS = ("mq",)  # networks whose metrics compare with pictures that nobody copied

# One pass over each set ---------------------------------------------------------------------------


def _first_side(images: image_sets.ImageSet) -> int:
    """Short side in pixels of the first readable image: the size of generations. DataError with a
    reason if no image is readable."""
    reason = DataError(f"{images.root}: holds no images")
    for i in range(len(images)):
        try:
            return min(images.open(i).size)
        except DataError as error:
            reason = error
    raise reason


def generated_extractors(networks: Networks) -> dict[str, Extractor]:
    """All that is read of a generated image. Returns: {name: Extractor}."""
    return {**networks.extractors, **networks.views, show_nothing.SPREAD: show_nothing.extractor()}


def without_unreadable(sets: Sets, kept: Sequence[int], bad: Sequence[tuple[str, str]]) -> Sets:
    """The sets without the generated images that could not be read.

    kept: places of those that could; bad: (key, reason) of the others"""
    return replace(
        sets,
        queries=[sets.queries[i] for i in kept],
        generated=replace(sets.generated.take(kept), bad=(*sets.generated.bad, *bad)),
    )


def read_features(
    sets: Sets, networks: Networks, reading: features.ReaderSettings, *, max_bad: float
) -> tuple[dict[str, tuple[torch.Tensor, torch.Tensor | None]], Sets]:
    """Extract the features of both sets, reading each image once.

    max_bad: share of unreadable images above which UsageError is raised

    Returns: {extractor: (generated [Q, D], training [M, D])}, empty on processes other than the
    main one, None for the training images of the descriptor's views; and the sets without the
    images that could not be read, and without generated images that show nothing. DataError if all
    generated images are."""
    extractors = networks.extractors
    generated, kept, bad = features.extract(sets.generated, generated_extractors(networks), reading)
    image_sets.require_readable("--query_dir", sets.generated, bad, max_bad=max_bad)
    sets, generated = show_nothing.leave_out(
        without_unreadable(sets, kept, bad), generated, reading.processes
    )
    # the distances compare like with like: a training image as a generation of this size shows it
    side = _first_side(sets.generated)
    training, kept_training, bad_training = features.extract(
        sets.training_images, extractors, reading, side=side
    )
    image_sets.require_readable("--val_dir", sets.training_images, bad_training, max_bad=max_bad)
    read = replace(
        sets,
        training=replace(
            sets.training_images.take(kept_training), bad=(*sets.training_images.bad, *bad_training)
        ),
    )
    return {name: (rows, training.get(name)) for name, rows in generated.items()}, read


def innocent_features(
    listed: InnocentSet | None, sets: Sets, networks: Networks, reading: features.ReaderSettings
) -> dict[str, torch.Tensor]:
    """Features of innocents by the networks whose metrics compare with them (OF_INNOCENTS). Every
    process calls this.

    listed: pictures of their own; None: training images stand in, which are no pictures beside the
        training images

    Returns: {name of a network: [N, D]}, of readable innocents that are not of one colour; empty
    on processes other than the main one."""
    wanted = {
        name: networks.extractors[name] for name in OF_INNOCENTS if name in networks.extractors
    }
    if listed is None or not wanted:
        return {}
    both = {**wanted, show_nothing.SPREAD: show_nothing.extractor()}
    side = _first_side(sets.generated)
    read, _, _ = features.extract(listed.images, both, reading, side=side)
    if not reading.processes.main:
        return {}
    shown = ~show_nothing.of_one_colour(read[show_nothing.SPREAD])
    return {name: read[name][shown] for name in wanted}


# What was measured --------------------------------------------------------------------------------


def of_features(
    request: EvaluationRequest,
    sets: Sets,
    networks: Networks,
    read: Features,
    *,
    device: torch.device,
    workers: int,
) -> Measured:
    """What the metrics read, from the features of both sets.

    sets: without the images that could not be read
    read: {extractor: (generated [Q, D], training [M, D])}
    device: that compares descriptors
    workers: threads that read images for their complexity"""
    how = request.comparison
    query, train = descriptors_of(read)
    options = match_options(request, networks, device)
    best, matches = sim.top_matches(query, train, k=how.num_matches, **options)
    scores, options = options["scores"], {k: v for k, v in options.items() if k != "device"}

    def source_scores(queries: np.ndarray, sources: np.ndarray) -> np.ndarray:
        return sim.paired(query[queries], train[sources], scores=scores).numpy()

    return Measured(
        matches=matches_of(how, networks, matches.numpy(), best.numpy()),
        origins=origins_of(sets, source_scores),
        networks=network_features(sets, networks, read),
        on_demand=OnDemand(
            lambda: _background(train, device=device, **options),
            complexity_of_matches(sets, matches.numpy(), workers),
            lambda path: sim.write_matrix(path, query, train, **options),
        ),
        flags=request.flags,
        device=device,
    )


def match_options(
    request: EvaluationRequest, networks: Networks, device: torch.device
) -> dict[str, Any]:
    """How descriptors are compared: options of similarity.top_matches."""
    how = request.comparison
    scores = sim.SIMILARITIES[how.similarity](chunks_of(how, networks))
    return {"scores": scores, "block_rows": how.einsum_chunks, "device": device}


def descriptors_of(read: Features) -> tuple[torch.Tensor, torch.Tensor]:
    """The normalised descriptors of both sets, [Q, D] and [M, D]."""
    generated, training = read["descriptor"]
    if training is None:
        raise TypeError("the training images have no descriptors")
    return sim.normalised(generated), sim.normalised(training)


def _background(train: torch.Tensor, **options: Any) -> np.ndarray:
    """The similarity of every training image to its best match other than itself. [M]. options: of
    similarity.top_matches."""
    scores, _ = sim.top_matches(train, train, k=1, exclude_self=True, **options)
    return scores[:, 0].numpy()


def chunks_of(how: MatchSettings, networks: Networks) -> int:
    """Parts that descriptors are cut into for the comparison."""
    return how.num_loss_chunks or networks.extractors["descriptor"].chunks


def matches_of(
    how: MatchSettings, networks: Networks, indices: np.ndarray, scores: np.ndarray
) -> Matches:
    """The matches with the threshold of a copy. indices, scores: [Q, k].

    The field's thresholds are of whole descriptors; the product of a chunk is smaller, so that none
    is known."""
    threshold = threshold_of(how, networks)
    return Matches(indices, scores, threshold=threshold, chunks=chunks_of(how, networks))


def threshold_of(how: MatchSettings, networks: Networks) -> float | None:
    """The fixed threshold of a copy: that of --copy_threshold, else the descriptor's own; None
    where the field has none."""
    whole = how.similarity == "dotproduct" or chunks_of(how, networks) == 1
    if how.copy_threshold is None and whole:
        return networks.extractors["descriptor"].copy_threshold
    return how.copy_threshold


def origins_of(sets: Sets, scores: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Origins:
    """What is known of the prompts and of the training images.

    sets: whose `training` holds every image that is matched or is a prompt's own
    scores: (indices of generated images, indices of their prompts' own training images) -> the
        similarities of those pairs"""
    sources = source_indices(sets)
    known = np.flatnonzero(sources >= 0)
    source_scores = np.full(len(sets.queries), np.nan)
    source_scores[known] = scores(known, sources[known])
    duplicated = sets.known.duplicated
    return Origins(
        prompts=[q.source_prompt if q.source_prompt is not None else q.key for q in sets.queries],
        sources=sources,
        source_scores=source_scores,
        duplicated=None if duplicated is None else np.isin(sets.training_images.keys, duplicated),
    )


def complexity_of_matches(
    sets: Sets, matches: np.ndarray, workers: int
) -> Callable[[], complexity.Complexity]:
    """A function that computes the complexity of every generated image's best match.

    matches: [Q, k], indices of training images"""

    def compute() -> complexity.Complexity:
        try:
            return complexity.of_images(sets.training_images, matches[:, 0], workers=workers)
        except DataError as error:  # an image could be read a minute ago
            raise CannotMeasureError(str(error)) from None

    return compute


def network_features(sets: Sets, networks: Networks, read: Features) -> NetworkFeatures:
    """The features of the metrics' networks, and the cosines of images with prompts."""
    of_descriptor = {"descriptor", second_look.PICTURE, *networks.views}
    return NetworkFeatures(
        pairs={name: pair for name, pair in read.items() if name not in of_descriptor},
        cosines=_cosines(sets, networks, read),
        missing=networks.missing,
    )


def _cosines(sets: Sets, networks: Networks, read: Features) -> dict[str, np.ndarray]:
    """Cosines of images with their prompts. Returns: {key of metrics.json: [Q] or [M]}."""
    if "clip" not in read:
        return {}
    embed = _embedding_once(networks.extractors["clip"].texts)
    source_prompts = [q.source_prompt for q in sets.queries]
    cosines = {}
    for name, end in (("clip", ""), ("clip_dcr", "_dcr")):
        if name not in read:
            continue
        generated, training = read[name]
        cosines[f"clipscore{end}"] = alignment.cosines(generated, source_prompts, embed)
        edited = _edited(sets.queries)
        cosines[f"clipscore_edited{end}"] = alignment.cosines(generated, edited, embed)
        if training is not None:
            captions = [sets.known.captions.get(key) for key in sets.training_images.keys]
            cosines[f"clipscore_bg{end}"] = alignment.cosines(training, captions, embed)
    return cosines


def _embedding_once(
    texts: Callable[[list[str]], torch.Tensor] | None,
) -> Callable[[list[str]], torch.Tensor]:
    """Wrap an embedding so that equal lists of prompts are computed once."""
    if texts is None:
        raise TypeError("the network of the CLIP score embeds no text")
    once = functools.cache(lambda prompts: texts(list(prompts)))
    return lambda prompts: once(tuple(prompts))


def _edited(queries: list[Query]) -> list[str | None]:
    """The prompts that the model received, if some were edited; else none, because their score
    would be that of the source prompts."""
    if all(q.prompt == q.source_prompt for q in queries):
        return [None] * len(queries)
    return [q.prompt for q in queries]


# Metrics ------------------------------------------------------------------------------------------


def compute(
    asked: Mapping[str, Metric], measured: Measured, sets: Sets, *, named: bool
) -> tuple[Numbers, dict[str, str]]:
    """Compute the metrics that are asked for.

    sets: without the images that could not be read, so that a metric may now have too few
    named: whether --metrics names them; UsageError then if one cannot be computed

    Returns: the numbers of all, {metric: why it was skipped}."""
    row: Numbers = {}
    skipped: dict[str, str] = {}
    for name, metric in asked.items():
        try:
            if name in measured.networks.missing:
                raise CannotMeasureError(measured.networks.missing[name])
            metric.require_images(len(sets.generated), len(sets.searched))
            row |= metric.compute(measured)
        except CannotMeasureError as error:
            if named:
                raise UsageError(f"--metrics={name!r} cannot be computed: {error}") from None
            skipped[name] = str(error)
    return row, skipped
