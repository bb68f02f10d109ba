"""The record of a memorization card: everything that card.html, card.md and card.json show.

All values are plain, so that card.json is this record and a kind and a version. A picture is named
here by a text; the pictures themselves travel beside the record, as {name: JPEG bytes}.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Pictures = Mapping[str, bytes]  # {name of a picture in the record: JPEG}


@dataclass(frozen=True)
class Share:
    """A share of images, with the 95 % interval that resamples prompts."""

    value: float  # 0 to 1
    lo: float  # 0 to 1
    hi: float  # 0 to 1
    n: int  # number of images

    @property
    def percent(self) -> str:
        """As a reader reads it: "12 % (8 to 17)"."""
        return f"{100 * self.value:.0f} % ({100 * self.lo:.0f} to {100 * self.hi:.0f})"


@dataclass(frozen=True)
class Threshold:
    """Above what an image counts as a copy; one for all parts of a card."""

    value: float  # on the scale of `of`
    of: str  # the score that is compared: "aligned", or the name of the descriptor
    source: str  # in words: where it comes from ("1 % of 64 held-out pictures exceed it")
    calibrated: bool  # False: the fixed threshold of the descriptor, or --copy_threshold
    lo: float | None = None  # 95 % interval of a calibrated one
    hi: float | None = None
    innocents: int = 0  # number of pictures that nobody copied, by which it was set
    innocents_from: str | None = None  # "innocent_dir", "holdout", "base_dir" or "training"
    innocents_share: float | None = None  # share of them that would count, 0 to 1
    false_positive_rate: float | None = None  # share that the fixed threshold would count, 0 to 1
    void: bool = False  # whether the fixed threshold counts too many innocents to be used


@dataclass(frozen=True)
class Gate:
    """What --gate asked, and whether the model passes."""

    max_copy_share: float  # 0 to 1: --max_copy_share
    lower_bound: float  # 0 to 1: of the copy share
    passed: bool  # False: the command ends with status 3


@dataclass(frozen=True)
class Answer:
    """Section 1: the answer in one sentence, and the numbers that it is made of."""

    sentence: str
    share: Share | None  # copies among images made from training captions; None: no threshold
    threshold: Threshold | None
    gate: Gate | None = None  # with --gate
    parts: Share | None = None  # share of images that hold a part of a training picture


@dataclass(frozen=True)
class Returned:
    """A generated image that hands back a training picture."""

    image: str  # path below the folder of the generation
    picture: str  # name in the pictures
    score: float  # on the scale of the threshold
    prompt: str | None
    seed: int | None
    transformation: str | None = None  # what was done to the picture, in words


@dataclass(frozen=True)
class Offender:
    """Section 2: a training picture that is handed back."""

    key: str  # of the training picture
    picture: str  # name in the pictures
    copies: int  # generated images that are copies of it
    images: int  # generated images made from its own caption
    best: float  # highest score, on the scale of the threshold
    caption: str | None
    returned: tuple[Returned, ...]  # the best few copies, best first
    duplicated: bool | None = None  # whether training drew it more often, on purpose
    near_duplicates: tuple[str, ...] = ()  # keys of training pictures that resemble it
    drawn: int | None = None  # how often training drew it; None if not recorded
    skipped: int | None = None  # how often anti-gradient control (--mem_ratio) dropped it


@dataclass(frozen=True)
class Arm:
    """A set of images that was made and measured: a row of a table."""

    name: str  # short, as its folder: "training", "base", "heldout", "words", "noise0.1"
    label: str  # in words
    images: int
    prompts: int
    share: Share | None  # copies by the card's one threshold
    sim_mean: float | None = None  # mean of the best similarities
    sim_95pc: float | None = None  # their 95th percentile
    distance: float | None = None  # Frechet distance to the training images; less is nearer
    distance_name: str | None = None  # key of the metric, such as "fid"
    alignment: float | None = None  # mean CLIP score of image and prompt
    commands: tuple[str, ...] = ()  # that make and measure it, to paste
    evaluation: str | None = None  # folder of the evaluation, relative to the card
    examples: tuple[
        str, ...
    ] = ()  # names in the pictures: the first images, same prompts and noise


@dataclass(frozen=True)
class Comparison:
    """Section 3: is it the training, and is it the caption, that brings the pictures back?"""

    arms: tuple[Arm, ...]  # first the model on training captions
    findings: tuple[str, ...] = ()  # sentences that follow from the numbers


@dataclass(frozen=True)
class Moment:
    """A checkpoint of the run."""

    step: int  # optimizer steps
    final: bool  # whether it is the one without a number
    arm: Arm


@dataclass(frozen=True)
class Course:
    """Section 4: copies over training."""

    moments: tuple[Moment, ...]  # in the order of their steps
    max_copy_share: float  # 0 to 1: --max_copy_share
    stop_at: (
        int | None
    )  # step of the last checkpoint whose copy share is below; None: there is none
    finding: str  # in a sentence


@dataclass(frozen=True)
class Trial:
    """A mitigation on the worst prompts."""

    flags: tuple[str, ...]  # of diff_inference.py, as words; () for none
    arm: Arm
    source: str | None = None  # where its strength was published


@dataclass(frozen=True)
class Help:
    """Section 5: what helps here."""

    trials: tuple[Trial, ...]  # first without a mitigation
    prompts: int  # number of the worst prompts
    finding: str  # which one to use, or that none helps, with the numbers
    command: str | None = None  # that generates with it, to paste
    detectors: Mapping[str, str] = field(default_factory=dict)  # {name: what it sees, in words}


@dataclass(frozen=True)
class Advice:
    """Section 6: something to do next time."""

    what: str  # a sentence that begins with a verb
    reason: str  # what was measured
    command: str | None = None  # to paste
    file: str | None = None  # that was written for it, relative to the card
    keys: tuple[str, ...] = ()  # training pictures that it is about


@dataclass(frozen=True)
class Made:
    """Section 7: how the card was made."""

    model: str  # --modelpath, as given
    command: str  # the command that makes this card
    settings: Mapping[str, Any]  # {name: value}
    hashes: Mapping[str, str]  # {what: fingerprint}
    seeds: Mapping[str, int]  # {what: seed}
    versions: Mapping[str, Any]  # {name: version}, and the machine
    images: int  # that the card needs
    images_new: int  # of them made by this command
    seconds: float  # that this command took
    date: str  # ISO 8601, UTC


@dataclass(frozen=True)
class Card:
    """A memorization card. A section that was left out is None or empty, and `left_out` says why."""

    title: str  # name of the model
    answer: Answer
    offenders: tuple[Offender, ...]
    comparison: Comparison
    course: Course | None
    help: Help | None
    advice: tuple[Advice, ...]
    made: Made
    left_out: Mapping[str, str]  # {part: why}

    def as_json(self) -> dict[str, Any]:
        """The card as JSON types, in the order of its sections."""
        return dataclasses.asdict(self)


def picture_names(card: Card) -> list[str]:
    """Names of all pictures that a card shows, each once, in the order of its sections."""
    names = [name for each in card.offenders for name in _of_offender(each)]
    trials = card.help.trials if card.help else ()
    for arm in (*card.comparison.arms, *(trial.arm for trial in trials)):
        names += arm.examples
    return list(dict.fromkeys(names))


def _of_offender(offender: Offender) -> list[str]:
    return [offender.picture, *(each.picture for each in offender.returned)]
