"""The stage of diff_retrieval.py --modelpath: generates what it measures, measures it, and writes a
memorization card."""

from __future__ import annotations

import datetime
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.card import card_assembly, card_pictures, card_run
from utils.card.card_advice import AdviceFacts, advice_of
from utils.card.card_assembly import MeasuredStep
from utils.card.card_files import write_card
from utils.card.card_findings import void_sentence
from utils.card.card_offenders import (
    KnownPictures,
    offenders_of,
    read_draws,
    read_groups,
    training_picture,
)
from utils.card.card_plan import CardPlan, plan
from utils.card.card_record import Arm, Card, Effort, Help, Pictures, Provenance, Trial
from utils.card.card_run import Maker, write_worst
from utils.card.card_steps import GENERATING, TRAINING, Step, line_of
from utils.card.card_verdicts import CopyRule, rule_of, worst_prompts
from utils.cli import flags
from utils.cli.train_options import TrainOptions
from utils.data import key_matching
from utils.files import locks, whole_files
from utils.generation.sampling import Prompt
from utils.retrieval import show_nothing
from utils.runtime import environment
from utils.runtime.errors import GateError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from utils.cli.retrieval_options import RetrievalOptions
    from utils.runtime.parallel import Processes

SCRIPT = "diff_retrieval.py"


@dataclass(frozen=True)
class CardRun:
    """A card whose steps are made, one after the other."""

    opts: RetrievalOptions
    planned: CardPlan
    maker: Maker
    rule: CopyRule
    main: MeasuredStep  # on training captions
    left_out: dict[str, str]  # {part: why}; grows while the card is made

    def arm(self, measured: MeasuredStep, *, like: int | None) -> Arm:
        """The row of a step in a table. like: images of the arms that it is compared with."""
        return card_assembly.arm_of(
            measured, self.planned.commands, self.rule, seed=self.opts.seed, like=like
        )


def make_card(opts: RetrievalOptions, processes: Processes) -> None:
    """Make a memorization card, or continue one. GateError if --gate was given and the model does
    not pass."""
    started = time.perf_counter()
    planned = plan(opts, processes)
    if opts.dry_run:
        processes.show(_dry_run(opts, planned))
        return
    with locks.only_writers("--output_dir", planned.commands.folder, processes):
        card = _make(opts, planned, processes, started)
    processes.say(card.answer.sentence)
    processes.say(f"card: {planned.commands.folder / 'card.html'}")
    _require_passed(card)


def _make(opts: RetrievalOptions, planned: CardPlan, processes: Processes, started: float) -> Card:
    """Make the steps of a card and write it. started: when, by time.perf_counter."""
    processes.say(f"the memorization card will be in {planned.commands.folder}")
    maker = Maker(processes, planned.commands)
    candidates = 0 if opts.no_align else opts.num_candidates
    planned = card_run.begin(planned, maker, budget=opts.budget, candidates=candidates)
    made = _begin(opts, planned, maker)
    arms = _arms(made)
    card, pictures = _card(made, arms, started)
    write_card(planned.commands.folder, card, pictures)
    return card


def _require_passed(card: Card) -> None:
    gate = card.answer.gate
    if gate is None:
        return
    if gate.lower_bound is None:
        raise GateError(f"--gate: {card.answer.sentence}")
    if not gate.passed:
        raise GateError(
            f"--gate: at least {100 * gate.lower_bound:.1f} % of the images are copies, more than"
            f" --max_copy_share={gate.max_copy_share:g}"
        )


def _dry_run(opts: RetrievalOptions, planned: CardPlan) -> dict[str, Any]:
    """What --dry_run prints, of JSON types."""
    commands = planned.commands
    steps = [*planned.steps, *(step for _, step in planned.trials)]
    return {
        "options": flags.as_dict(opts),
        "images": {name: size.images for name, size in planned.sizes.items()},
        "commands": [line_of(GENERATING, commands.generate(step)) for step in steps],
        "left_out": dict(planned.left_out),
        "writes": str(commands.folder),
    }


# Steps --------------------------------------------------------------------------------------------


def _begin(opts: RetrievalOptions, planned: CardPlan, maker: Maker) -> CardRun:
    """Make all images that do not depend on a result, and measure those of training captions, which
    sets the threshold."""
    for step in planned.steps:
        maker.generate(step)
    maker.evaluate(planned.steps[0], opts.metrics)
    main = card_assembly.read_step(planned.commands, planned.steps[0], None)
    if opts.gate and rule_of(main.metrics).threshold is None:
        raise UsageError(
            f"--gate needs a threshold, and --pt_style {opts.pt_style} has none; give one with"
            " --copy_threshold"
        )
    left_out = dict(planned.left_out)
    for name, why in main.metrics["left_out"].items():
        if name in ("fid", "fd", "clipscore"):
            left_out[name] = why
    _note_show_nothing(main, left_out)
    return CardRun(opts, planned, maker, rule_of(main.metrics), main, left_out)


