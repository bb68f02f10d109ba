"""What metrics.json records of how an evaluation was made, and the lines that a reader of its
numbers needs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utils.reports.page_words import COUNTERFACTUAL
from utils.retrieval import evaluation_files, metrics, show_nothing, verdict
from utils.retrieval.decided import Decided
from utils.retrieval.evaluation_networks import Networks
from utils.retrieval.evaluation_request import EvaluationRequest, VerdictSettings
from utils.retrieval.evaluation_sets import IndexFacts, Sets
from utils.retrieval.measured import Measured
from utils.runtime import environment


@dataclass(frozen=True)
class Machine:
    """Where an evaluation was computed."""

    device: str  # type of the device, such as cuda
    processes: int
    dtype: str  # of the networks, as torch writes it


def fingerprints_of(sets: Sets) -> dict[str, str | None]:
    """Fingerprints of both sets as they were listed, of paths and sizes and of contents: an image
    that turns out to be unreadable does not change them."""
    return {
        "val_fingerprint": sets.training.fingerprint,
        "val_content_fingerprint": sets.training.content_fingerprint,
        "query_fingerprint": sets.generated.fingerprint,
        "query_content_fingerprint": sets.generated.content_fingerprint,
    }


def settings_of(
    request: EvaluationRequest,
    sets: Sets,
    networks: Networks,
    measured: Measured,
    decided: Decided,
    *,
    fingerprints: Mapping[str, str | None],
    machine: Machine,
) -> dict[str, Any]:
    """What determines the numbers; it is stored beside them, because the scales of descriptors
    differ."""
    names = [name for network in metrics.all_networks() for name in network.names]
    flags = [flag for metric in metrics.METRICS.values() for flag in metric.settings]
    return {
        "query_dir": request.inputs.query_dir,
        "val_dir": request.inputs.val_dir,
        **_search_settings(sets.indexed),
        "metrics": request.metrics,
        "num_matches": request.comparison.num_matches,
        "pt_style": request.descriptor.pt_style,
        "similarity_metric": request.comparison.similarity,
        "num_loss_chunks": measured.matches.chunks,
        "copy_threshold": measured.matches.threshold,
        **(networks.record("descriptor") or {}),
        **{name: networks.record(name) for name in names},
        "kid_prdc_network": metrics.network_of("kid", measured),
        **{flag: getattr(request.flags, flag) for flag in flags},
        **_verdict_settings(request.verdict, decided),
        **show_nothing.settings_of(sets),
        **({COUNTERFACTUAL: True} if sets.known.is_counterfactual else {}),
        **fingerprints,
        "seed": request.flags.seed,
        "device": machine.device,
        "processes": machine.processes,
        "dtype": machine.dtype,
        "run": request.inputs.run or sets.generation.run,
        "environment": environment.environment(),
    }


def _verdict_settings(how: VerdictSettings | None, decided: Decided) -> dict[str, Any]:
    """How the second look was taken, and where the threshold comes from."""
    if how is None:
        return {}
    taken: dict[str, Any] = {"align": how.align}
    if how.align:
        taken |= {"views": list(how.views), "num_candidates": how.num_candidates}
    return taken | verdict.verdict_settings(decided.verdict)


def _search_settings(indexed: IndexFacts | None) -> dict[str, Any]:
    """How many shards of an index were searched, and how; nothing for other training images."""
    if indexed is None:
        return {}
    shards = [len(indexed.index.shards), len(indexed.index.planned)]
    return {"index_shards": shards, **indexed.search}


def counted(number: int, noun: str) -> str:
    """A number with its noun, in the plural unless it is 1."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def notes_of(
    request: EvaluationRequest,
    sets: Sets,
    measured: Measured,
    skipped: Mapping[str, str],
    *,
    replaces: Path | None,
) -> Iterator[str]:
    """Lines on what a reader of the numbers should know.

    skipped: {metric: why it was skipped}
    replaces: the folder of an evaluation that this one replaces, or None"""
    for why in dict.fromkeys(skipped.values()):  # several metrics may lack the same
        yield f"skipped: {', '.join(n for n, other in skipped.items() if other == why)}: {why}"
    for key, why in (*sets.generated.bad, *sets.training.bad):
        yield f"skipped: {key}: {why}"
    yield from _notes_of_sets(sets)
    if request.comparison.similarity != "dotproduct" and measured.matches.chunks == 1:
        yield (
            f"{request.comparison.similarity} with 1 chunk equals dotproduct; --num_loss_chunks"
            " sets the number of chunks"
        )
    if replaces is not None:
        yield f"the evaluation in {replaces} is replaced; use --output_dir to keep both"
    if measured.matches.threshold is None:
        yield (
            "skipped: copy_share: the literature has no threshold for"
            f" {request.descriptor.pt_style}; give one with --copy_threshold"
        )
    if equal := evaluation_files.equal_best(measured):
        have = "has" if equal == 1 else "have"
        yield (
            f"{counted(equal, 'generation')} {have} best matches of equal score; the first in order"
            " is named"
        )


def _notes_of_sets(sets: Sets) -> Iterator[str]:
    """Lines on the images that were compared."""
    if line := show_nothing.note(sets.show_nothing):
        yield line
    if sets.known.is_counterfactual:
        yield (
            "the run duplicated no image; copy_share_dup and sim_dup are of images that the seed"
            f" would have duplicated ({len(sets.known.duplicated or ())})"
        )
    if sets.indexed is not None:
        yield from _index_notes(sets.indexed)


def _index_notes(indexed: IndexFacts) -> Iterator[str]:
    """Lines on images and tar files that are missing from an index."""
    index = indexed.index
    if bad := index.bad:
        key, why = bad[0]
        yield (
            f"{counted(len(bad), 'image')} could not be read when the index was built, first"
            f" {key!r} ({why}); the metadata of {index.root}/shards/*.parquet list all"
        )
    if damaged := index.damaged:
        yield (
            f"{counted(len(damaged), 'tar file')} could not be read to the end when the index was"
            f" built, first {damaged[0][0]!r}; the images after that point are not measured"
        )
