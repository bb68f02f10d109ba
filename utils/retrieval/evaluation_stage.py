"""The stage of an evaluation: plan, build networks, read images, measure, write.

It turns the options of diff_retrieval.py into records, which all modules below it take."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from utils.cli import flags
from utils.files import locks
from utils.reports.progress import progress
from utils.retrieval import (
    candidates,
    evaluation_files,
    evaluation_inputs,
    evaluation_record,
    evaluation_report,
    feature_cache,
    folder_verdict,
    innocents,
    measurement,
    metrics,
    second_look,
    verdict_measurement,
)
from utils.retrieval.decided import UNDECIDED, Decided
from utils.retrieval.evaluation_files import Evaluated, Output
from utils.retrieval.evaluation_networks import NetworkRequest, Networks, build_networks
from utils.retrieval.evaluation_report import TrackerChoice, WrittenEvaluation
from utils.retrieval.evaluation_request import (
    DescriptorChoice,
    EvaluationInputs,
    EvaluationRequest,
    MatchSettings,
    MetricFlags,
    VerdictSettings,
)
from utils.retrieval.evaluation_sets import Sets
from utils.retrieval.features import ReaderSettings
from utils.retrieval.innocents import InnocentSet
from utils.retrieval.measured import Measured
from utils.runtime import devices

if TYPE_CHECKING:
    import torch

    from utils.cli.retrieval_options import RetrievalOptions
    from utils.files.evaluation_folder import Evaluation
    from utils.runtime.parallel import Processes

RecordType = TypeVar("RecordType")

# From options to records --------------------------------------------------------------------------


def _record_of(kind: type[RecordType], opts: RetrievalOptions, **more: Any) -> RecordType:
    """Fill a record whose fields have the names of options. more: the fields that have other
    names."""
    names = [f.name for f in fields(kind) if f.name not in more]  # type: ignore[arg-type]
    return kind(**{name: getattr(opts, name) for name in names}, **more)


def descriptor_choice(opts: RetrievalOptions) -> DescriptorChoice:
    """Which descriptor the options ask for."""
    return _record_of(DescriptorChoice, opts)


def request_of(opts: RetrievalOptions) -> EvaluationRequest:
    """What the options ask to measure."""
    return EvaluationRequest(
        inputs=_record_of(EvaluationInputs, opts),
        descriptor=descriptor_choice(opts),
        comparison=_record_of(MatchSettings, opts, similarity=opts.chunked),
        metrics=opts.metrics,
        flags=_record_of(MetricFlags, opts),
        verdict=verdict_settings(opts) if "similarity" in metrics.asked(opts.metrics) else None,
    )


def verdict_settings(opts: RetrievalOptions) -> VerdictSettings:
    """How the options ask to look again, and which innocents they name."""
    views = opts.views or candidates.default_views(opts.pt_style)
    named = tuple(view for view in candidates.VIEWS if view in (*views, candidates.PLAIN))
    return _record_of(VerdictSettings, opts, align=not opts.no_align, views=named)


def output_of(opts: RetrievalOptions) -> Output:
    """What the options ask to write."""
    return Output(opts.output_dir, save_scores=not opts.dontsave, workers=opts.num_workers)


def tracker_choice(opts: RetrievalOptions) -> TrackerChoice:
    """Which tracker the options ask for."""
    return TrackerChoice(
        "none" if opts.noeval else opts.report_to,
        project=opts.wandb_project,
        run_name=opts.run_name,
    )


# Training images: a folder, or an index -----------------------------------------------------------


@dataclass(frozen=True)
class Comparison:
    """The result of comparing both sets."""

    measured: Measured | None  # None on processes other than the main one
    sets: Sets  # without the images that could not be read
    decided: Decided = UNDECIDED


class TrainingSide(Protocol):
    """How the images of --val_dir are listed, and how generated images are compared with them.
    Every process calls `measure`; the main one alone calls `read_sets`."""

    def read_sets(self, request: EvaluationRequest, *, say: Callable[[str], None]) -> Sets:
        """List both sets, before any network loads."""

    def measure(
        self,
        request: EvaluationRequest,
        sets: Sets,
        networks: Networks,
        reading: ReaderSettings,
        innocents: InnocentSet | None,
        say: Callable[[str], None],
    ) -> Comparison:
        """Compare both sets. innocents: None: training images stand in for them."""

    def planned_files(self, request: EvaluationRequest, sets: Sets) -> list[Path]:
        """Files that are written beside the training images."""


class ImageTraining:
    """Training images in a folder or in tar shards: each is read, for all networks."""

    def read_sets(self, request: EvaluationRequest, *, say: Callable[[str], None]) -> Sets:
        return evaluation_inputs.read_sets(request.inputs, say=say)

    def measure(
        self,
        request: EvaluationRequest,
        sets: Sets,
        networks: Networks,
        reading: ReaderSettings,
        innocents: InnocentSet | None,
        say: Callable[[str], None],
    ) -> Comparison:
        features, read = measurement.read_features(
            sets, networks, reading, max_bad=request.inputs.max_bad_images
        )
        beside = measurement.innocent_features(innocents, read, networks, reading)
        measured = None
        if reading.processes.main:
            measured = measurement.of_features(
                request,
                read,
                networks,
                features,
                device=reading.processes.device,
                workers=reading.num_workers,
            )
            measured = replace(measured, networks=replace(measured.networks, innocents=beside))
        if request.verdict is None:
            return Comparison(measured, read)
        look, decided = folder_verdict.measure(
            request, read, networks, features, reading, innocents, measured, say
        )
        return Comparison(measured and replace(measured, second_look=look), read, decided)

    def planned_files(self, request: EvaluationRequest, sets: Sets) -> list[Path]:
        return []


# The command ----------------------------------------------------------------------------------


def evaluate(opts: RetrievalOptions, processes: Processes, training: TrainingSide) -> None:
    """Compare generated with training images, write the evaluation and report it. Processes share
    the reading; the main one does the rest."""
    planned = plan(opts, processes, training)
    if opts.dry_run:
        processes.show({"options": flags.as_dict(opts), **planned.summary(opts.matrix_path)})
        return
    with locks.only_writers("--output_dir", planned.folder.path, processes):
        written = run(opts, processes, planned)
    if written is not None:
        evaluation_report.report(written, tracker_choice(opts), processes.say)


# Plan ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class EvaluationPlan:
    """An evaluation whose inputs were checked and listed."""

    request: EvaluationRequest
    output: Output
    training: TrainingSide
    sets: Sets
    folder: Evaluation  # that it is written to
    innocents: InnocentSet | None = None  # None: training images stand in for them

    def summary(self, matrix_path: Path | None) -> dict[str, Any]:
        """What the evaluation would read and write, as JSON types. matrix_path: file of all scores,
        or None."""
        more = (
            [matrix_path] if matrix_path else self.training.planned_files(self.request, self.sets)
        )
        return {
            "generated": len(self.sets.generated),
            "training": len(self.sets.training),
            "recognised": self.sets.recognised(),
            "writes": [*self.folder.planned(), *(str(path) for path in more)],
        }


def plan(opts: RetrievalOptions, processes: Processes, training: TrainingSide) -> EvaluationPlan:
    """Check and list the inputs; every process sees what the main one lists, as a folder may grow.
    UsageError if what is asked for cannot be measured."""
    request, output, listed = request_of(opts), output_of(opts), None
    with processes.together():
        if processes.main:
            sets = training.read_sets(request, say=processes.say)
            listed = (sets, list_innocents(request, sets, processes.say))
    sets, chosen = processes.share(listed)
    with processes.together():
        measurement.require_possible(request.metrics, sets)
        folder = evaluation_files.folder_for(request, output, sets)
    return EvaluationPlan(request, output, training, sets, folder, chosen)


def list_innocents(
    request: EvaluationRequest, sets: Sets, say: Callable[[str], None]
) -> InnocentSet | None:
    """The innocents that are pictures of their own; None where training images stand in."""
    how = request.verdict
    if how is None:
        return None
    if how.innocent_dir:
        innocents.require_other_model(
            how.innocent_dir, query_dir=request.inputs.query_dir, run=request.inputs.run
        )
    return innocents.listed_innocents(
        sets,
        innocent_dir=how.innocent_dir,
        base_dir=how.base_dir,
        seed=request.flags.seed,
        say=say,
    )


# Run ----------------------------------------------------------------------------------------------


def run(
    opts: RetrievalOptions, processes: Processes, plan: EvaluationPlan
) -> WrittenEvaluation | None:
    """Measure and write what was planned. Every process calls this; the main one alone writes.
    Returns: None on the others."""
    dtype = devices.measuring_dtype(opts.mixed_precision, processes.device)
    with processes.together():
        networks = build_evaluation_networks(
            plan.request, plan.sets, device=processes.device, dtype=dtype
        )
    reading = reader_settings(opts, processes)
    compared = plan.training.measure(
        plan.request, plan.sets, networks, reading, plan.innocents, processes.say
    )
    measured, sets, decided = compared.measured, compared.sets, compared.decided
    if measured is None:
        return None
    named = plan.request.metrics is not None
    asked = metrics.asked(plan.request.metrics)
    row, skipped = measurement.compute(asked, measured, sets, named=named)
    row |= verdict_measurement.numbers_of(measured, decided)
    settings = evaluation_record.settings_of(
        plan.request,
        sets,
        networks,
        measured,
        decided,
        fingerprints=evaluation_record.fingerprints_of(plan.sets),
        machine=evaluation_record.Machine(processes.device.type, processes.count, str(dtype)),
    )
    evaluated = Evaluated(measured, sets, row, skipped, settings, decided)
    say_notes(opts, plan, evaluated, processes.say)
    with plan.folder.writing() as part:
        table = evaluation_files.write(part, evaluated, plan.output, say=processes.say)
    if opts.matrix_path and measured.on_demand.write_matrix is not None:
        measured.on_demand.write_matrix(opts.matrix_path)
    return WrittenEvaluation(plan.folder.path, row, settings, table)


def build_evaluation_networks(
    request: EvaluationRequest, sets: Sets, *, device: torch.device, dtype: torch.dtype
) -> Networks:
    """Build the descriptor and the networks that the metrics read. UsageError if the descriptor, or
    a network of a metric that --metrics names, is not available."""
    descriptor = measurement.build_descriptor(request.descriptor, device=device, dtype=dtype)
    measurement.require_chunks(request.comparison.num_loss_chunks, descriptor)
    asked = metrics.asked(request.metrics)
    wanted = NetworkRequest(
        flags=request.flags,
        metrics=tuple(asked),
        generated=len(sets.generated),
        training=len(sets.training),
        has_text=bool(sets.known.captions)
        or any(query.source_prompt is not None for query in sets.queries),
        device=device,
        dtype=dtype,
    )
    networks = build_networks(
        asked, wanted, named=request.metrics is not None, indexed=sets.indexed is not None
    )
    networks.extractors = {"descriptor": descriptor, **networks.extractors}
    how = request.verdict
    if how is not None and how.align:
        networks.extractors[second_look.PICTURE] = second_look.picture_extractor()
        networks.views = candidates.of_views(descriptor, how.views)
    return networks


def reader_settings(opts: RetrievalOptions, processes: Processes) -> ReaderSettings:
    """How images are read."""
    folder = feature_cache.folder_of(opts.cache_dir)
    return ReaderSettings(
        batch_size=opts.batch_size,
        num_workers=opts.num_workers,
        processes=processes,
        cache=feature_cache.FeatureCache(folder, processes.say),
        wrap=lambda batches: progress(
            batches, total=len(batches), label="reading", main_process=processes.main
        ),
    )


def say_notes(
    opts: RetrievalOptions, plan: EvaluationPlan, evaluated: Evaluated, say: Callable[[str], None]
) -> None:
    """Print what a reader of the numbers should know."""
    for flag in ("keephead", "keeppredictor"):
        if getattr(opts, flag):
            say(f"--{flag} has no effect, as in the published script")
    path = plan.folder.path
    for line in evaluation_record.notes_of(
        plan.request,
        evaluated.sets,
        evaluated.measured,
        evaluated.skipped,
        replaces=path if (path / "metrics.json").exists() else None,
    ):
        say(line)
    for line in verdict_measurement.notes_of(evaluated.measured, evaluated.sets, evaluated.decided):
        say(line)
