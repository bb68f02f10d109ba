"""The pictures that a check of copies compares with: training pictures, read once for a run, and
the threshold that pictures which nobody copied give."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from utils.retrieval import candidates, features, innocents, second_look, verdict
from utils.retrieval import verdict_measurement as measuring
from utils.retrieval.candidate_sources import ReadTraining
from utils.retrieval.decided import ALIGNED
from utils.retrieval.evaluation_networks import Networks
from utils.retrieval.evaluation_request import VerdictSettings
from utils.retrieval.features import ReaderSettings
from utils.retrieval.formulas import bootstrap, threshold
from utils.retrieval.formulas import similarity as sim

if TYPE_CHECKING:
    from PIL import Image

    from utils.data.image_sets import ImageSet
    from utils.retrieval.descriptors.network import Extractor
    from utils.retrieval.innocents import InnocentSet
    from utils.retrieval.verdict import Innocents, Verdict
    from utils.runtime.parallel import Processes, Say

CANDIDATES = 3  # training pictures with which an image is aligned
FALSE_POSITIVES = 0.01  # share of the pictures held out that may count as copies
INTERVAL = ("", "_lo", "_hi", "_n")


@dataclass(frozen=True)
class Judged:
    """What was found of Q images."""

    numbers: Mapping[str, Any]  # for a row of metrics.jsonl
    copies: np.ndarray  # [Q] bool
    scores: np.ndarray  # [Q], the score that decides; nan where nothing could be aligned
    matches: np.ndarray  # [Q] int64, the training picture that each is most alike


class Reference:
    """Training pictures and a threshold. Where enough pictures are known that nobody copied (of
    --innocent_dir, or held out), images are aligned, and those pictures set the threshold; else the
    descriptor's fixed threshold decides."""

    def __init__(
        self,
        training: ImageSet,
        held_out: ImageSet,
        *,
        descriptor: Extractor,
        name: str,
        innocent_dir: str | None,
        seed: int,
        processes: Processes,
        say: Say,
    ) -> None:
        """Read all pictures; an unreadable one is left out. name: of the descriptor; innocent_dir:
        folder of pictures that nobody copied, instead of those held out; seed: of intervals, and of
        the choice of innocents; processes: this one alone; say: prints a line."""
        self.descriptor, self.seed = descriptor, seed
        self.processes = processes
        self.reading = ReaderSettings(batch_size=64, num_workers=0, processes=processes, cache=None)
        self.how = _how(name)
        listed = None
        if innocent_dir:
            listed = innocents.innocents_of_folder(innocent_dir, training, seed=seed, say=say)
        elif len(held_out):
            listed = innocents.enough_innocents(held_out, training, "holdout", seed=seed, say=say)
        self.networks = Networks({"descriptor": descriptor})
        if listed is not None:  # else nothing is aligned
            self.networks.extractors[second_look.PICTURE] = second_look.picture_extractor()
            self.networks.views = candidates.of_views(descriptor, self.how.views)
        read, kept, _ = features.extract(training, self.networks.extractors, self.reading)
        self.training = training.take(kept)
        scores = sim.SIMILARITIES["dotproduct"](descriptor.chunks)
        self.source = ReadTraining(
            sim.normalised(read["descriptor"]),
            read.get(second_look.PICTURE),
            options={"scores": scores, "block_rows": sim.BLOCK_ROWS, "device": processes.device},
        )
        self.verdict, self.innocents = self._calibrated(listed, say)

    def _calibrated(
        self, listed: InnocentSet | None, say: Say
    ) -> tuple[Verdict | None, Innocents | None]:
        """The threshold that the innocents give; None twice where they are too few."""
        made, scores = None, None
        if listed is not None:
            found = measuring.score_innocents(
                listed, {}, self.source, self.networks, self.how, self.reading
            )
            assert found is not None  # one process is the main one
            scores = found[0]
            made = verdict.verdict_of(
                scores,
                threshold_of=ALIGNED,
                fixed=self.descriptor.copy_threshold,
                false_positives=FALSE_POSITIVES,
                seed=self.seed,
            )
        if made is None or scores is None:
            say(
                "copies are counted by the descriptor's fixed threshold"
                f" {self.descriptor.copy_threshold}, which mirrored or cropped copies fall below;"
                f" a --holdout of at least {verdict.LEAST_INNOCENTS} pictures, or --innocent_dir"
                " with as many that are like these and not trained on, sets one that fits"
            )
            return None, None
        if line := verdict.tellable_sentence(made):
            say(line.removesuffix(".") + ", or hold more out.")
        return made, scores

    # Judging --------------------------------------------------------------------------------------

    def judge(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> Judged:
        """Find which of Q images are copies. images: PIL RGB; prompts: of each, the clusters of the
        interval; where all are one, each image is a cluster."""
        if len(set(prompts)) == 1:
            prompts = [str(number) for number in range(len(prompts))]
        read = features.of_pictures(images, self._extractors())
        if self.verdict is None:
            return self._by_descriptor(sim.normalised(read["descriptor"]), prompts)
        pictures = measuring.described(read, self.how, main=True)
        found = second_look.find_candidates(pictures, self.source, None, count=CANDIDATES)
        assert found is not None  # one process is the main one
        chosen, nearest, matches = found
        look = second_look.look_again(pictures, chosen, self.source, self.processes)
        assert look is not None
        assert self.innocents is not None
        numbers = verdict.verdict_numbers(
            self.verdict, self.innocents, look.best, prompts, seed=self.seed
        )
        best = [m if p is None else p.match for p, m in zip(look.pairs, matches[:, 0], strict=True)]
        row = {f"copy_share{end}": numbers[f"copy_share_calibrated{end}"] for end in INTERVAL}
        row |= {"sim_95pc": _percentile(nearest[:, 0]), "threshold": self.verdict.threshold}
        copies = threshold.copies(look.best, self.verdict.threshold)
        return Judged({**row, "threshold_of": ALIGNED}, copies, look.best, np.array(best))

    def _extractors(self) -> dict[str, Extractor]:
        return {**self.networks.extractors, **self.networks.views}

    def _by_descriptor(self, descriptors: Any, prompts: Sequence[str]) -> Judged:
        """By the fixed threshold. descriptors: [Q, D], normalised."""
        scores, matches = self.source.nearest([descriptors], 1, None)
        best, fixed = scores[0, :, 0], self.descriptor.copy_threshold
        assert fixed is not None  # the flag accepts descriptors that have one
        copies = best > fixed
        low, high = bootstrap.share(copies, prompts, seed=self.seed)
        share = zip(INTERVAL, (float(copies.mean()), low, high, len(copies)), strict=True)
        row = {f"copy_share{end}": value for end, value in share}
        row |= {"sim_95pc": _percentile(best), "threshold": fixed}
        return Judged({**row, "threshold_of": "descriptor"}, copies, best, matches[0, :, 0])


def _how(descriptor: str) -> VerdictSettings:
    """How images are aligned. descriptor: its name."""
    return VerdictSettings(
        align=True,
        views=candidates.default_views(descriptor),
        num_candidates=CANDIDATES,
        innocent_dir=None,
        base_dir=None,
        false_positives=FALSE_POSITIVES,
    )


def _percentile(scores: np.ndarray) -> float:
    return float(np.percentile(scores, 95))
