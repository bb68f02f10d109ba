"""The metrics by name. Each maps what was measured to rows of metrics.json, or says why it cannot."""

from dataclasses import dataclass, field

import numpy as np

from utils.evaluation import similarity as sim
from utils.evaluation.frechet import frechet_distance

NO_RUN = "which training images are duplicated is not known; name the training run with --run"


class CannotMeasureError(Exception):
    """A metric lacks what it needs; the message says what. Skipped with one line, an error when asked for by name."""


@dataclass(frozen=True)
class Measured:
    """What the metrics read. Q generations, M training images, k matches a generation.

    scores, matches: [Q, k]; train: [M, D] normalised descriptors; fd: (generated, reference) features or None;
    prompts: [Q], what tells prompts apart for the bootstrap; sources: [Q] index of the prompt's own training image, -1
    where there is none; source_scores: [Q], nan where there is none; duplicated: [M] bool or None when not known;
    threshold: of a copy, or None.
    """

    scores: np.ndarray
    matches: np.ndarray
    train: object
    similarity: object
    prompts: list
    sources: np.ndarray
    source_scores: np.ndarray
    duplicated: np.ndarray | None
    threshold: float | None
    seed: int
    fd: tuple | None = None
    fd_key: str = "fd"
    missing: dict = field(default_factory=dict)  # metric -> why its input could not be had
    _cache: dict = field(default_factory=dict)

    @property
    def best(self):
        """[Q], the similarity of every generation to its best match."""
        return self.scores[:, 0]

    @property
    def background(self):
        """[M], the similarity of every training image to its best match other than itself."""
        if "background" not in self._cache:
            if len(self.train) < 2:
                raise CannotMeasureError("background compares training images with each other; there is only 1")
            scores, _ = self.similarity(self.train, self.train, k=1, exclude_self=True)
            self._cache["background"] = scores[:, 0].numpy()
        return self._cache["background"]


def copy_share(measured, chosen, name):
    """Share of the chosen generations above the threshold with its interval and count; {} without a threshold."""
    if measured.threshold is None:
        return {}
    hits = measured.best[chosen] > measured.threshold
    if not len(hits):
        return {f"{name}_n": 0}
    prompts = [p for p, c in zip(measured.prompts, chosen, strict=True) if c]
    low, high = sim.bootstrap_share(hits, prompts, seed=measured.seed)
    return {name: float(hits.mean()), f"{name}_lo": low, f"{name}_hi": high, f"{name}_n": len(hits)}


def similarity(measured):
    """sim_*: best-match similarity of generations, and how many of them are copies."""
    everything = np.ones(len(measured.best), bool)
    return (
        sim.summary(measured.best, "sim")
        | {"sim_gt_05pc": float((measured.best > 0.5).mean())}
        | copy_share(measured, everything, "copy_share")
    )


def background(measured):
    """bg_*: the same of every training image against its best match other than itself."""
    return sim.summary(measured.background, "bg")


def duplication(measured):
    """sim_dup, sim_nodup: by the matched image, as published, which selection confounds; copy_share_dup and _nodup: by
    the source image of the prompt, which it does not."""
    if measured.duplicated is None:
        raise CannotMeasureError(NO_RUN)
    matched = measured.duplicated[measured.matches[:, 0]]
    row = {k: float(measured.best[c].mean()) for k, c in (("sim_dup", matched), ("sim_nodup", ~matched)) if c.any()}
    known = measured.sources >= 0
    if known.any():
        from_duplicated = known & measured.duplicated[np.maximum(measured.sources, 0)]
        row |= copy_share(measured, from_duplicated, "copy_share_dup")
        row |= copy_share(measured, known & ~from_duplicated, "copy_share_nodup")
        row["source_matched"] = float((measured.matches[known, 0] == measured.sources[known]).mean())
        row["source_score_mean"] = float(measured.source_scores[known].mean())
    return row


def fd(measured):
    """fd_<extractor>: Frechet distance between generations and training images."""
    if measured.fd is None:
        raise CannotMeasureError(measured.missing.get("fd", "its features were not computed"))
    generated, reference = measured.fd
    if min(len(generated), len(reference)) < 2:
        raise CannotMeasureError(
            f"a Frechet distance takes 2 images a side; there are {len(generated)} and {len(reference)}"
        )
    return {measured.fd_key: frechet_distance(generated, reference)}


METRICS = {"similarity": similarity, "background": background, "duplication": duplication, "fd": fd}
