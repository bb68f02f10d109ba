"""What follows from the numbers of a card, in sentences: the answer, the comparisons, the course
over training, and what helps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from utils.card.card_record import (
    Arm,
    Comparison,
    Course,
    InnocentShare,
    Moment,
    Numbers,
    Share,
    Threshold,
    Trial,
)
from utils.card.card_steps import BASE, HELDOUT, WORDS
from utils.card.card_verdicts import CopyRule, Judged
from utils.retrieval.formulas.threshold import tellable_rate
from utils.retrieval.verdict import FEW_INNOCENTS, SOURCES

# what a mitigation may cost, as a factor of the value without it
LEAST_CLIPSCORE, MOST_DISTANCE = 0.9, 1.25


def counted(number: int, noun: str) -> str:
    """A number with its noun, in the plural unless it is 1."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


# 1. The answer ------------------------------------------------------------------------------------


def threshold_of(
    metrics: Mapping[str, Any], rule: CopyRule, given: float | None
) -> Threshold | None:
    """The threshold of a card, with its origin; None if there is none.

    metrics: of the evaluation of training captions; given: --copy_threshold, or None."""
    if rule.threshold is None:
        return None
    calibrated = "threshold" in metrics
    innocents = _innocents(metrics)
    fixed = f"fixed for {rule.of}" if given is None else "given with --copy_threshold"
    return Threshold(
        value=rule.threshold,
        lo=metrics.get("threshold_lo") if calibrated else None,
        hi=metrics.get("threshold_hi") if calibrated else None,
        of=rule.of,
        calibrated=calibrated,
        source=_origin(metrics, innocents) if calibrated else fixed,
        innocents=innocents,
    )


def _innocents(metrics: Mapping[str, Any]) -> InnocentShare | None:
    if not metrics.get("innocents_n"):
        return None
    settings = metrics["settings"]
    return InnocentShare(
        count=metrics["innocents_n"],
        source=settings.get("innocents_from") or "training",
        share=metrics.get("innocents_calibrated_rate"),
        fixed_share=metrics.get("false_positive_rate"),
        void=bool(settings.get("fixed_threshold_void")),
    )


def _origin(metrics: Mapping[str, Any], innocents: InnocentShare | None) -> str:
    asked = metrics["settings"].get("false_positives", 0.01)
    if innocents is None:
        return f"at most {100 * asked:g} % of innocent pictures exceed it"
    return f"at most {100 * asked:g} % of {innocents.count} {SOURCES[innocents.source]} exceed it"


def answer_sentence(share: Share | None, threshold: Threshold | None) -> str:
    """The answer in one sentence."""
    if share is None or threshold is None:
        return (
            "Whether images are copies was not decided: there is no threshold for this descriptor;"
            " give one with --copy_threshold, or pictures that nobody copied with --innocent_dir."
        )
    sentence = f"{share.percent} of {share.n} images made from training captions are copies"
    innocents = threshold.innocents
    if innocents is None:
        return f"{sentence}, by a threshold of {threshold.value:.3g}, {threshold.source}."
    rate = innocents.share if threshold.calibrated else innocents.fixed_share
    if rate is None:
        return f"{sentence}."
    told = tellable_rate(innocents.count)
    would = f"{100 * rate:.0f}"
    if innocents.count < FEW_INNOCENTS and rate < told:
        would = f"up to {100 * told:.0f}"  # so few cannot tell a lower rate from none
    return (
        f"{sentence}; of {innocents.count} {SOURCES[innocents.source]},"
        f" which nobody copied, {would} % would count."
    )


def void_sentence(metrics: Mapping[str, Any]) -> str | None:
    """The answer where most images show nothing, so that the others say nothing of the model;
    None where they are not. metrics: of the evaluation of training captions."""
    found = metrics["settings"].get("show_nothing")
    if not found or not found["void"]:
        return None
    return (
        f"This verdict is void: {found['images']:,} of {found['of']:,} images made from training"
        " captions show nothing, so that nothing can be said of the model."
    )


# 3. Against others --------------------------------------------------------------------------------


def below(one: Share, other: Share) -> bool:
    """Whether a share is surely below another one: their intervals do not meet."""
    return one.hi < other.lo


def comparison_of(arms: Sequence[Arm]) -> Comparison:
    """The arms side by side, the one on training captions first, and what follows."""
    first, findings = arms[0].numbers.share, []
    for arm in arms[1:]:
        share = arm.numbers.share
        if first is not None and share is not None and arm.name in _MEANING:
            sentence, less, alike = _MEANING[arm.name]
            end = _conclusion(first, share, less, alike)
            findings.append(f"{sentence.format(share.percent)}: {end}.")
    return Comparison(tuple(arms), tuple(findings))


def _conclusion(first: Share, share: Share, less: str, alike: str) -> str:
    """What follows from the share of another arm: `less` if it is surely below, `alike` if it has
    copies and its interval reaches the first share, else that nothing follows."""
    if below(share, first):
        return less
    if share.lo > 0 and share.hi >= first.value:
        return alike
    return "too few images to tell it from the share with training captions"


