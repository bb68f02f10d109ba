"""The metrics by name. Each maps what was measured to rows of metrics.json, or says why it
cannot."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from utils.retrieval.formulas import bootstrap, memorized
from utils.retrieval.formulas import complexity as complexities
from utils.retrieval.formulas import similarity as sim
from utils.retrieval.formulas.coverage import MIN_IMAGES, prdc
from utils.retrieval.formulas.frechet import frechet_distance
from utils.retrieval.formulas.kernel import kernel_distance

NO_RUN = "which training images are duplicated is not known; name the training run with --run"
NO_PROMPTS = (
    "no image has a prompt: the folder has neither manifest.json nor a prompts.txt that fits"
)


class CannotMeasureError(Exception):
    """A metric lacks what it needs; the message says what. Skipped with one line, an error when
    asked for by name."""


@dataclass(frozen=True)
class Measured:
    """What the metrics read. Q generations, M training images, k matches a generation.

    scores, matches: [Q, k]; find_background: () -> [M], best match of every training image other
    than itself; prompts: [Q], what tells prompts apart for the bootstrap; sources: [Q] index of the
    prompt's own training image, -1 where there is none; source_scores: [Q], nan where there is
    none; duplicated: [M] bool or None when not known; threshold: of a copy, or None; features:
    {name: ([Q, D], [M, D])} of the further networks; alignment: {key: [Q] or [M] cosines, nan
    without a prompt}; find_complexity: () -> Complexity of every best match; fd_key: name of the
    Frechet distance that is not FID."""

    scores: np.ndarray
    matches: np.ndarray
    find_background: Callable
    prompts: list
    sources: np.ndarray
    source_scores: np.ndarray
    duplicated: np.ndarray | None
    threshold: float | None
    seed: int
    features: dict = field(default_factory=dict)
    alignment: dict = field(default_factory=dict)
    find_complexity: Callable | None = None
    fd_key: str = "fd"
    mq_flip: bool = False
    chunks: int = 1  # of a descriptor, as they were compared
    write_matrix: Callable | None = None  # path -> the whole matrix of scores, in that file
    missing: dict = field(default_factory=dict)  # metric -> why its input could not be had
    _cache: dict = field(default_factory=dict)

    @property
    def best(self):
        """[Q], the similarity of every generation to its best match."""
        return self.scores[:, 0]

    @property
    def background(self):
        """[M], the similarity of every training image to its best match other than itself."""
        return self._once("background", self.find_background)

    @property
    def has_complexity(self):
        """Whether the complexity of matches was looked at."""
        return "complexity" in self._cache

    @property
    def complexity(self):
        """Complexity of every generation's best match, [Q] each."""
        return self._once("complexity", self.find_complexity)

    def _once(self, name, compute):
        if name not in self._cache:
            self._cache[name] = compute()
        return self._cache[name]

    def pair(self, name, metric, at_least):
        """Features of both sets; CannotMeasureError when they are not there or there are fewer
        images than `at_least`."""
        if name not in self.features:
            raise CannotMeasureError(self.missing.get(metric, "its features were not computed"))
        generated, reference = self.features[name]
        if min(len(generated), len(reference)) < at_least:
            raise CannotMeasureError(
                f"takes {at_least} images a side; there are {len(generated)} and {len(reference)}"
            )
        return generated, reference

    @property
    def distance_network(self):
        """Whose features KID, precision and coverage use: Inception's as published, else those of
        --fd_extractor, else None."""
        return next((name for name in ("fid", "fd") if name in self.features), None)


def copy_share(measured, chosen, name):
    """Share of the chosen generations above the threshold with its interval and count; {} without a
    threshold."""
    if measured.threshold is None:
        return {}
    hits = measured.best[chosen] > measured.threshold
    if not len(hits):
        return {f"{name}_n": 0}
    prompts = [p for p, c in zip(measured.prompts, chosen, strict=True) if c]
    low, high = bootstrap.share(hits, prompts, seed=measured.seed)
    return {name: float(hits.mean()), f"{name}_lo": low, f"{name}_hi": high, f"{name}_n": len(hits)}


def similarity(measured):
    """sim_*: best-match similarity of generations, and how many of them are copies; source_*: of
    the prompt's own image, where prompts have one."""
    row = sim.summary(measured.best, "sim") | {"sim_gt_05pc": float((measured.best > 0.5).mean())}
    row |= copy_share(measured, np.ones(len(measured.best), bool), "copy_share")
    known = measured.sources >= 0
    if known.any():
        row["source_matched"] = float(
            (measured.matches[known, 0] == measured.sources[known]).mean()
        )
        row["source_score_mean"] = float(measured.source_scores[known].mean())
    return row


