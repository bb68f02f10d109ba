"""Check that evaluations measured in the same way: which settings differ, and which metrics depend
on them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from utils.reports.page_words import COUNTERFACTUAL
from utils.retrieval import metrics

# settings that determine all numbers that are computed from descriptors
DESCRIPTOR_SETTINGS = (
    "pt_style",
    "arch",
    "preset",
    "similarity_metric",
    "weights_sha256",
    "state_sha256",
    "imsize",
    "multiscale",
    "layer",
    "patch_tokens",
    "num_loss_chunks",
)

# settings that tell other training images: by names and sizes, and by contents
TRAINED_ON = ("val_fingerprint", "val_content_fingerprint")

Differences = list[tuple[str, dict[str, list[str]]]]  # (setting, {value as text: labels})


@dataclass(frozen=True)
class ComparedEvaluation:
    """An evaluation on disk."""

    label: str  # unique among the compared runs
    folder: Path
    metrics: dict[str, float]  # numbers of metrics.json, intervals as _lo and _hi
    settings: dict[str, Any]
    counts: dict[str, Any]
    scores: np.ndarray  # [Q], similarity of the best matches


def is_metric(key: str) -> bool:
    """Whether a key of metrics.json is a metric, not the end of an interval or a count."""
    return not key.endswith(("_lo", "_hi", "_n"))


def images_of(evaluation: ComparedEvaluation) -> str:
    """How many images were measured."""
    return str(evaluation.counts.get("generated", len(evaluation.scores)))


@dataclass(frozen=True)
class NetworkRecord:
    """Where the settings of an evaluation record the network that some metrics read."""

    name: str  # for the user
    places: tuple[str, ...]  # settings that may hold the record; the first that does counts
    beginnings: tuple[str, ...]  # of the keys whose numbers it makes
    flags: tuple[str, ...] = ()  # settings that change the numbers too

    def of(self, evaluation: ComparedEvaluation) -> dict[str, Any] | None:
        """The record, or None if the run has none.

        Several places: the metric read the features of one network or of another, on scales that
        differ; then a run counts only if it has such a metric."""
        if len(self.places) > 1 and not any(
            key.startswith(self.beginnings) for key in evaluation.metrics
        ):
            return None
        record = next((r for place in self.places if (r := evaluation.settings.get(place))), None)
        if not isinstance(record, dict):
            return None
        return record | {flag: evaluation.settings.get(flag) for flag in self.flags}


def network_records() -> list[NetworkRecord]:
    """The records of all networks. Metrics that read one network, or the same alternatives, share
    one."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for name, metric in metrics.METRICS.items():
        if metric.networks:
            groups.setdefault(tuple(n.name for n in metric.networks), []).append(name)
    records = []
    for places, names in groups.items():
        members = [metrics.METRICS[name] for name in names]
        beginnings = tuple(b for metric in members for b in metric.beginnings)
        flags = tuple(flag for metric in members for flag in metric.settings)
        if len(places) > 1:
            records.append(NetworkRecord(names[0], places, beginnings, flags))
            continue
        for name in members[0].networks[0].names:
            records.append(NetworkRecord(name, (name,), beginnings, flags))
    return records


def makers() -> dict[str, tuple[str, ...]]:
    """The settings and network records on which numbers depend. Returns: {name: beginnings of the
    keys of those numbers}."""
    all_metrics = metrics.METRICS.values()
    of_descriptor = tuple(b for m in all_metrics if not m.networks for b in m.beginnings)
    in_dtype = tuple(
        b
        for m in all_metrics
        if not m.networks or not all(n.own_precision for n in m.networks)
        for b in m.beginnings
    )
    return {
        **dict.fromkeys(DESCRIPTOR_SETTINGS, of_descriptor),
        "dtype": in_dtype,
        "copy_threshold": ("copy_share",),
        **{record.name: record.beginnings for record in network_records()},
    }


def _grouped(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """Labels by value. pairs: (label, value as text). Returns: {value: labels}, values in the order
    in which they come."""
    groups: dict[str, list[str]] = {}
    for label, value in pairs:
        groups.setdefault(value, []).append(label)
    return groups


def _shown(setting: str, value: Any) -> str:
    """A setting's value for a line; 12 digits of a hash are enough to recognise it."""
    if setting.endswith(("sha256", "fingerprint")) and isinstance(value, str):
        return value[:12]
    return repr(value)


def differences(evaluations: Sequence[ComparedEvaluation]) -> Differences:
    """Settings on which numbers depend and that differ between runs; a part of a network's record
    is named record.part."""
    values = {
        setting: _grouped(
            (evaluation.label, _shown(setting, evaluation.settings.get(setting)))
            for evaluation in evaluations
        )
        for setting in (*DESCRIPTOR_SETTINGS, "dtype", "copy_threshold")
    }
    for network in network_records():
        records = [
            (evaluation.label, r)
            for evaluation in evaluations
            if (r := network.of(evaluation)) is not None
        ]
        for part in dict.fromkeys(key for _, record in records for key in record):
            values[f"{network.name}.{part}"] = _grouped(
                (label, _shown(part, record.get(part))) for label, record in records
            )
    return [(setting, groups) for setting, groups in values.items() if len(groups) > 1]


def concerned(evaluations: Sequence[ComparedEvaluation], differing: Differences) -> frozenset[str]:
    """Metrics whose numbers depend on a setting that differs."""
    made = makers()
    starts = tuple(start for setting, _ in differing for start in made[setting.partition(".")[0]])
    return frozenset(
        key
        for evaluation in evaluations
        for key in evaluation.metrics
        if is_metric(key) and key.startswith(starts)
    )


def _listed(groups: Mapping[str, list[str]]) -> str:
    return ", ".join(f"{value} ({', '.join(labels)})" for value, labels in groups.items())


def warnings(differing: Differences) -> list[str]:
    """A line for each difference."""
    return [
        f"measured differently: {setting}: {_listed(groups)}; its metrics are marked with *"
        for setting, groups in differing
    ]


def _of(fingerprint: str, evaluations: Sequence[ComparedEvaluation]) -> dict[str, list[str]]:
    """Labels of evaluations by a fingerprint of their training images; evaluations of earlier
    versions, which lack that of contents, are left out."""
    return _grouped(
        (evaluation.label, _shown(fingerprint, value))
        for evaluation in evaluations
        if (value := evaluation.settings.get(fingerprint)) is not None
    )


def remarks(evaluations: Sequence[ComparedEvaluation]) -> list[str]:
    """Lines on differences that are allowed: other training images, and other numbers of images
    where that changes a metric."""
    trained = next((groups for name in TRAINED_ON if len(groups := _of(name, evaluations)) > 1), {})
    lines = [f"training images differ: {_listed(trained)}"] if trained else []
    images = _grouped((evaluation.label, images_of(evaluation)) for evaluation in evaluations)
    has_distance = any(
        key.startswith(("fid", "fd_")) for evaluation in evaluations for key in evaluation.metrics
    )
    if len(images) > 1 and has_distance:
        lines.append(
            f"numbers of images differ: {_listed(images)}; a Frechet distance of fewer images comes"
            " out larger"
        )
    unduplicated = [each.label for each in evaluations if each.settings.get(COUNTERFACTUAL)]
    if unduplicated and len(unduplicated) < len(evaluations):
        lines.append(
            "copy_share_dup is of images that the seed would have duplicated, and none was, of:"
            f" {', '.join(unduplicated)}"
        )
    return lines