def _measured(made: CardRun, step: Step) -> MeasuredStep:
    """Measure a step with what the step on training captions could measure."""
    metrics = made.opts.metrics or card_assembly.metrics_to_repeat(made.main.metrics)
    made.maker.evaluate(step, metrics)
    measured = card_assembly.read_step(made.planned.commands, step, made.rule)
    _note_show_nothing(measured, made.left_out)
    return measured


def _note_show_nothing(measured: MeasuredStep, left_out: dict[str, str]) -> None:
    """Note which images of a step are left out because they show nothing."""
    if line := show_nothing.note(measured.metrics.get("show_nothing", ())):
        left_out[f"images of {measured.step.name}"] = line


def _arms(made: CardRun) -> dict[str, Arm]:
    """The arms of all steps that do not depend on a result, by name."""
    images = len(made.main.images)
    arms = {TRAINING: made.arm(made.main, like=images)}
    for step in made.planned.steps[1:]:
        arms[step.name] = made.arm(_measured(made, step), like=images)
    if any(arm.images != images for arm in arms.values()):
        made.left_out["distances"] = (
            f"a distance depends on the number of images: sets of other than {images} have none"
        )
    return arms


def _help(made: CardRun) -> Help | None:
    """The trials of mitigations on the worst prompts; None if no image is a copy, and where the
    verdict is void."""
    if void := void_sentence(made.main.metrics):
        made.left_out["help"] = void
        return None
    size = made.planned.trials[0][1].size
    worst = worst_prompts(made.main.images, size.prompts)
    if not worst:
        made.left_out["help"] = "no image of a training caption is a copy"
        return None
    prompts = [Prompt(text, source) for text, source in worst]
    trials, commands = [], {}
    for mitigation, step in made.planned.trials:
        step = write_worst(made.planned.commands, step, prompts)
        made.maker.generate(step)
        arm = made.arm(_measured(made, step), like=None)
        source = None if mitigation is None else mitigation.source
        trials.append(Trial(step.flags, source, arm))
        commands[step.name] = _mitigated(made, step.flags)
    return card_assembly.help_of(made.main, trials, commands)


def _mitigated(made: CardRun, words: tuple[str, ...]) -> str:
    """The command that generates from the training captions with a mitigation."""
    main, commands = made.planned.steps[0], made.planned.commands
    return line_of(
        GENERATING,
        [
            *main.model,
            "--prompts",
            str(commands.prompts(main)),
            "--im_batch",
            str(main.size.per_prompt),
            *commands.sampling,
            *words,
        ],
    )


# What is known of the pictures --------------------------------------------------------------------


def _near_duplicates(made: CardRun) -> dict[str, tuple[str, ...]] | None:
    """The near-duplicates of each training picture; None if they cannot be searched."""
    try:
        data = made.planned.data
        folder = made.maker.find_duplicates(data.source, indexed=data.images is None)
    except UsageError as error:
        made.left_out["near-duplicates"] = str(error)
        return None
    return read_groups(folder)


def _known(made: CardRun) -> KnownPictures:
    planned = made.planned
    data, run = planned.data, planned.model.run
    draws = {} if run is None else read_draws(run.path / "skips.csv")
    if not draws:
        made.left_out["draws"] = "how often pictures were drawn is recorded with --mem_ratio alone"
    named = sorted({each.source for each in made.main.images if each.source})
    manifest = planned.commands.images(TRAINING) / "manifest.json"
    found, _ = key_matching.match_keys(manifest, named, data.root, data.keys, anywhere=True)
    prompts = {each.source: each.prompt for each in made.main.images}
    return KnownPictures(
        captions={key: prompts[name] or "" for key, name in found.items()} | dict(data.captions),
        duplicated=None if run is None else data.duplicated,
        near_duplicates=_near_duplicates(made),
        draws=_by_key(draws, run.path if run else Path("."), made),
        sources={name: key for key, name in found.items()},
    )


