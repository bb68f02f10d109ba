"""What to do next time, from what was measured alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from utils.card.card_findings import below, counted
from utils.card.card_offenders import KnownPictures, copies_by_picture
from utils.card.card_record import Advice, Course, Help
from utils.card.card_steps import WEIGHTS
from utils.card.card_verdicts import Judged, share_of
from utils.files import whole_files

LEAST_COPIES = 2  # of a picture that should be left out
LEAST_SHARE = 0.5  # of the images made from its caption

# (changed flags of the training: {flag: value}) -> the command that trains again
Retrain = Callable[[Mapping[str, object]], str]


@dataclass(frozen=True)
class AdviceFacts:
    """What advice is made of."""

    images: Sequence[Judged]  # of the step on training captions
    known: KnownPictures
    course: Course | None
    help: Help | None
    retrain: Retrain | None  # None: the model is no run of ours
    checkpoint: Callable[[int], str] | None  # (step) -> the command that generates from it
    seed: int  # of intervals


def pictures_to_leave_out(images: Sequence[Judged], known: KnownPictures) -> list[str]:
    """Keys of pictures that at least two, and half, of the images made from their own caption hand
    back, though training did not draw them more often and they have no near-duplicates. Most copies
    first."""
    made: dict[str, list[bool]] = {}
    for each in images:
        key = known.sources.get(each.source or "")
        if key is not None:
            made.setdefault(key, []).append(each.copy and each.picture == key)

    def is_stubborn(key: str) -> bool:
        own, training = made.get(key, []), known.training(key)
        often = sum(own) >= max(LEAST_COPIES, LEAST_SHARE * len(own))
        return often and not training.duplicated and not training.near_duplicates

    return [key for key in copies_by_picture(images) if is_stubborn(key)]


def weights_of(known: KnownPictures, left_out: Sequence[str]) -> dict[str, float]:
    """Weights for --weights_file: each group of near-duplicates is drawn as often as one picture,
    and the pictures to leave out never. Pictures of weight 1 are not listed."""
    near = known.near_duplicates or {}
    return {key: 1 / (1 + len(others)) for key, others in near.items()} | dict.fromkeys(
        left_out, 0.0
    )


def advice_of(facts: AdviceFacts, folder: Path) -> tuple[Advice, ...]:
    """All advice, and the weights file that it needs, written to <folder>/weights.json."""
    left_out = pictures_to_leave_out(facts.images, facts.known)
    weights = weights_of(facts.known, left_out)
    thin = _thin_out(facts)
    if thin or left_out:
        whole_files.write_json(folder / WEIGHTS, weights)
    command = None
    if facts.retrain:
        command = facts.retrain({"weights_file": str(folder / WEIGHTS), "duplication": "nodup"})
    found = [
        _with(thin, command),
        _draw_equally(facts),
        _with(_leave_out(left_out), command),
        _stop(facts),
        _mitigate(facts),
    ]
    return tuple(each for each in found if each is not None)


def _with(advice: Advice | None, command: str | None) -> Advice | None:
    """The advice with the command that trains by the weights file."""
    if advice is None:
        return None
    return Advice(advice.what, advice.reason, command, WEIGHTS, advice.keys)


def _thin_out(facts: AdviceFacts) -> Advice | None:
    copied = copies_by_picture(facts.images)
    near = facts.known.near_duplicates or {}
    keys = [key for key in copied if near.get(key)]
    if not keys:
        return None
    return Advice(
        "Thin out the near-duplicates: draw each group as often as one picture.",
        f"{len(keys)} of the {counted(len(copied), 'picture')} that are handed back have"
        f" near-duplicates in the training set; {len(near)} of its pictures have some.",
        None,
        None,
        tuple(keys),
    )


def _draw_equally(facts: AdviceFacts) -> Advice | None:
    duplicated, sources = facts.known.duplicated, facts.known.sources
    if not duplicated:
        return None
    known = [(each, sources.get(each.source or "")) for each in facts.images]
    many = [each for each, key in known if key in duplicated]
    others = [each for each, key in known if key is not None and key not in duplicated]
    share, rest = share_of(many, seed=facts.seed), share_of(others, seed=facts.seed)
    if share is None or rest is None or not below(rest, share):
        return None
    return Advice(
        "Draw every picture equally often.",
        f"{share.percent} of the images made from captions of duplicated pictures are copies,"
        f" {rest.percent} of the others.",
        facts.retrain({"duplication": "nodup"}) if facts.retrain else None,
        None,
        (),
    )


def _leave_out(keys: Sequence[str]) -> Advice | None:
    if not keys:
        return None
    return Advice(
        f"Leave out {counted(len(keys), 'picture')}, or vary {'its' if len(keys) == 1 else 'their'}"
        " captions.",
        "At least half of the images made from the caption are copies, though the picture was not"
        " drawn more often than others and has no near-duplicates.",
        None,
        None,
        tuple(keys),
    )


def _stop(facts: AdviceFacts) -> Advice | None:
    course = facts.course
    if course is None or course.stop_at is None or course.stop_at == course.moments[-1].step:
        return None
    return Advice(
        f"Stop at step {course.stop_at}, or use the checkpoint that exists.",
        course.finding,
        facts.checkpoint(course.stop_at) if facts.checkpoint else None,
        None,
        (),
    )


def _mitigate(facts: AdviceFacts) -> Advice | None:
    if facts.help is None or facts.help.command is None:
        return None
    return Advice(
        "Generate with the mitigation that helps here.",
        facts.help.finding,
        facts.help.command,
        None,
        (),
    )
