"""Evaluate against an index: search its vectors for the best matches of the generated images."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from utils.cli import flags
from utils.data import image_sets
from utils.index import index_checks, index_descriptor, index_verdict, search, vector_index
from utils.reports.progress import progress
from utils.retrieval import evaluation_inputs, features, measurement, show_nothing
from utils.retrieval.decided import UNDECIDED, Decided
from utils.retrieval.evaluation_networks import Networks
from utils.retrieval.evaluation_request import EvaluationRequest
from utils.retrieval.evaluation_sets import IndexFacts, Sets, TrainingFacts
from utils.retrieval.evaluation_stage import Comparison
from utils.retrieval.formulas import similarity as sim
from utils.retrieval.innocents import InnocentSet
from utils.retrieval.measured import NO_IMAGES, CannotMeasureError, Measured, OnDemand
from utils.retrieval.second_look import SecondLook
from utils.runtime.errors import UsageError

if TYPE_CHECKING:
    from utils.cli.retrieval_options import RetrievalOptions
    from utils.files.run_folder import Run
    from utils.runtime.parallel import Processes, Say


# matches that are searched for beyond those asked for, where a run held images of the index out;
# of more, some could be a match of an image that resembles a thousand others of them
MOST_HELD_OUT = 1000


@dataclass(frozen=True)
class IndexTraining:
    """Training images that are an index (a TrainingSide of evaluation_stage)."""

    opts: RetrievalOptions

    def read_sets(self, request: EvaluationRequest, *, say: Say) -> Sets:
        """List the generated images, and open the index as the training images, before any network
        loads. `training` is the index until `measure` knows which of its images matter."""
        require_flags(self.opts)
        inputs = request.inputs
        index = vector_index.open_index("--val_dir", inputs.val_dir)
        index_descriptor.require_descriptor(request.descriptor, inputs.val_dir, index.descriptor)
        if not self.opts.dry_run:
            index_checks.look(index, asked=self.opts.verify, say=say)
        _say_if_incomplete(index, inputs.val_dir, say)
        generated, queries, manifest = evaluation_inputs.read_queries(inputs.query_dir, say=say)
        run = evaluation_inputs.training_run(inputs, manifest, say)
        named = list(dict.fromkeys(q.source_image for q in queries if q.source_image))
        known, facts = _known_images(index, run, named, inputs.val_dir, say)
        return Sets(
            generated,
            queries,
            index,
            known,
            evaluation_inputs.generation_facts(inputs.query_dir, queries, manifest),
            facts,
            held_out=index.images(np.array(facts.held_out)) if facts.held_out else None,
        )

    def measure(
        self,
        request: EvaluationRequest,
        sets: Sets,
        networks: Networks,
        reading: features.ReaderSettings,
        innocents: InnocentSet | None,
        say: Say,
    ) -> Comparison:
        """Search the index for every generated image. Every process searches a part of the index
        or, approximately, for a part of the generated images."""
        processes, index = reading.processes, _opened(sets)
        _require_network(request, index, networks, processes)
        generated, kept, bad = features.extract(
            sets.generated, measurement.generated_extractors(networks), reading
        )
        image_sets.require_readable(
            "--query_dir", sets.generated, bad, max_bad=request.inputs.max_bad_images
        )
        sets, generated = show_nothing.leave_out(
            measurement.without_unreadable(sets, kept, bad), generated, processes
        )
        query = processes.share(
            sim.normalised(generated["descriptor"]).numpy() if processes.main else None
        )
        searching = IndexSearch(index, request.comparison.ann, _held(sets), processes, say)
        result = searching.matches(query, request.comparison.num_matches)
        look, decided = _looked_again(request, searching, networks, generated, reading, innocents)
        if not processes.main:
            return Comparison(None, sets)
        seen = np.empty(0, np.int64) if look is None else look.candidates[look.candidates >= 0]
        searched, matched = _with_matched_images(sets, index, result, seen)
        others = {name: (rows, None) for name, rows in generated.items() if name != "descriptor"}
        measured = _measured(
            request, searched, networks, others, query, matched, reading.num_workers
        )
        look = index_verdict.in_places(look, matched.rows)
        return Comparison(replace(measured, second_look=look), searched, decided)

    def planned_files(self, request: EvaluationRequest, sets: Sets) -> list[Path]:
        """Files of the lists of an approximate search, if they are not written yet."""
        return search.planned(_opened(sets)) if request.comparison.ann else []


def _require_network(
    request: EvaluationRequest,
    index: vector_index.VectorIndex,
    networks: Networks,
    processes: Processes,
) -> None:
    """Raise UsageError unless the descriptor is that of the index, to its weights."""
    with processes.together():
        record = index_descriptor.descriptor_record(
            request.descriptor, networks.extractors["descriptor"]
        )
        index_descriptor.require_descriptor(
            request.descriptor, request.inputs.val_dir, index.descriptor, record
        )


def _held(sets: Sets) -> Sequence[int]:
    """Rows of the index that the run held out."""
    return sets.indexed.held_out if sets.indexed else ()


def _looked_again(
    request: EvaluationRequest,
    searching: IndexSearch,
    networks: Networks,
    generated: dict[str, Any],
    reading: features.ReaderSettings,
    innocents: InnocentSet | None,
) -> tuple[SecondLook | None, Decided]:
    """The second look, with rows of the index; nothing where it is not asked for."""
    if request.verdict is None:
        return None, UNDECIDED

    def search_for(vectors: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        found = searching.matches(vectors, k)
        return found.scores, found.rows

    align = request.verdict.align
    near = index_verdict.near_of(request.descriptor.pt_style, align=align)
    source = index_verdict.IndexSource(searching.index, search_for, near, reading, searching.say)
    fixed = measurement.threshold_of(request.comparison, networks)
    return index_verdict.measure(request, source, networks, generated, innocents, fixed=fixed)


def _say_if_incomplete(index: vector_index.VectorIndex, val_dir: str, say: Say) -> None:
    """Print a line if shards of the index are missing."""
    if not index.complete:
        say(
            f"the index {val_dir} is not complete: {len(index.shards)} of"
            f" {len(index.planned)} shards ({len(index)} images) are searched"
        )


def _known_images(
    index: vector_index.VectorIndex, run: Run | None, named: list[str], val_dir: str, say: Say
) -> tuple[TrainingFacts, IndexFacts]:
    """Find the images that a run or the manifest names. named: the training images of prompts."""
    duplicated = list(run.record["duplicated"]) if run else None
    holdout = run.holdout if run else []
    rows = index.find([*named, *(duplicated or ()), *holdout])
    aside = {key: rows.pop(key) for key in holdout if key in rows}
    evaluation_inputs.say_held_out(len(aside), len(index), val_dir, say)
    absent = [key for key in duplicated or () if key not in rows]
    if run is not None and absent:
        say(
            f"{len(absent)} duplicated images of {run.path / 'run.json'} are not in the index;"
            " duplication is skipped"
        )
        duplicated = None
    if named and not any(key in rows or key in aside for key in named):
        say(
            f"none of the {len(named)} training images that the manifest names is in the index:"
            " was it built from the folder that was trained on?"
        )
    sources = {key: key for key in named if key in rows}
    return (
        TrainingFacts(
            duplicated,
            sources,
            holdout=list(aside) if run else None,
            counterfactual=evaluation_inputs.is_counterfactual(run),
        ),
        IndexFacts(index, rows, held_out=tuple(sorted(aside.values()))),
    )


def _opened(sets: Sets) -> vector_index.VectorIndex:
    """The index that `read_sets` opened as the training images."""
    if not isinstance(sets.training, vector_index.VectorIndex):
        raise TypeError("the training images are no index, or it was searched already")
    return sets.training


def require_flags(opts: RetrievalOptions) -> None:
    """Raise UsageError for flags that do not go with an index as --val_dir."""
    for name in ("sim_save_path", "val_captions", "einsum_chunks"):
        if getattr(opts, name) != flags.default_of(opts, name):
            raise UsageError(
                f"--{name}={getattr(opts, name)!r} does not go with an index as --val_dir; leave"
                " it out"
            )
    if opts.chunked != "dotproduct":
        raise UsageError(
            f"--similarity_metric={opts.similarity_metric!r} does not go with an index; use"
            " dotproduct"
        )


@dataclass(frozen=True)
class SearchResult:
    """The result of a search. Q queries, k matches each, the best first."""

    scores: np.ndarray  # [Q, k] float32
    rows: np.ndarray  # [Q, k] int64, of the index
    settings: dict[str, Any]  # how it was searched, for the settings of metrics.json


@dataclass
class IndexSearch:
    """Searches an index, as often as it is asked; every process calls `matches`."""

    index: vector_index.VectorIndex
    ann: bool  # approximately
    held: Sequence[int]  # rows that were held out: they are no matches
    processes: Processes
    say: Say
    searcher: search.Approximate | search.Exact | None = (
        None  # approximate; made by the first search
    )

    def matches(self, query: np.ndarray, k: int) -> SearchResult:
        """The k best matches, or as many as there are. query: [Q, D], normalised."""
        k = min(k, len(self.index))
        wanted = k + min(len(self.held), MOST_HELD_OUT)
        found = self._approximately(query, wanted) if self.ann else self._exactly(query, wanted)
        return without_rows(found, self.held, k)

    def _exactly(self, query: np.ndarray, k: int) -> SearchResult:
        """Search all vectors; every process searches a part of the index."""
        index, processes = self.index, self.processes
        wrap = block_bar(index, "searching", parts=processes.count, main_process=processes.main)
        searcher = search.Exact(index, processes.device, processes.index, processes.count, wrap)
        with processes.together():  # the disk of one process may fail
            part = searcher.search(query, k)
        scores, rows = search.merged(processes.gather(part), k)
        return SearchResult(scores, rows, searcher.settings)

    def _approximately(self, query: np.ndarray, k: int) -> SearchResult:
        """Search the lists of an index; every process searches for a part of the queries, if the
        lists are saved on disk, else the main process alone."""
        processes, kept, part = self.processes, False, None
        with processes.together():
            if processes.main:  # it makes the lists, where there are none; the others read them
                wrap = block_bar(self.index, "filling lists")
                made = self.searcher or search.approximate(self.index, say=self.say, wrap=wrap)
                self.searcher, kept = made, made.kept
        parts = processes.count if processes.share(kept) else 1
        first, last = (len(query) * min(processes.index + n, parts) // parts for n in (0, 1))
        with processes.together():
            if first < last:
                self.searcher = self.searcher or search.approximate(self.index, say=self.say)
                part = self.searcher.search(query[first:last], k)
        found = [p for p in processes.gather(part) if p is not None]
        settings = processes.share(None if self.searcher is None else self.searcher.settings)
        scores, rows = (np.concatenate(side) for side in zip(*found, strict=True))
        return SearchResult(scores, rows, settings)


def without_rows(result: SearchResult, rows: Sequence[int], k: int) -> SearchResult:
    """The k best matches that are none of some rows, or as many as every query has."""
    if not len(rows):
        return result
    excluded = np.isin(result.rows, np.asarray(rows))
    left = min(k, int((~excluded).sum(1).min()))
    order = np.argsort(excluded, axis=1, kind="stable")[:, :left]
    scores, found = (np.take_along_axis(each, order, 1) for each in (result.scores, result.rows))
    return replace(result, scores=scores, rows=found)


@dataclass(frozen=True)
class MatchedImages:
    """The images of the index that are a match of a generated image, a candidate of the second
    look, or the training image of a prompt."""

    scores: np.ndarray  # [Q, k] float32
    places: np.ndarray  # [Q, k] int64, of the matches among these images
    vectors: Callable[[np.ndarray], np.ndarray]  # places [n] -> their vectors [n, D]
    rows: np.ndarray  # [n] int64, their rows in the index, ascending


def _with_matched_images(
    sets: Sets, index: vector_index.VectorIndex, result: SearchResult, seen: np.ndarray
) -> tuple[Sets, MatchedImages]:
    """Replace the index, as the training images, by its MatchedImages. sets: without the generated
    images that could not be read; seen: rows that the second look looked at."""
    facts = sets.indexed or IndexFacts(index)
    named = {sets.known.sources.get(q.source_image or "") for q in sets.queries} - {None}
    own = np.array([facts.rows[key] for key in named if key is not None], np.int64)
    unique, places = np.unique(
        np.concatenate([result.rows.ravel(), own, seen]), return_inverse=True
    )
    images = {row["key"]: row for row in index.table(unique)}
    captions = {key: row["caption"] for key, row in images.items() if row["caption"]}
    searched = replace(
        sets,
        training=index.images(unique),
        known=replace(sets.known, captions=captions),
        indexed=replace(facts, images=images, search=result.settings),
    )
    matched = MatchedImages(
        result.scores,
        places[: result.rows.size].reshape(result.rows.shape),
        lambda chosen: index.take(unique[chosen]),
        unique,
    )
    return searched, matched


def _measured(
    request: EvaluationRequest,
    sets: Sets,
    networks: Networks,
    others: measurement.Features,
    query: np.ndarray,
    matched: MatchedImages,
    workers: int,
) -> Measured:
    """What the metrics read. others: features of the generated images by the further networks;
    query: their normalised descriptors, [Q, D]."""

    def source_scores(queries: np.ndarray, sources: np.ndarray) -> np.ndarray:
        vectors = matched.vectors(sources)
        return np.einsum("nd,nd->n", query[queries], vectors, dtype=np.float64, casting="same_kind")

    def no_background() -> np.ndarray:
        raise CannotMeasureError(NO_IMAGES)

    how = request.comparison
    return Measured(
        matches=measurement.matches_of(how, networks, matched.places, matched.scores),
        origins=measurement.origins_of(sets, source_scores),
        networks=measurement.network_features(sets, networks, others),
        on_demand=OnDemand(
            no_background, measurement.complexity_of_matches(sets, matched.places, workers)
        ),
        flags=request.flags,
    )


# Search -------------------------------------------------------------------------------------------


def block_bar(
    index: vector_index.VectorIndex, label: str, *, parts: int = 1, main_process: bool = True
) -> Callable[[Iterable], Iterable]:
    """A function that wraps the blocks of one of `parts` parts of an index in a progress bar, if
    there are several blocks."""
    total = math.ceil(len(index) / parts / index.block_rows())
    return lambda blocks: progress(
        blocks, total=total, label=label, main_process=main_process and total > 1
    )