# arm -> (sentence on its share, what follows if it is surely lower, what follows if it is as high)
_MEANING = {
    BASE: (
        "The base model gives {} copies on the same prompts and noise",
        "the fine-tuning brought the copies",
        "these images are as alike to the pictures without the fine-tuning",
    ),
    HELDOUT: (
        "Captions of pictures that training never drew give {} copies",
        "the captions that were trained on bring the pictures back",
        "pictures come back without their captions as well",
    ),
    WORDS: (
        "With half of the words of each caption replaced {} are copies",
        "the exact caption brings the picture back",
        "pictures come back without their exact captions as well",
    ),
}


# 4. Over training ---------------------------------------------------------------------------------


def course_of(moments: Sequence[Moment], max_copy_share: float) -> Course:
    """The checkpoints in order, and the last one before the copy share passes the limit for good.

    A later checkpoint below the limit counts, too: it is the last one of all that are below."""
    good = [
        each.step
        for each in moments
        if each.arm.numbers.share is not None and each.arm.numbers.share.value < max_copy_share
    ]
    limit = f"{100 * max_copy_share:g} %"
    if not good:
        return Course(
            tuple(moments), max_copy_share, None, f"No checkpoint gives fewer copies than {limit}."
        )
    last = good[-1]
    if last == moments[-1].step:
        finding = f"The last checkpoint, of step {last}, gives fewer copies than {limit}."
    else:
        finding = (
            f"The last checkpoint that gives fewer copies than {limit} is that of step {last}."
        )
    return Course(tuple(moments), max_copy_share, last, finding)


# 5. What helps ------------------------------------------------------------------------------------


def costs_of(numbers: Numbers, without: Numbers) -> list[str]:
    """What a mitigation costs, in words: what was measured of both."""
    costs = []
    if numbers.clipscore is not None and without.clipscore is not None:
        costs.append(
            f"agreement with the caption {without.clipscore:.3g} to {numbers.clipscore:.3g}"
        )
    if numbers.distance is not None and without.distance is not None:
        costs.append(f"distance {without.distance:.3g} to {numbers.distance:.3g}")
    return costs


def is_cheap(numbers: Numbers, without: Numbers) -> bool:
    """Whether a mitigation keeps the images nearly as good: CLIP score and distance, as far as both
    were measured."""
    pairs = (numbers.clipscore, without.clipscore), (numbers.distance, without.distance)
    (score, usual), (distance, near) = pairs
    if score is not None and usual is not None and score < LEAST_CLIPSCORE * usual:
        return False
    return distance is None or near is None or distance <= MOST_DISTANCE * near


def best_trial(trials: Sequence[Trial]) -> Trial | None:
    """The mitigation to use: of those that surely copy less than no mitigation, the one with the
    fewest copies among the cheap ones, or among all if none is cheap. None if none surely helps.

    trials: the first without a mitigation."""
    none = trials[0].arm.numbers
    sure = [t for t in trials[1:] if none.share and t.arm.numbers.share]
    sure = [t for t in sure if below(_share(t), _share(trials[0]))]
    cheap = [t for t in sure if is_cheap(t.arm.numbers, none)]
    return min(cheap or sure, key=lambda t: _share(t).value, default=None)


def _share(trial: Trial) -> Share:
    assert trial.arm.numbers.share is not None  # the callers choose such trials
    return trial.arm.numbers.share


def help_finding(trials: Sequence[Trial], best: Trial | None, prompts: int) -> str:
    """Which mitigation to use, or that none helps."""
    where = f"the {counted(prompts, 'worst prompt')}"
    if best is None:
        return f"No mitigation at its published strength surely lowers the copies of {where}."
    none = trials[0].arm.numbers
    costs = costs_of(best.arm.numbers, none)
    price = f"; it costs: {', '.join(costs)}" if costs else ""
    dear = "" if is_cheap(best.arm.numbers, none) else ", and the images are much worse"
    return (
        f"Use {' '.join(best.flags)}: on {where} {_share(best).percent} instead of"
        f" {_share(trials[0]).percent} are copies{price}{dear}."
    )


def seen_by_detectors(images: Sequence[Judged]) -> dict[str, str]:
    """What each detector sees of the copies, in words; {} if all images are copies, or none is.

    images: of the step on training captions, which was generated with --detect."""
    copies = [each for each in images if each.copy]
    others = [each for each in images if not each.copy]
    if not copies or not others:
        return {}
    return {
        name: (
            "a copy has a higher score than an image that is none in"
            f" {100 * higher([c.detections[name] for c in copies], rest):.0f} % of the pairs"
        )
        for name in copies[0].detections
        for rest in [[o.detections[name] for o in others]]
    }


def higher(ones: Sequence[float], others: Sequence[float]) -> float:
    """Share of pairs in which the one is higher than the other; equals count half (the area under
    the curve of a detector)."""
    one, other = np.array(ones)[:, None], np.array(others)[None]
    return float(np.mean((one > other) + 0.5 * (one == other)))
