"""Puts the record of a memorization card together from the evaluations that its steps left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utils.card.card_findings import (
    answer_sentence,
    best_trial,
    comparison_of,
    course_of,
    help_finding,
    seen_by_detectors,
    threshold_of,
    void_sentence,
)
from utils.card.card_offenders import generated_picture
from utils.card.card_record import (
    Answer,
    Arm,
    Comparison,
    Course,
    Gate,
    Help,
    Moment,
    Numbers,
    Share,
    Trial,
)
from utils.card.card_steps import (
    BASE,
    GENERATING,
    HELDOUT,
    MEASURING,
    TRAINING,
    WORDS,
    Commands,
    Step,
    line_of,
)
from utils.card.card_verdicts import (
    CopyRule,
    Judged,
    judged,
    read_metrics,
    read_rows,
    rule_of,
    share_in,
    share_of,
)

EXAMPLES = 6  # images of each arm that a card shows


@dataclass(frozen=True)
class MeasuredStep:
    """A step that was made and measured."""

    step: Step
    metrics: Mapping[str, Any]  # of its metrics.json
    images: list[Judged]  # judged by the card's one rule


def read_step(commands: Commands, step: Step, rule: CopyRule | None) -> MeasuredStep:
    """Read the evaluation of a step. rule: of the card; None: that of this evaluation."""
    folder = commands.evaluation(step.name)
    metrics = read_metrics(folder)
    return MeasuredStep(step, metrics, judged(read_rows(folder), rule or rule_of(metrics)))


# Numbers ------------------------------------------------------------------------------------------


def distance_name(metrics: Mapping[str, Any]) -> str | None:
    """The key of the distance that a card shows: FID, else the first Frechet distance."""
    if "fid" in metrics:
        return "fid"
    return next((key for key in metrics if key.startswith("fd_") and not key.endswith("_n")), None)


def metrics_to_repeat(metrics: Mapping[str, Any]) -> list[str]:
    """Names for --metrics of the other steps: what a card shows, as far as the step on training
    captions could measure it."""
    name = distance_name(metrics)
    found = ["similarity"]
    found += [] if name is None else ["fid" if name == "fid" else "fd"]
    return found + (["clipscore"] if "clipscore" in metrics else [])


def numbers_of(measured: MeasuredStep, share: Share | None, *, like: int | None) -> Numbers:
    """The numbers of an arm.

    like: number of images of the arms that it is compared with. A distance depends on the number of
    images, so an arm with another number has none; None keeps it."""
    metrics = measured.metrics
    fair = like is None or like == len(measured.images)
    name = distance_name(metrics) if fair else None
    return Numbers(
        share=share,
        sim_mean=metrics.get("sim_mean"),
        sim_95pc=metrics.get("sim_95pc"),
        distance=None if name is None else metrics[name],
        distance_name=name,
        clipscore=metrics.get("clipscore"),
    )


def arm_of(
    measured: MeasuredStep, commands: Commands, rule: CopyRule, *, seed: int, like: int | None
) -> Arm:
    """The row of a step in a table. A step of whose images most are of one colour has no share.

    seed: of intervals; like: as `numbers_of`."""
    step, share, void = measured.step, None, void_sentence(measured.metrics) is not None
    if rule.threshold is not None and not void:
        share = share_of(measured.images, seed=seed)
    if step.name == TRAINING and "threshold" in measured.metrics and not void:
        # its interval holds the uncertainty of the threshold as well
        share = share_in(measured.metrics, "copy_share_calibrated") or share
    examples = [each.image for each in measured.images[:EXAMPLES]]
    return Arm(
        name=step.name,
        label=step.label,
        images=len(measured.images),
        prompts=step.size.prompts,
        numbers=numbers_of(measured, share, like=like),
        commands=(
            line_of(GENERATING, commands.generate(step)),
            line_of(
                MEASURING, commands.evaluate(step.name, measured.metrics["settings"]["metrics"])
            ),
        ),
        evaluation=str(commands.evaluation(step.name).relative_to(commands.folder)),
        examples=tuple(generated_picture(step.name, image) for image in examples),
    )


# Sections -----------------------------------------------------------------------------------------


def answer_of(
    main: MeasuredStep,
    arm: Arm,
    rule: CopyRule,
    *,
    given: float | None,
    limit: float,
    gate: bool,
) -> Answer:
    """The answer.

    arm: of the step on training captions; given: --copy_threshold, or None; limit:
    --max_copy_share; gate: whether --gate was given."""
    share, threshold = arm.numbers.share, threshold_of(main.metrics, rule, given)
    passed, void = None, void_sentence(main.metrics)
    if gate and void is not None:
        passed = Gate(limit, None, passed=False)
    elif gate and share is not None:
        passed = Gate(limit, share.lo, passed=share.lo <= limit)
    return Answer(
        sentence=void or answer_sentence(share, threshold),
        share=share,
        parts=share_in(main.metrics, "part_copied_share"),
        threshold=threshold,
        gate=passed,
        max_copy_share=limit,
        void=void is not None,
    )


def comparison(arms: Mapping[str, Arm]) -> Comparison:
    """The arms that are compared, as far as they exist. arms: by the name of their step."""
    return comparison_of([arms[k] for k in (TRAINING, BASE, HELDOUT, WORDS) if k in arms])


def course(arms: Mapping[str, Arm], last: int | None, limit: float) -> Course | None:
    """The course over training; None without earlier checkpoints.

    last: step of the last checkpoint; limit: --max_copy_share."""
    beginning = "checkpoint_"
    moments = [
        Moment(int(name.removeprefix(beginning)), False, arm)
        for name, arm in arms.items()
        if name.startswith(beginning)
    ]
    if not moments or last is None:
        return None
    return course_of([*moments, Moment(last, True, arms[TRAINING])], limit)


def help_of(main: MeasuredStep, trials: Sequence[Trial], command: Mapping[str, str]) -> Help:
    """What helps. trials: the first without a mitigation; command: {name of a trial's arm: command
    that generates with its mitigation}."""
    best, prompts = best_trial(trials), trials[0].arm.prompts
    return Help(
        prompts=prompts,
        trials=tuple(trials),
        finding=help_finding(trials, best, prompts),
        command=None if best is None else command[best.arm.name],
        detectors=seen_by_detectors(main.images),
    )


def files_of(commands: Commands, names: Sequence[str]) -> dict[str, Path]:
    """Where generated images are. names: as `generated_picture` gives them."""
    places = {}
    for name in names:
        arm, _, image = name.partition("/")
        places[name] = commands.images(arm) / image
    return places
