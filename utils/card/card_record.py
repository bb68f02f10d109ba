"""The record of a memorization card: everything that card.html, card.md and card.json show.

All values are plain, so that card.json is this record and a kind and a version. A picture is named
here by a text; the pictures themselves travel beside the record, as {name: JPEG bytes}.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

Pictures = Mapping[str, bytes]  # {name of a picture in the record: JPEG}
Box = tuple[tuple[float, float], ...]  # four corners (x, y), shares of width and height

# 1. The answer ------------------------------------------------------------------------------------


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
class InnocentShare:
    """How pictures that nobody copied fare."""

    count: int  # number of pictures
    source: str  # "innocent_dir", "holdout", "base_dir" or "training"
    share: float | None  # of them that would count by the card's threshold, 0 to 1
    fixed_share: float | None  # that would count by the descriptor's fixed threshold, 0 to 1
    void: bool  # whether that is so many that a verdict by the fixed threshold means nothing


@dataclass(frozen=True)
class Threshold:
    """Above what an image counts as a copy; one for all parts of a card."""

    value: float  # on the scale of `of`
    lo: float | None  # 95 % interval of a calibrated one
    hi: float | None
    of: str  # the score that is compared: "aligned", or the name of the descriptor
    calibrated: bool  # False: the fixed threshold of the descriptor, or --copy_threshold
    source: str  # where it comes from, in words: "1 % of 64 held-out pictures exceed it"
    innocents: InnocentShare | None  # None: none were measured


@dataclass(frozen=True)
class Gate:
    """What --gate asked, and whether the model passes."""

    max_copy_share: float  # --max_copy_share, 0 to 1
    lower_bound: float | None  # of the copy share, 0 to 1; None: the verdict is void
    passed: bool  # False: the command ends with status 3


@dataclass(frozen=True)
class Answer:
    """The answer in one sentence, and the numbers that it is made of."""

    sentence: str
    share: Share | None  # copies among images made from training captions; None: no threshold
    parts: Share | None  # images that hold a part of a training picture, not counted in `share`
    threshold: Threshold | None
    gate: Gate | None  # None without --gate
    max_copy_share: float | None = None  # --max_copy_share, 0 to 1; None: no limit to compare with
    void: bool = False  # whether most images show nothing, so that nothing can be said


# 2. The worst offenders ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Alignment:
    """How a generated image lies on the training picture."""

    transformation: str  # what was done to the picture, in words
    box_image: Box  # the overlap in the generated image
    box_picture: Box  # the overlap in the training picture
    agreement: str | None  # name of a picture: the map of agreement over the training picture


@dataclass(frozen=True)
class Returned:
    """A generated image that hands back a training picture."""

    image: str  # path below the folder of its generation
    picture: str  # name of its picture
    score: float  # on the scale of the threshold
    prompt: str | None
    seed: int | None
    alignment: Alignment | None  # None: was not aligned


@dataclass(frozen=True)
class Training:
    """What training did with a picture; None: is not known."""

    duplicated: bool | None  # whether it was drawn more often, on purpose
    near_duplicates: tuple[str, ...] | None  # keys of training pictures that resemble it
    drawn: int | None  # how often it was drawn
    skipped: int | None  # how often anti-gradient control (--mem_ratio) dropped it


@dataclass(frozen=True)
class Offender:
    """A training picture that is handed back."""

    key: str
    picture: str  # name of its picture
    caption: str | None
    copies: int  # generated images that are copies of it
    images: int  # generated images made from its own caption
    best: float  # highest score of a copy, on the scale of the threshold
    returned: tuple[Returned, ...]  # the best few copies, best first
    training: Training


# 3. to 5. Comparisons -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Numbers:
    """What was measured of a set of images; None: was left out, see Card.left_out."""

    share: Share | None  # copies by the card's one threshold
    sim_mean: float | None  # mean of the best similarities
    sim_95pc: float | None  # their 95th percentile
    distance: float | None  # Frechet distance to the training images; less is nearer
    distance_name: str | None  # key of that metric, such as "fid"
    clipscore: float | None  # mean agreement of image and caption by CLIP


@dataclass(frozen=True)
class Arm:
    """A set of images that was made and measured: a row of a table."""

    name: str  # short, as its folder: "training", "base", "heldout", "words"
    label: str  # in words
    images: int
    prompts: int
    numbers: Numbers
    commands: tuple[str, ...]  # that make and measure it, to paste
    evaluation: str | None  # folder of the evaluation, relative to the card
    examples: tuple[str, ...]  # names of pictures: images of the same prompts and noise in each arm


@dataclass(frozen=True)
class Comparison:
    """Section 3: is it the training, and is it the caption, that brings the pictures back?"""

    arms: tuple[Arm, ...]  # first the model on training captions
    findings: tuple[str, ...]  # sentences that follow from the numbers


@dataclass(frozen=True)
class Moment:
    """A checkpoint of the run."""

    step: int  # optimizer steps, or rounds of an ensemble
    final: bool  # whether it is the run's last one
    arm: Arm


@dataclass(frozen=True)
class Course:
    """Section 4: copies over training."""

    moments: tuple[Moment, ...]  # in the order of their steps
    max_copy_share: float  # --max_copy_share, 0 to 1
    stop_at: (
        int | None
    )  # step of the last checkpoint whose copy share is below; None: there is none
    finding: str  # a sentence that names it


@dataclass(frozen=True)
class Trial:
    """A mitigation on the worst prompts."""

    flags: tuple[str, ...]  # words of diff_inference.py's command line; () without a mitigation
    source: str | None  # where its strength was published
    arm: Arm


@dataclass(frozen=True)
class Help:
    """Section 5: what helps here."""

    prompts: int  # number of the worst prompts
    trials: tuple[Trial, ...]  # first without a mitigation
    finding: str  # which one to use, or that none helps, with the numbers
    command: str | None  # that generates with it, to paste
    detectors: Mapping[str, str] = field(default_factory=dict)  # {name: what it sees, in words}


# 6. What to do next time --------------------------------------------------------------------------


@dataclass(frozen=True)
class Advice:
    """Something to do next time."""

    what: str  # a sentence that begins with a verb
    reason: str  # what was measured
    command: str | None  # to paste
    file: str | None  # that was written for it, relative to the card
    keys: tuple[str, ...]  # training pictures that it is about


# 7. How it was made -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Provenance:
    """What would have to be the same for the same numbers."""

    settings: Mapping[str, Any]  # {name: value}
    hashes: Mapping[str, str]  # {what: fingerprint}
    seeds: Mapping[str, int]  # {what: seed}
    environment: Mapping[str, Any]  # as runtime.environment writes it: versions, commit, machine


@dataclass(frozen=True)
class Effort:
    """What the card cost."""

    images: int  # that the card needs
    images_new: int  # of them made by this command
    seconds: float  # that this command took
    date: str  # when it ended: ISO 8601, UTC


@dataclass(frozen=True)
class Card:
    """A memorization card. A section that was left out is None or empty; `left_out` says why."""

    model: str  # --modelpath, as given
    command: str  # that makes this card, to paste
    answer: Answer
    offenders: tuple[Offender, ...]  # most copies first
    comparison: Comparison
    course: Course | None
    help: Help | None
    advice: tuple[Advice, ...]
    provenance: Provenance
    effort: Effort
    left_out: Mapping[str, str]  # {part: why}

    def as_json(self) -> dict[str, Any]:
        """The card as JSON types, in the order of its sections."""
        return dataclasses.asdict(self)

    def picture_names(self) -> list[str]:
        """Names of all pictures that the card shows, each once, in the order of its sections."""
        arms = [*self.comparison.arms, *(t.arm for t in (self.help.trials if self.help else ()))]
        names = [name for each in self.offenders for name in _names_of(each)]
        return list(dict.fromkeys([*names, *(name for arm in arms for name in arm.examples)]))


def _names_of(offender: Offender) -> Iterator[str]:
    yield offender.picture
    for each in offender.returned:
        yield each.picture
        if each.alignment and each.alignment.agreement:
            yield each.alignment.agreement