def background(measured):
    """bg_*: the same of every training image against its best match other than itself."""
    return sim.summary(measured.background, "bg")


def duplication(measured):
    """sim_dup, sim_nodup: by the matched image, as published, which selection confounds;
    copy_share_dup and _nodup: by the source image of the prompt, which it does not."""
    if measured.duplicated is None:
        raise CannotMeasureError(NO_RUN)
    matched = measured.duplicated[measured.matches[:, 0]]
    row = {
        k: float(measured.best[c].mean())
        for k, c in (("sim_dup", matched), ("sim_nodup", ~matched))
        if c.any()
    }
    known = measured.sources >= 0
    if known.any():
        from_duplicated = known & measured.duplicated[np.maximum(measured.sources, 0)]
        row |= copy_share(measured, from_duplicated, "copy_share_dup")
        row |= copy_share(measured, known & ~from_duplicated, "copy_share_nodup")
    return row


CORRELATED = {"ent": "entropy", "comp": "jpeg_kib", "tvl": "total_variation", "mixed": "mixed"}


def complexity(measured):
    """cc_*, pval_*: Pearson's r and p of the best match's complexity with the similarity to it;
    none that is not defined, of fewer than 3 generations or of constant values."""
    row = {}
    for name, attribute in CORRELATED.items():
        found = complexities.correlation(getattr(measured.complexity, attribute), measured.best)
        if found is not None:
            row |= {f"cc_{name}": found[0], f"pval_{name}": found[1]}
    return row


def fid(measured):
    """fid: Frechet distance on Inception's features; fid_dcr: on the published scale, when that was
    asked for."""
    row = {}
    for name in ("fid", "fid_dcr"):
        if name == "fid" or name in measured.features:
            generated, reference = measured.pair(name, "fid", 2)
            row |= {name: frechet_distance(generated, reference), f"{name}_n": len(generated)}
    return row | {"fid_reference_n": len(reference)}


def fd(measured):
    """fd_<extractor>: Frechet distance between generations and training images on another network's
    features."""
    generated, reference = measured.pair("fd", "fd", 2)
    return {
        measured.fd_key: frechet_distance(generated, reference),
        f"{measured.fd_key}_n": len(generated),
    }


def kid(measured):
    """kid_mean, kid_std over subsets."""
    mean, std = kernel_distance(
        *measured.pair(measured.distance_network, "kid", 2), seed=measured.seed
    )
    return {"kid_mean": mean, "kid_std": std}


def coverage(measured):
    """precision, recall, density, coverage."""
    if "prdc" in measured.missing:
        raise CannotMeasureError(measured.missing["prdc"])
    return prdc(*measured.pair(measured.distance_network, "prdc", MIN_IMAGES))


def clip(measured):
    """clipscore of the source prompt, clipscore_edited of the edited one, clipscore_bg of training
    images; *_dcr beside."""
    if not measured.alignment:
        raise CannotMeasureError(measured.missing.get("clip", NO_PROMPTS))
    row = {}
    for key, cosines in measured.alignment.items():
        known = ~np.isnan(cosines)
        row |= (
            {key: float(cosines[known].mean()), f"{key}_n": int(known.sum())} if known.any() else {}
        )
    return row


def mq(measured):
    """mq_*: how many generations are memorized by the ratio of pixel distances, at nine
    thresholds."""
    generated, training = measured.pair("mq", "mq", 1)
    if len(training) < memorized.NEIGHBOURS:
        raise CannotMeasureError(
            f"takes {memorized.NEIGHBOURS} training images; there are {len(training)}"
        )
    return memorized.quantities(memorized.ratios(generated, training, flip=measured.mq_flip))


# beyond that many pairs of images precision and coverage are computed only when asked for: some
# minutes on a CPU
MOST_PRDC_PAIRS = 10**9
# images that a metric takes: (generated, training); 1 and 1 where nothing stands
LEAST = {
    "background": (1, 2),
    "fid": (2, 2),
    "fd": (2, 2),
    "kid": (2, 2),
    "prdc": (MIN_IMAGES, MIN_IMAGES),
    "mq": (1, memorized.NEIGHBOURS),
}
# --metrics; a new one is a function, a line here and a test
METRICS = {
    "similarity": similarity,
    "background": background,
    "duplication": duplication,
    "complexity": complexity,
    "fid": fid,
    "fd": fd,
    "kid": kid,
    "prdc": coverage,
    "clip": clip,
    "mq": mq,
}
