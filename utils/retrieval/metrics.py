"""The metrics by name: how each is computed, what it needs, and the words for its numbers.

A new metric is a function here, a line in METRICS and a test; one with a network of its own also
has a builder in evaluation_networks.py. docs/metrics.md shows both."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from utils.retrieval.evaluation_networks import CLIP, INCEPTION, PIXELS, TIMM, MetricNetwork
from utils.retrieval.formulas import bootstrap, memorized, pixel_neighbours
from utils.retrieval.formulas import complexity as complexities
from utils.retrieval.formulas import similarity as sim
from utils.retrieval.formulas.coverage import MIN_IMAGES, prdc
from utils.retrieval.formulas.frechet import frechet_distance
from utils.retrieval.formulas.kernel import kernel_distance
from utils.retrieval.measured import NO_PROMPTS, NO_RUN, CannotMeasureError, Measured
from utils.retrieval.metric_record import Metric, Numbers, PairLimit

if TYPE_CHECKING:
    import torch

# Computing ----------------------------------------------------------------------------------------


def copy_share(measured: Measured, chosen: np.ndarray, name: str) -> Numbers:
    """Share of copies among some generated images, with its interval and their number.

    chosen: [Q] bool
    name: of the share; the other keys add _lo, _hi and _n to it

    Returns: no share where no image is chosen; nothing where no threshold is known."""
    threshold = measured.matches.threshold
    if threshold is None:
        return {}
    hits = measured.matches.best[chosen] > threshold
    if not len(hits):
        return {f"{name}_n": 0}
    prompts = [p for p, c in zip(measured.origins.prompts, chosen, strict=True) if c]
    low, high = bootstrap.share(hits, prompts, seed=measured.flags.seed)
    return {name: float(hits.mean()), f"{name}_lo": low, f"{name}_hi": high, f"{name}_n": len(hits)}


def similarity(measured: Measured) -> Numbers:
    """Similarity of the generated images to their best matches, and the share of copies; where
    prompts have training images of their own, how often those are matched."""
    best, origins = measured.matches.best, measured.origins
    row = sim.summary(best, "sim") | {"sim_gt_05pc": float((best > 0.5).mean())}
    row |= copy_share(measured, np.ones(len(best), bool), "copy_share")
    known = origins.sources >= 0
    if known.any():
        hits = measured.matches.indices[known, 0] == origins.sources[known]
        row["source_matched"] = float(hits.mean())
        row["source_score_mean"] = float(origins.source_scores[known].mean())
    return row


def background(measured: Measured) -> Numbers:
    """Similarity of the training images to their best matches other than themselves."""
    return sim.summary(measured.background, "bg")


def duplication(measured: Measured) -> Numbers:
    """Copying of duplicated and of other training images.

    sim_dup, sim_nodup: grouped by the matched image, as published; biased, since the match is
    chosen by the similarity. copy_share_dup, copy_share_nodup: grouped by the prompt's own image;
    not biased."""
    duplicated, sources = measured.origins.duplicated, measured.origins.sources
    if duplicated is None:
        raise CannotMeasureError(NO_RUN)
    matched = duplicated[measured.matches.indices[:, 0]]
    row: Numbers = {
        k: float(measured.matches.best[c].mean())
        for k, c in (("sim_dup", matched), ("sim_nodup", ~matched))
        if c.any()
    }
    known = sources >= 0
    if known.any():
        from_duplicated = known & duplicated[np.maximum(sources, 0)]
        row |= copy_share(measured, from_duplicated, "copy_share_dup")
        row |= copy_share(measured, known & ~from_duplicated, "copy_share_nodup")
    return row


# ending of cc_* and pval_* -> attribute of Complexity
CORRELATED = {"ent": "entropy", "comp": "jpeg_kib", "tvl": "total_variation", "mixed": "mixed"}


def complexity(measured: Measured) -> Numbers:
    """Correlation of the similarity with the complexity of the best match: Pearson's r and its p.

    A correlation that is not defined (fewer than 3 images, or constant values) has no key."""
    row: Numbers = {}
    for name, attribute in CORRELATED.items():
        values = getattr(measured.complexity, attribute)
        correlation = complexities.correlation(values, measured.matches.best)
        if correlation is not None:
            row |= {f"cc_{name}": correlation[0], f"pval_{name}": correlation[1]}
    return row


def fid(measured: Measured) -> Numbers:
    """Frechet distance on Inception's features; fid_dcr on the published scale, where the request
    asks for it."""
    row: Numbers = {}
    for name in ("fid", "fid_dcr"):
        if name == "fid" or name in measured.networks.pairs:
            generated, reference = measured.pair(name, "fid")
            row |= {name: frechet_distance(generated, reference), f"{name}_n": len(generated)}
    return row | {"fid_reference_n": len(reference)}


def fd(measured: Measured) -> Numbers:
    """Frechet distance on the features of --fd_extractor, as fd_<its name>."""
    generated, reference = measured.pair("fd", "fd")
    key = f"fd_{measured.flags.fd_extractor}"
    return {key: frechet_distance(generated, reference), f"{key}_n": len(generated)}


def kid(measured: Measured) -> Numbers:
    """Kernel distance: mean and standard deviation over subsets."""
    generated, reference = measured.pair(network_of("kid", measured), "kid")
    mean, std = kernel_distance(generated, reference, seed=measured.flags.seed)
    return {"kid_mean": mean, "kid_std": std}


def coverage(measured: Measured) -> Numbers:
    """Precision, recall, density and coverage."""
    return prdc(*measured.pair(network_of("prdc", measured), "prdc"))


def clip(measured: Measured) -> Numbers:
    """Cosine of images with the source prompt, the edited prompt, and of training images with their
    captions, in CLIP; each mean with its number of images."""
    if not measured.networks.cosines:
        raise CannotMeasureError(measured.networks.missing.get("clip", NO_PROMPTS))
    row: Numbers = {}
    for key, cosines in measured.networks.cosines.items():
        known = ~np.isnan(cosines)
        if known.any():
            row |= {key: float(cosines[known].mean()), f"{key}_n": int(known.sum())}
    return row


def mq(measured: Measured) -> Numbers:
    """Memorized quantity: how many generated images are much nearer, in pixels, to one training
    image than to its neighbours, at nine thresholds of the ratio, and nL2 at its one; beside them
    the shares of pictures that nobody copied, where these are known. Where mirrored training images
    count, the same without them too."""
    row = _memorized(measured, flip=measured.flags.mq_flip)
    if measured.flags.mq_flip:
        plain = _memorized(measured, flip=False)
        row |= {
            key.replace("_", "_unflipped_", 1): value
            for key, value in plain.items()
            if key != "mq_innocents_n"
        }
    return row


def _memorized(measured: Measured, *, flip: bool) -> Numbers:
    """The numbers of mq. flip: whether mirrored training images count."""
    generated, training = measured.pair("mq", "mq")
    nearest = functools.partial(
        pixel_neighbours.nearest,
        training=training,
        count=memorized.NEIGHBOURS,
        flip=flip,
        device=measured.device,
    )
    hits = _memorized_hits(nearest(generated))
    ends = bootstrap.shares(hits, measured.origins.prompts, seed=measured.flags.seed)
    innocents = measured.networks.innocents.get("mq")
    compared = innocents is not None and len(innocents) > 0
    beside = _memorized_hits(nearest(innocents)) if compared else None
    row: Numbers = {}
    for at, (count, rate, innocent_rate) in enumerate(_memorized_keys()):
        row |= {count: int(hits[:, at].sum())} if count else {}
        row |= {rate: float(hits[:, at].mean())}
        if beside is not None:
            row[innocent_rate] = float(beside[:, at].mean())
        row |= {f"{rate}_lo": ends[at][0], f"{rate}_hi": ends[at][1]}
    return row if innocents is None or beside is None else row | {"mq_innocents_n": len(innocents)}


def _memorized_hits(nearest: torch.Tensor) -> np.ndarray:
    """Who counts as memorized: bool [N, thresholds + 1], the last of nL2. nearest: as
    memorized.ratios."""
    nl2 = memorized.normalised_distances(nearest) < memorized.NL2_THRESHOLD
    return np.column_stack([memorized.below(memorized.ratios(nearest)), nl2])


def _memorized_keys() -> list[tuple[str, str, str]]:
    """Keys of the number, the share, and the share of innocents, of each column of hits; nL2 has no
    number."""
    names = memorized.threshold_names()
    return [
        *((f"mq_{name}", f"mq_rate_{name}", f"mq_innocents_rate_{name}") for name in names),
        ("", "nl2_share", "nl2_innocents_share"),
    ]


# Registry -----------------------------------------------------------------------------------------


SIMILARITY_WORDS = {
    "sim_mean": "similarity of a generation to its nearest training image, mean",
    "sim_std": "the same, standard deviation",
    "sim_75pc": "the same, 75th percentile",
    "sim_90pc": "the same, 90th percentile",
    "sim_95pc": "the same, 95th percentile",
    "sim_gt_05pc": "share of generations whose similarity is above 0.5, whatever the descriptor",
    "copy_share": (
        "share of generations that count as copies: their similarity is above the threshold"
    ),
    "source_matched": "share of generations whose nearest training image is that of their prompt",
    "source_score_mean": "similarity to the prompt's own training image, mean",
}
BACKGROUND_WORDS = {
    "bg_mean": "similarity of a training image to the nearest other one, mean",
    "bg_std": "the same, standard deviation",
    "bg_75pc": "the same, 75th percentile",
    "bg_90pc": "the same, 90th percentile",
    "bg_95pc": "the same, 95th percentile",
}
DUPLICATION_WORDS = {
    "copy_share_dup": (
        "share of copies among generations whose prompt's own training image was duplicated"
    ),
    "copy_share_nodup": (
        "share of copies among generations whose prompt's own training image was not duplicated"
    ),
    "sim_dup": (
        "mean similarity where the matched image was duplicated; confounded by selection: the match"
        " is chosen by it"
    ),
    "sim_nodup": (
        "mean similarity where the matched image was not duplicated; confounded by selection as"
        " well"
    ),
}
# of a run that duplicated no image
COUNTERFACTUAL_WORDS = {
    "copy_share_dup": (
        "share of copies among generations whose prompt's own training image the seed would have"
        " duplicated; the run duplicated none"
    ),
    "copy_share_nodup": (
        "share of copies among generations whose prompt's own training image the seed would not"
        " have duplicated"
    ),
    "sim_dup": (
        "mean similarity where the seed would have duplicated the matched image; confounded by"
        " selection; the run duplicated none"
    ),
    "sim_nodup": (
        "mean similarity where the seed would not have duplicated the matched image; confounded by"
        " selection"
    ),
}
COMPLEXITY_WORDS = {
    "cc_ent": "correlation of similarity with the matched image's entropy (Pearson's r)",
    "cc_comp": "correlation of similarity with the matched image's size as JPEG",
    "cc_tvl": "correlation of similarity with the matched image's total variation",
    "cc_mixed": "correlation of similarity with entropy times the root of the size as JPEG",
    "pval_*": "p value of cc_{}",
}
FID_WORDS = {
    "fid": (
        "Frechet distance to the training images on InceptionV3 features; lower is closer, and few"
        " images raise it"
    ),
    "fid_dcr": (
        "Frechet distance on the published scale, whose inputs are scaled twice; not comparable"
        " with fid"
    ),
}
KID_WORDS = {
    "kid_mean": "kernel distance (cubic kernel) to the training images over random subsets, mean",
    "kid_std": "the same, standard deviation over the subsets",
}
PRDC_WORDS = {
    "precision": "share of generations within the training images' neighbourhoods (k = 3)",
    "recall": "share of training images within the generations' neighbourhoods (k = 3)",
    "density": (
        "how many neighbourhoods of training images a generation lies in, over k (k = 5); may"
        " exceed 1"
    ),
    "coverage": "share of training images with a generation in their neighbourhood (k = 5)",
}
# keys that the verdict adds (verdict.py)
VERDICT_WORDS = {
    "copy_share_calibrated": "share of copies by the calibrated threshold",
    "part_copied_share": "share that holds a part of a training image and is no copy as a whole",
    "threshold": "score above which an image is a copy: few innocents exceed it",
    "innocents_n": "pictures that nobody copied, which set the threshold",
    "innocents_calibrated_rate": "share of these innocents above the calibrated threshold",
    "false_positive_rate": "share of these innocents above the descriptor's fixed threshold",
}
CLIP_WORDS = {
    "clipscore": "cosine of image and source prompt in CLIP, mean",
    "clipscore_edited": "cosine of image and edited prompt in CLIP, mean",
    "clipscore_bg": "cosine of training image and its caption in CLIP, mean",
}
_MUCH_NEARER = (
    "of generations to which one training image is much nearer, in pixels, than the next 49 (ratio"
    " below 0.{}); a smear may have one as well, so it is no proof of a copy"
)
_INNOCENT = (
    "the same share of pictures that nobody copied, such as images of the base model: a {} that is"
    " not larger shows no copying"
)
_NL2 = (
    "share of generations whose distance in pixels to the nearest training image is below 1.4 times"
    " half the mean distance to the nearest 50 (nL2)"
)
_UNFLIPPED = ", without mirrored training images"
MQ_WORDS = {
    "mq_0*": f"number {_MUCH_NEARER}",
    "mq_rate_0*": f"share {_MUCH_NEARER}",
    "mq_innocents_rate_0*": _INNOCENT.format("mq_rate_0{}"),
    "nl2_share": _NL2,
    "nl2_innocents_share": _INNOCENT.format("nl2_share"),
    "mq_innocents_n": "number of these pictures",
    "mq_unflipped_0*": f"number {_MUCH_NEARER}{_UNFLIPPED}",
    "mq_unflipped_rate_0*": f"share {_MUCH_NEARER}{_UNFLIPPED}",
    "mq_unflipped_innocents_rate_0*": _INNOCENT.format("mq_unflipped_rate_0{}") + _UNFLIPPED,
    "nl2_unflipped_share": _NL2 + _UNFLIPPED,
    "nl2_unflipped_innocents_share": _INNOCENT.format("nl2_unflipped_share") + _UNFLIPPED,
}

MOST_PRDC_PAIRS = 10**9  # some minutes on a CPU

# --metrics -> Metric; an evaluation computes and writes them in this order
METRICS = {
    "similarity": Metric(
        similarity, SIMILARITY_WORDS, shown=("copy_share", "sim_mean", "sim_95pc")
    ),
    "background": Metric(
        background, BACKGROUND_WORDS, least=(1, 2), needs_images=True, shown=("bg_95pc",)
    ),
    "duplication": Metric(
        duplication, DUPLICATION_WORDS, shown=("copy_share_dup", "copy_share_nodup")
    ),
    "complexity": Metric(complexity, COMPLEXITY_WORDS),
    "fid": Metric(
        fid,
        FID_WORDS,
        networks=(INCEPTION,),
        least=(2, 2),
        needs_images=True,
        shown=("fid", "fid_dcr"),
    ),
    "fd": Metric(
        fd,
        {"fd_*": "Frechet distance to the training images on this network's features"},
        networks=(TIMM,),
        least=(2, 2),
        needs_images=True,
        shown=("fd_*",),
    ),
    # published on Inception's features; where its weights are missing, on those of fd
    "kid": Metric(
        kid,
        KID_WORDS,
        networks=(INCEPTION, TIMM),
        least=(2, 2),
        needs_images=True,
        shown=("kid_mean",),
    ),
    "prdc": Metric(
        coverage,
        PRDC_WORDS,
        networks=(INCEPTION, TIMM),
        least=(MIN_IMAGES, MIN_IMAGES),
        needs_images=True,
        limit=PairLimit(MOST_PRDC_PAIRS, lambda q, m: m * max(q, m)),
        shown=("precision", "recall", "density", "coverage"),
    ),
    "clip": Metric(clip, CLIP_WORDS, networks=(CLIP,), shown=("clipscore",)),
    "mq": Metric(
        mq,
        MQ_WORDS,
        networks=(PIXELS,),
        least=(1, memorized.NEIGHBOURS),
        needs_images=True,
        limit=PairLimit(memorized.MOST_PAIRS, lambda q, m: q * m),
        shown=("mq_rate_05", "mq_innocents_rate_05", "nl2_share"),
        settings=("mq_flip",),
    ),
}


# What follows from the records --------------------------------------------------------------------


def asked(names: Iterable[str] | None) -> dict[str, Metric]:
    """The metrics to compute: those that --metrics names, else all. Returns: {name: Metric}."""
    return {name: METRICS[name] for name in names or METRICS}


def network_of(name: str, measured: Measured) -> str | None:
    """The network that a metric reads: the first of its networks that was built; None if none
    was."""
    names = (network.name for network in METRICS[name].networks)
    return next((name for name in names if name in measured.networks.pairs), None)


def all_networks() -> list[MetricNetwork]:
    """Every network that some metric reads, each once."""
    return list(dict.fromkeys(n for metric in METRICS.values() for n in metric.networks))


def all_words(*, counterfactual: bool = False) -> dict[str, str]:
    """What the keys of metrics.json mean. counterfactual: whether the run duplicated no image.
    Returns: {key, or beginning and *: words}."""
    of_metrics = {k: words for metric in METRICS.values() for k, words in metric.words.items()}
    return of_metrics | VERDICT_WORDS | (COUNTERFACTUAL_WORDS if counterfactual else {})
