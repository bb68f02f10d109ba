"""From features to the second look and the verdict: candidates, alignment, innocents, threshold.

Every process calls these functions; the main one alone receives results."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from utils.reports.progress import foretold, progress
from utils.retrieval import (
    aligning,
    candidates,
    features,
    second_look,
    second_look_shown,
    show_nothing,
    verdict,
)
from utils.retrieval.decided import ALIGNED, Decided, deciding_scores
from utils.retrieval.descriptors.network import Extractor
from utils.retrieval.evaluation_networks import Networks
from utils.retrieval.evaluation_request import EvaluationRequest, VerdictSettings
from utils.retrieval.evaluation_sets import Sets
from utils.retrieval.feature_cache import Bad, change_stamp
from utils.retrieval.features import ReaderSettings
from utils.retrieval.formulas import groups as near_duplicates
from utils.retrieval.formulas import similarity as sim
from utils.retrieval.formulas import threshold as thresholds
from utils.retrieval.innocents import InnocentSet
from utils.retrieval.measured import Measured
from utils.retrieval.metric_record import Numbers
from utils.retrieval.second_look import CandidateSource, Described, SecondLook
from utils.retrieval.verdict import Innocents

if TYPE_CHECKING:
    import torch

    from utils.runtime.parallel import Processes

# least share of a training picture's detailed area that a part copied has; innocents may raise it
LEAST_PART = 0.2


@dataclass(frozen=True)
class Scored:
    """How alike N pictures and the training images are."""

    scores: np.ndarray  # [N, k], of the best matches of the picture as it is; -inf for none
    matches: np.ndarray  # [N, k] int64; -1 for none
    look: SecondLook | None  # None: nothing was aligned

    @property
    def descriptor(self) -> np.ndarray:
        """[N], of the best match that is not the same picture twice; -inf without one."""
        if self.look is None:
            return self.scores[:, 0]
        look, best = self.look, np.full(len(self.scores), -np.inf)
        for n, (scores, matches) in enumerate(zip(self.scores, self.matches, strict=True)):
            same = look.candidates[n][look.aligned[n] > second_look.SAME]
            others = scores[~np.isin(matches, same)]
            best[n] = others[0] if len(others) else -np.inf
        return best


def described(
    read: Mapping[str, torch.Tensor], how: VerdictSettings, *, main: bool
) -> Described | None:
    """Pictures as the second look sees them. read: {name of features: [N, D]}."""
    if not main:
        return None
    views = how.views if how.align else (candidates.PLAIN,)
    pictures = read[second_look.PICTURE] if how.align else None
    return Described(
        [sim.normalised(read[candidates.feature_name(view)]) for view in views], pictures
    )


def score(
    pictures: Described | None,
    source: CandidateSource,
    own: np.ndarray | None,
    how: VerdictSettings,
    processes: Processes,
    *,
    label: str,
    below: float = np.inf,
) -> Scored | None:
    """Compare pictures with the training images. own: as in CandidateSource; label: of the progress
    bar; below: as in second_look.look_again. Returns: None on processes other than the main one."""
    found = second_look.find_candidates(pictures, source, own, count=how.num_candidates)
    chosen = None if found is None else found[0]
    look = None

    def wrap(own: Sequence[Any]) -> Iterable[Any]:
        bar = progress(own, total=len(own), label=label, main_process=processes.main)
        what = f"{label} {len(own):,} images, each with {how.num_candidates} candidates"
        return foretold(bar, total=len(own), what=what, say=processes.say)

    if how.align:
        look = second_look.look_again(
            pictures,
            chosen,
            source,
            processes,
            below=below,
            wrap=wrap,
        )
    return None if found is None else Scored(*found[1:], look)


# Innocents ----------------------------------------------------------------------------------------


def score_innocents(
    listed: InnocentSet,
    training: Mapping[str, Any],
    source: CandidateSource,
    networks: Networks,
    how: VerdictSettings,
    reading: ReaderSettings,
) -> tuple[Innocents, np.ndarray] | None:
    """Scores of innocents, from the cache where an earlier evaluation left them.

    training: what tells a change of the images that `source` holds, of JSON types

    Returns: their scores and copied areas [N]; None on processes other than the main one."""
    processes, cache = reading.processes, reading.cache
    extractors = _of_innocents(networks)
    path, kept = None, None
    if processes.main and cache is not None and cache.folder is not None:
        path = cache.path(
            change_stamp(listed.images), extractors["descriptor"], _facts(listed, training, how)
        )
        kept = cache.read(path)
    if not processes.share(kept is not None if processes.main else None):
        kept = _scored_rows(listed, source, extractors, how, reading)
        if kept is not None and cache is not None:
            cache.write(path, *kept)
    if kept is None:
        return None
    rows, _, left_out = kept
    aligned, best, areas = rows.double().numpy().T
    names = tuple(key for key, _ in left_out)
    return Innocents(aligned if how.align else best, best, listed.source, names), areas


def _of_innocents(networks: Networks) -> dict[str, Extractor]:
    """The extractors that innocents are read with: those of the second look, not of the metrics."""
    kept = (name for name in ("descriptor", second_look.PICTURE) if name in networks.extractors)
    found = {name: networks.extractors[name] for name in kept} | networks.views
    return found | {show_nothing.SPREAD: show_nothing.extractor()}


def _facts(
    listed: InnocentSet, training: Mapping[str, Any], how: VerdictSettings
) -> dict[str, Any]:
    """What the scores of innocents depend on, beside their files and the descriptor."""
    groups = None if listed.own_group is None else np.asarray(listed.own_group).tolist()
    aligning = [_code_of_alignment(), *how.views, how.num_candidates] if how.align else None
    return {
        "innocents": dict(training),
        "groups": groups,
        "aligning": aligning,
        "one_colour": "left out",  # earlier versions kept them
    }


@functools.cache
def _code_of_alignment() -> str:
    """A hash of the modules that align: no score is taken from a cache that other code filled."""
    folder = Path(aligning.__path__[0])
    paths = [*sorted(folder.glob("*.py")), Path(candidates.__file__), Path(second_look.__file__)]
    return hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()[:16]


def _scored_rows(
    listed: InnocentSet,
    source: CandidateSource,
    extractors: dict[str, Extractor],
    how: VerdictSettings,
    reading: ReaderSettings,
) -> tuple[torch.Tensor, list[int], list[Bad]] | None:
    """Scores of the readable innocents that are not of one colour.

    Returns: aligned, descriptor, copied area, [N, 3] float32; their places among the readable
    ones; (key, reason) of those that were left out. None on processes other than the main one."""
    import torch

    processes = reading.processes
    read, kept, _ = features.extract(listed.images, extractors, reading)
    own = None if listed.own_group is None else np.asarray(listed.own_group)[kept]
    pictures = described(read, how, main=processes.main)
    # of training images that stand in, two may be the same picture
    below = np.inf if own is None else second_look.SAME
    scored = score(pictures, source, own, how, processes, label="aligning innocents", below=below)
    if scored is None:
        return None
    if scored.look is not None:
        columns = (scored.look.best, scored.descriptor, scored.look.areas)
    else:
        empty = np.full(len(scored.descriptor), np.nan)
        columns = (empty, scored.descriptor, np.zeros(len(empty)))
    rows = np.stack([np.where(np.isinf(c), np.nan, c) for c in columns], 1)
    flat = show_nothing.of_one_colour(read[show_nothing.SPREAD]).tolist()
    places = [place for place, one in enumerate(flat) if not one]
    left_out = [(listed.images.keys[kept[n]], "of one colour") for n, one in enumerate(flat) if one]
    return torch.from_numpy(rows).float()[places], places, left_out


# The verdict --------------------------------------------------------------------------------------


def decide(
    request: EvaluationRequest,
    scored: Scored,
    innocents: Innocents | None,
    innocent_areas: np.ndarray,
    *,
    fixed: float | None,
    groups: np.ndarray | None,
) -> Decided:
    """Which threshold decides, and of what a part was copied.

    scored: of the generated images
    fixed: the descriptor's threshold of a copy; None: it has none
    groups: [M], labels of near-duplicates among the training images; None: not known"""
    how = request.verdict
    assert how is not None
    made = None
    if innocents is not None:
        made = verdict.verdict_of(
            innocents,
            threshold_of=ALIGNED if how.align else request.descriptor.pt_style,
            fixed=fixed,
            false_positives=how.false_positives,
            seed=request.flags.seed,
        )
    others = None if groups is None else near_duplicates.other_members(groups)
    parts = None
    if made is not None and scored.look is not None:
        usable = innocent_areas[~np.isnan(innocent_areas)]
        least = max(LEAST_PART, thresholds.calibrated(usable, how.false_positives))
        look = scored.look
        parts = (look.areas > least) & ~thresholds.copies(look.best, made.threshold)
    return Decided(made, innocents, parts, others)


def numbers_of(measured: Measured, decided: Decided) -> Numbers:
    """The numbers of metrics.json that the verdict gives; none without one."""
    if decided.verdict is None or decided.innocents is None:
        return {}
    prompts, seed = measured.origins.prompts, measured.flags.seed
    scores = deciding_scores(measured, decided)
    row = verdict.verdict_numbers(decided.verdict, decided.innocents, scores, prompts, seed=seed)
    if decided.part_copied is not None:
        row |= verdict.part_numbers(decided.part_copied, prompts, seed=seed)
    return row


def notes_of(measured: Measured, sets: Sets, decided: Decided) -> Iterator[str]:
    """Lines on what a reader of the verdict should know."""
    if decided.innocents is not None:
        if line := show_nothing.innocents_note(decided.innocents.one_colour):
            yield line
        if decided.verdict is None:
            yield verdict.few_innocents_sentence(len(verdict.usable(decided.innocents)))
        elif line := verdict.tellable_sentence(decided.verdict):
            yield line
    if line := second_look_shown.flat_note(measured, sets):
        yield line
