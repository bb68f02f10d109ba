"""The networks that metrics read, beside the descriptor: how each is built, and which of them an
evaluation needs.

A metric names its networks in its `Metric` record (metrics.py); nothing else lists them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from utils.retrieval.descriptors import clip, inception, timm_models
from utils.retrieval.descriptors.network import Extractor, NetworkChoice, Wanted
from utils.retrieval.descriptors.weights import WeightsMissingError
from utils.retrieval.evaluation_request import MetricFlags
from utils.retrieval.formulas import memorized
from utils.retrieval.measured import NO_IMAGES, NO_PROMPTS, CannotMeasureError
from utils.runtime.errors import UsageError

if TYPE_CHECKING:
    import torch

    from utils.retrieval.metrics import Metric


@dataclass(frozen=True)
class NetworkRequest:
    """What a builder of a network may read."""

    flags: MetricFlags
    metrics: tuple[str, ...]  # names of the metrics that are computed
    generated: int  # number of generated images
    training: int  # number of training images
    has_text: bool  # whether some image has a prompt or a caption
    device: torch.device
    dtype: torch.dtype


@dataclass(frozen=True)
class MetricNetwork:
    """A network that metrics read.

    `build(request)` returns {name of features: Extractor}: `name`, and any of `variants`. It raises
    WeightsMissingError or CannotMeasureError where the network cannot be had. The record of each
    Extractor, with the SHA-256 of its weights, is stored in the settings of metrics.json under the
    name of its features."""

    name: str
    build: Callable[[NetworkRequest], dict[str, Extractor]]
    variants: tuple[str, ...] = ()
    own_precision: bool = False  # computes in one precision, whatever --mixed_precision says

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all features that it may compute."""
        return (self.name, *self.variants)


# Builders -----------------------------------------------------------------------------------------


def build_inception(request: NetworkRequest) -> dict[str, Extractor]:
    """Inception for the Frechet distance; under --fid_protocol dcr also `fid_dcr`, the same network
    as the published script feeds it."""
    extractor, module = inception.build(request.flags.fid_weights, device=request.device)
    built = {"fid": extractor}
    if request.flags.fid_protocol == "dcr" and "fid" in request.metrics:
        built["fid_dcr"] = inception.published(extractor, module, device=request.device)
    return built


def build_timm(request: NetworkRequest) -> dict[str, Extractor]:
    """The timm network of --fd_extractor; it sees training images as a generation shows them."""
    wanted = Wanted(
        flag="--fd_extractor",
        choice=NetworkChoice(arch=request.flags.fd_extractor),
        device=request.device,
        dtype=request.dtype,
    )
    return {"fd": replace(timm_models.build(wanted), as_generated=True)}


def build_clip(request: NetworkRequest) -> dict[str, Extractor]:
    """Both towers of CLIP; under --clip_protocol dcr also `clip_dcr`, with the published crop."""
    if not request.has_text:
        raise CannotMeasureError(NO_PROMPTS)
    towers = clip.load(
        request.flags.clip_model,
        request.flags.clip_pretrained,
        Wanted(device=request.device, dtype=request.dtype),
        flag="--clip_model",
        weights_flag="--clip_pretrained",
    )
    built = {"clip": towers.images()}
    if request.flags.clip_protocol == "dcr":
        built["clip_dcr"] = towers.images("dcr")
    return built


def build_pixels(request: NetworkRequest) -> dict[str, Extractor]:
    """The pixels themselves, at --mq_size."""
    return {"mq": memorized.pixels(request.flags.mq_size)}


INCEPTION = MetricNetwork("fid", build_inception, variants=("fid_dcr",))
TIMM = MetricNetwork("fd", build_timm)
CLIP = MetricNetwork("clip", build_clip, variants=("clip_dcr",))
PIXELS = MetricNetwork("mq", build_pixels, own_precision=True)


# Which of them an evaluation needs ----------------------------------------------------------------


@dataclass
class Networks:
    """The networks of an evaluation."""

    # name of features -> what computes them; `descriptor` is that of the comparison
    extractors: dict[str, Extractor] = field(default_factory=dict)
    # metric -> why it cannot be computed
    missing: dict[str, str] = field(default_factory=dict)
    # name of features -> what computes them of generated images and innocents alone: the
    # descriptor's views
    views: dict[str, Extractor] = field(default_factory=dict)

    def record(self, name: str) -> dict[str, Any] | None:
        """The record of the network that computed the features of that name, with the SHA-256 of
        its weights; None if there is none."""
        return self.extractors[name].record if name in self.extractors else None


def build_networks(
    asked: Mapping[str, Metric], request: NetworkRequest, *, named: bool, indexed: bool
) -> Networks:
    """Build every network that the metrics read, each once.

    A metric that cannot be computed is noted in `missing` with its reason.

    asked: name -> Metric, of those to compute
    named: whether --metrics names them; UsageError then if one cannot be computed
    indexed: whether the training images are an index"""
    networks = Networks()
    failed: dict[str, str] = {}  # name of a network -> why it cannot be had
    for name, metric in asked.items():
        try:
            if indexed and metric.needs_images:
                raise CannotMeasureError(NO_IMAGES)
            metric.require_images(request.generated, request.training)
            if not named:
                _require_few_pairs(name, metric, request)
            _build_first(metric.networks, request, networks, failed)
        except CannotMeasureError as error:
            if named:
                raise UsageError(f"--metrics={name!r} cannot be computed: {error}") from None
            networks.missing[name] = str(error)
    return networks


def _require_few_pairs(name: str, metric: Metric, request: NetworkRequest) -> None:
    """Raise CannotMeasureError if the metric compares so many pairs that --metrics must name it."""
    if metric.limit is None:
        return
    pairs = metric.limit.count(request.generated, request.training)
    if pairs > metric.limit.most:
        raise CannotMeasureError(
            f"{pairs} pairs of images take long to compare; request it with --metrics {name}"
        )


def _build_first(
    alternatives: tuple[MetricNetwork, ...],
    request: NetworkRequest,
    networks: Networks,
    failed: dict[str, str],
) -> None:
    """Build the first of the networks that is available, unless one is built already.

    failed: name of a network -> why it cannot be had; extended here. CannotMeasureError with the
    last reason if none can be had."""
    for network in alternatives:
        if network.name in networks.extractors:
            return
        if network.name in failed:
            continue
        try:
            networks.extractors |= network.build(request)
        except (WeightsMissingError, CannotMeasureError) as error:
            failed[network.name] = str(error)
        else:
            return
    if alternatives:
        raise CannotMeasureError(failed[alternatives[-1].name])
