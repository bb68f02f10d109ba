"""The verdict: which threshold decides what is a copy, where it comes from, whether the field's
fixed one means anything on these pictures, and the sentences that say so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from utils.retrieval.formulas import bootstrap, threshold
from utils.retrieval.metric_record import Numbers

LEAST_INNOCENTS = 20  # of fewer no threshold is made
FEW_INNOCENTS = 100  # of fewer the rate that they can vouch for is said
VOID_RATE = 0.05  # share of innocents above the fixed threshold that makes its verdict void
# keys of `settings` in metrics.json that the verdict gives
SETTINGS = ("threshold_of", "innocents_from", "false_positives", "fixed_threshold_void")
# source of innocents -> words for it
SOURCES = {
    "innocent_dir": "pictures of --innocent_dir",
    "holdout": "pictures that training held out",
    "base_dir": "images of the base model",
    "training": "training images compared with the others",
}


@dataclass(frozen=True)
class Innocents:
    """Scores of N pictures that nobody copied, each against the training images."""

    # [N] of the best match, on the scale that decides: aligned where alignment ran, else the
    # descriptor's; nan where nothing could be aligned
    scores: np.ndarray
    descriptor_scores: np.ndarray  # [N] of the descriptor's best match
    source: str  # a key of SOURCES
    one_colour: tuple[str, ...] = ()  # names of those of one colour, which were left out


@dataclass(frozen=True)
class Verdict:
    """The calibrated threshold, and what innocents say of the fixed one."""

    threshold: float  # a higher score is a copy; on the scale of `threshold_of`
    threshold_lo: float  # 95 % interval, by resampling innocents
    threshold_hi: float
    threshold_of: str  # "aligned", or the name of the descriptor
    innocents_n: int  # that set the threshold
    innocents_from: str  # a key of SOURCES
    false_positives: float  # share of innocents that may exceed it, as asked for
    # share of innocents above the descriptor's fixed threshold; None: it has none
    false_positive_rate: float | None
    void: bool  # whether that is too large for the fixed threshold to mean anything


# The threshold ------------------------------------------------------------------------------------


def usable(innocents: Innocents) -> np.ndarray:
    """The scores of the innocents that could be compared, [n] float64. One that has nothing to
    align tells nothing of how alike pictures are."""
    scores = np.asarray(innocents.scores, np.float64)
    return scores[~np.isnan(scores)]


def verdict_of(
    innocents: Innocents,
    *,
    threshold_of: str,
    fixed: float | None,
    false_positives: float,
    seed: int,
) -> Verdict | None:
    """The verdict that follows from innocents; None where fewer than LEAST_INNOCENTS of them can
    be compared, so that the fixed threshold alone is left.

    threshold_of: "aligned", or the name of the descriptor; fixed: threshold of the descriptor, on
    its own scale; false_positives: in [0, 1); seed: of the resampling."""
    scores = usable(innocents)
    if len(scores) < LEAST_INNOCENTS:
        return None
    low, high = threshold.interval(threshold.resampled(scores, false_positives, seed=seed))
    rate = None if fixed is None else threshold.rate_above(innocents.descriptor_scores, fixed)
    return Verdict(
        threshold=threshold.calibrated(scores, false_positives),
        threshold_lo=low,
        threshold_hi=high,
        threshold_of=threshold_of,
        innocents_n=len(scores),
        innocents_from=innocents.source,
        false_positives=false_positives,
        false_positive_rate=rate,
        void=rate is not None and rate > VOID_RATE,
    )


# Numbers ------------------------------------------------------------------------------------------


def verdict_numbers(
    verdict: Verdict, innocents: Innocents, scores: np.ndarray, prompts: Sequence[str], *, seed: int
) -> Numbers:
    """The numbers of metrics.json that the verdict gives.

    scores: [Q], the deciding score of every generated image; nan where nothing could be aligned,
    which is no copy; prompts: [Q], the clusters of the bootstrap."""
    innocent = usable(innocents)
    thresholds = threshold.resampled(innocent, verdict.false_positives, seed=seed)
    low, high = threshold.share_interval(scores, prompts, verdict.threshold, thresholds, seed=seed)
    row: Numbers = {
        "copy_share_calibrated": threshold.rate_above(scores, verdict.threshold),
        "copy_share_calibrated_lo": low,
        "copy_share_calibrated_hi": high,
        "copy_share_calibrated_n": len(scores),
        "threshold": verdict.threshold,
        "threshold_lo": verdict.threshold_lo,
        "threshold_hi": verdict.threshold_hi,
        "innocents_n": verdict.innocents_n,
        "innocents_calibrated_rate": threshold.rate_above(innocent, verdict.threshold),
    }
    if verdict.false_positive_rate is not None:
        row["false_positive_rate"] = verdict.false_positive_rate
    return row


def part_numbers(parts: np.ndarray, prompts: Sequence[str], *, seed: int) -> Numbers:
    """Share of the generated images that hold a part of a training image and are no copy as a
    whole, with its interval and their number. It is never added to a share of copies.

    parts: [Q] bool; prompts: [Q], the clusters of the bootstrap."""
    low, high = bootstrap.share(parts, prompts, seed=seed)
    return {
        "part_copied_share": float(np.mean(parts)),
        "part_copied_share_lo": low,
        "part_copied_share_hi": high,
        "part_copied_share_n": len(parts),
    }


def verdict_settings(verdict: Verdict | None) -> dict[str, str | float | bool | None]:
    """What `settings` of metrics.json says of the verdict; None where nothing was calibrated."""
    if verdict is None:
        return dict.fromkeys(SETTINGS)
    values = (
        verdict.threshold_of,
        verdict.innocents_from,
        verdict.false_positives,
        verdict.void,
    )
    return dict(zip(SETTINGS, values, strict=True))


# Sentences ----------------------------------------------------------------------------------------


def percent(share: float) -> str:
    """A share in percent, without the sign: "12", "0.4"; whole numbers from 1 to 99."""
    value = 100 * share
    if 0 < value < 1:
        return f"{value:.1g}"
    return f"{value:.1f}" if 99 < value < 100 else f"{value:.0f}"


def few_innocents_sentence(count: int) -> str:
    """What is said where too few innocents could be compared to set a threshold."""
    return (
        f"{count} innocent pictures are too few to set a threshold ({LEAST_INNOCENTS} are needed):"
        " copies are counted by the fixed threshold alone."
    )


def tellable_sentence(verdict: Verdict) -> str | None:
    """What rate of false positives innocents can vouch for; None where they are enough."""
    told = threshold.tellable_rate(verdict.innocents_n)
    if verdict.innocents_n >= FEW_INNOCENTS or told <= verdict.false_positives:
        return None
    return (
        f"{verdict.innocents_n} innocent pictures can vouch for a rate of {percent(told)} %, not of"
        f" {percent(verdict.false_positives)} % (rule of three): give more with --innocent_dir."
    )