def _by_key(
    draws: Mapping[str, tuple[int, int]], folder: Path, made: CardRun
) -> dict[str, tuple[int, int]]:
    """Draws by the key of the picture. folder: of the run."""
    data = made.planned.data
    found, _ = key_matching.match_keys(
        folder / "skips.csv", draws, data.root, data.keys, anywhere=True
    )
    return {key: draws[name] for key, name in found.items()}


# The card -----------------------------------------------------------------------------------------


def _retrain(made: CardRun, changed: Mapping[str, object]) -> str:
    """The command that trains again with other flags. Only for a run of ours."""
    run = made.planned.model.run
    assert run is not None
    new = run.path.with_name(f"{run.path.name}-next")
    options = run.options | {"output_dir": str(new), "resume_from_checkpoint": None} | dict(changed)
    return line_of("diff_train.py", flags.words_of(options, TrainOptions))


def _from_checkpoint(made: CardRun, step: int) -> str:
    main, commands = made.planned.steps[0], made.planned.commands
    words = [*main.model, "--iternum", str(step), "--prompts", str(commands.prompts(main))]
    return line_of(GENERATING, [*words, *commands.sampling])


def _advice_facts(
    made: CardRun, known: KnownPictures, course: Any, help: Help | None
) -> AdviceFacts:
    run = made.planned.model.run
    return AdviceFacts(
        images=made.main.images,
        known=known,
        course=course,
        help=help,
        retrain=None if run is None else lambda changed: _retrain(made, changed),
        checkpoint=None if run is None else lambda step: _from_checkpoint(made, step),
        seed=made.opts.seed,
    )


def _card(made: CardRun, arms: dict[str, Arm], started: float) -> tuple[Card, Pictures]:
    """The card and its pictures. started: when the command began, by time.perf_counter."""
    opts, planned = made.opts, made.planned
    run = planned.model.run
    limit = opts.max_copy_share
    course = card_assembly.course(arms, run.record["steps"] if run else None, limit)
    known = _known(made)
    help = _help(made)
    offenders = offenders_of(made.main.images, known, TRAINING)
    facts = _advice_facts(made, known, course, help)
    card = Card(
        model=planned.model.given,
        command=line_of(SCRIPT, flags.words_of(vars(opts), type(opts))),
        answer=card_assembly.answer_of(
            made.main,
            arms[TRAINING],
            made.rule,
            given=opts.copy_threshold,
            limit=limit,
            gate=opts.gate,
        ),
        offenders=offenders,
        comparison=card_assembly.comparison(arms),
        course=course,
        help=help,
        advice=advice_of(facts, planned.commands.folder),
        provenance=_provenance(made),
        effort=_effort(made, help, started),
        left_out=made.left_out,
    )
    return card, _pictures(made, card)


def _provenance(made: CardRun) -> Provenance:
    settings = made.main.metrics["settings"]
    manifest = whole_files.read_manifest(
        made.planned.commands.images(TRAINING) / "manifest.json", "generation"
    )
    sampling = ("resolution", "num_inference_steps", "guidance_scale", "scheduler")
    measuring = (
        "pt_style",
        "similarity_metric",
        "copy_threshold",
        "num_matches",
        "dtype",
        "device",
    )
    hashes = {
        "training pictures": settings.get("val_fingerprint"),
        "generated images": settings.get("query_fingerprint"),
        "prompts": manifest["settings"]["prompts"],
        "weights of the descriptor": settings.get("weights_sha256"),
        "run": manifest["settings"]["modelpath"] if made.planned.model.run else None,
    }
    return Provenance(
        settings={
            **{name: manifest["settings"][name] for name in sampling},
            **{name: settings.get(name) for name in measuring},
        },
        hashes={name: value for name, value in hashes.items() if value},
        seeds={
            "prompts, noise and intervals": made.opts.seed,
            "noise of the worst prompts": made.planned.trials[0][1].seed,
        },
        environment=environment.environment(),
    )


def _effort(made: CardRun, help: Help | None, started: float) -> Effort:
    arms = [step.size.images for step in made.planned.steps]
    arms += [trial.arm.images for trial in (help.trials if help else ())]
    return Effort(
        images=sum(arms),
        images_new=made.maker.made,
        seconds=round(time.perf_counter() - started, 1),
        date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )


def _pictures(made: CardRun, card: Card) -> Pictures:
    names = {each.key: training_picture(each.key) for each in card.offenders}
    shown = [name for name in card.picture_names() if name not in names.values()]
    generated = card_pictures.generated_pictures(
        card_assembly.files_of(made.planned.commands, shown)
    )
    if not names:
        return generated
    return generated | card_pictures.training_pictures(made.planned.data.shown([*names]), names)
