"""The request for an evaluation, as records of values: everything below the stage reads these and
never the options.

Fields have the names of the flags that set them, without the dashes."""

from __future__ import annotations

from dataclasses import dataclass

from utils.data.field_names import USUAL, Columns
from utils.retrieval.descriptors.network import NetworkChoice


@dataclass(frozen=True)
class EvaluationInputs:
    """Where the two sets of images lie, and what describes them."""

    query_dir: str  # generated images
    val_dir: str  # training images: a folder, tar shards, or an index
    run: str | None  # training run that names the duplicated images; None: the manifest's
    val_captions: str | None  # captions JSON of the training images
    max_bad_images: float  # share of unreadable images above which the evaluation stops
    columns: Columns = USUAL  # of captions files: --caption_column, --image_column


@dataclass(frozen=True, kw_only=True)
class DescriptorChoice(NetworkChoice):
    """Which network describes images, and how it is used."""

    pt_style: str  # name in extractors.EXTRACTORS


@dataclass(frozen=True)
class MatchSettings:
    """How descriptors are compared, and which matches are kept."""

    similarity: str  # name in similarity.SIMILARITIES
    num_loss_chunks: int | None  # parts that a descriptor is cut into; None: the descriptor's own
    einsum_chunks: int  # rows that are compared at once
    num_matches: int  # best training images that are kept for each generation
    copy_threshold: float | None  # None: the descriptor's own, if the field has one
    ann: bool  # search an index approximately


@dataclass(frozen=True)
class VerdictSettings:
    """How candidates are aligned, and which innocents set the threshold of a copy."""

    align: bool  # whether candidates are aligned; else the descriptor's score decides
    views: tuple[str, ...]  # names in candidates.VIEWS
    num_candidates: int  # training images with which each generated image is aligned
    innocent_dir: str | None  # pictures that nobody copied
    base_dir: str | None  # images of the base model
    false_positives: float  # share of the innocents that may exceed the threshold


@dataclass(frozen=True)
class MetricFlags:
    """Flags that the networks and the formulas of metrics read."""

    seed: int  # of bootstrap intervals and of KID's subsets
    fid_weights: str | None
    fid_protocol: str  # "standard", or "dcr" for fid_dcr beside fid
    fd_extractor: str  # model of timm
    clip_model: str
    clip_pretrained: str
    clip_protocol: str  # "standard", or "dcr" for clipscore_dcr beside clipscore
    mq_size: int  # side in pixels
    mq_flip: bool


@dataclass(frozen=True)
class EvaluationRequest:
    """All that determines the numbers of an evaluation."""

    inputs: EvaluationInputs
    descriptor: DescriptorChoice
    comparison: MatchSettings
    metrics: tuple[str, ...] | None  # names that --metrics gives; None: all that can be computed
    flags: MetricFlags
    verdict: VerdictSettings | None = None  # None: the similarity is not measured
