"""The plan of a memorization card: its model, pictures, prompts and steps, resolved and checked
before a model loads or a file is written."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.card import card_prompts, card_subject
from utils.card.card_prompts import MOST_PROMPTS
from utils.card.card_sizes import ArmSize
from utils.card.card_steps import (
    BASE,
    HELDOUT,
    OURS,
    PROMPTS,
    TRAINING,
    WORDS,
    Commands,
    Step,
    steps_of,
    trial_step,
)
from utils.card.card_subject import Model, TrainingData
from utils.cli import flags
from utils.cli.card_options import OF_CARDS
from utils.cli.generation_options import GenerationOptions
from utils.cli.retrieval_options import RetrievalOptions
from utils.files.owned_folders import foreign_error, require_writable
from utils.generation import generation_plan, mitigations
from utils.generation.detectors import DETECTORS
from utils.generation.generation_plan import GenerationPlan
from utils.generation.prompt_files import read_prompts
from utils.generation.prompts import drawn_evenly
from utils.generation.sampling import Prompt
from utils.models.pipeline_files import FileChoice
from utils.retrieval import evaluation_stage, innocents, measurement
from utils.runtime import devices
from utils.runtime.errors import UsageError

if TYPE_CHECKING:
    from utils.generation.mitigations import Published
    from utils.runtime.parallel import Processes

WORST_PROMPTS, MOST_CHECKPOINTS = 32, 5
VAL_CONTENT = "val_content"  # the setting that holds the fingerprint of the pictures' contents
# flags of diff_inference.py that a card hands on
SAMPLING = ("resolution", "num_inference_steps", "guidance_scale", "scheduler", "mixed_precision")
# flags of diff_retrieval.py that an index takes: the descriptor, and how images are read
DESCRIBING = ("pt_style", "arch", "preset", "weights", "imsize", "multiscale", "isvit", "layer")
READING = ("num_workers", "max_bad_images", "batch_size", "mixed_precision", "gpu")
# flags that may differ when a card is continued
MAY_CHANGE = ("num_workers", "max_bad_images", "batch_size", "gpu", "cache_dir", "einsum_chunks")
# flags of a card that its evaluations do not take; flags.words_of leaves out those at their default
NOT_HANDED_ON = (
    "modelpath",
    *OF_CARDS,
    "query_dir",
    "val_dir",
    "output_dir",
    "metrics",
    "dry_run",
    "report_to",
    "noeval",
    "wandb_project",
    "run_name",
)


@dataclass(frozen=True)
class CardPlan:
    """A card, before anything is made."""

    model: Model
    data: TrainingData
    commands: Commands
    prompts: Mapping[str, list[Prompt]]  # name of a file -> prompts
    steps: tuple[Step, ...]  # first the one on training captions
    trials: tuple[tuple[Published | None, Step], ...]  # on the worst prompts; None: no mitigation
    left_out: Mapping[str, str]  # {part: why}
    settings: Mapping[str, Any]  # what a card that is continued must share, of JSON types

    def sized(self, sizes: Mapping[str, ArmSize]) -> CardPlan:
        """The plan with other numbers of images, and as many prompts in the files."""
        steps = tuple(step.sized(sizes[step.name]) for step in self.steps)
        trials = tuple((each, step.sized(sizes[step.name])) for each, step in self.trials)
        most: dict[str, int] = {}
        for step in steps:
            most[step.prompts] = max(most.get(step.prompts, 0), step.size.prompts)
        prompts = {name: listed[: most[name]] for name, listed in self.prompts.items()}
        return dataclasses.replace(self, steps=steps, trials=trials, prompts=prompts)

    @property
    def sizes(self) -> dict[str, ArmSize]:
        """Number of images of every step and trial."""
        steps = (*self.steps, *(step for _, step in self.trials))
        return {step.name: step.size for step in steps}


# Options and folder -------------------------------------------------------------------------------


def generation_options(words: Iterable[str]) -> GenerationOptions:
    """Options of diff_inference.py from the words of a command line."""
    return flags.parse(GenerationOptions, list(words), description=None)


def generation_of(words: Iterable[str]) -> GenerationPlan:
    """The plan of a generation, as diff_inference.py makes it. UsageError for what does not go
    together."""
    return generation_plan.plan(
        generation_options(words),
        default_prompts=(),
        default_root="inferences",
        beside_run=True,
        process=0,
        say=lambda line: None,
    )


def folder_of(opts: RetrievalOptions, model: Model, data: TrainingData) -> Path:
    """The folder of the card: --output_dir, else <run>/card, else ./card. UsageError if it holds
    anything else, or lies among the training pictures."""
    path = Path(opts.output_dir or (model.run.path / "card" if model.run else "card"))
    require_writable("--output_dir", path)
    names = sorted(each.name for each in path.iterdir()) if path.is_dir() else []
    foreign = [name for name in names if name not in OURS]
    if foreign:
        raise foreign_error("--output_dir", path, foreign[0], writer="memorization card")
    if data.images is not None and path.resolve().is_relative_to(Path(data.source).resolve()):
        raise UsageError(
            f"--output_dir={str(path)!r} lies in the training images, {data.source!r}; use another"
            " folder"
        )
    return path


def _require_innocents(opts: RetrievalOptions, model: Model) -> None:
    """Raise UsageError if --innocent_dir holds images of the model of the card, before any are
    made."""
    if opts.innocent_dir:
        run = None if model.run is None else str(model.run.path)
        innocents.require_other_model(opts.innocent_dir, query_dir=model.given, run=run)


def _commands(opts: RetrievalOptions, folder: Path, model: Model, data: TrainingData) -> Commands:
    _require_innocents(opts, model)
    values = {field.name: getattr(opts, field.name) for field in dataclasses.fields(opts)}
    sampling = {name: values[name] for name in SAMPLING}
    if sampling["resolution"] is None and model.run is not None:
        sampling["resolution"] = model.run.options["resolution"]  # for the base model as well
    measuring = {k: v for k, v in values.items() if k not in NOT_HANDED_ON}
    describing = {name: values[name] for name in (*DESCRIBING, *READING)}
    run = ["--run", str(model.run.path)] if model.run else []
    return Commands(
        folder=folder,
        sampling=tuple(flags.words_of(sampling, GenerationOptions)),
        training=("--val_dir", data.source, *run),
        measuring=tuple(flags.words_of(measuring, RetrievalOptions)),
        describing=tuple(flags.words_of(describing, RetrievalOptions)),
    )


# Prompts ------------------------------------------------------------------------------------------


def _training_prompts(opts: RetrievalOptions, model: Model, data: TrainingData) -> list[Prompt]:
    """The prompts that training captions are, from --prompts or drawn. UsageError if there are
    none, or they belong to no picture."""
    if opts.prompts:
        prompts = read_prompts(opts.prompts, opts.columns)
        named = {prompt.text: prompt.source_image for prompt in prompts}
        card_subject.require_pictures_of("--prompts", opts.prompts, named, data)
        return prompts
    if not data.captions:
        raise UsageError(
            f"--modelpath={model.given!r}: there are no captions of the images in"
            f" {data.source!r}; give a captions file with --prompts"
        )
    return drawn_evenly(data.captions, data.duplicated, most=MOST_PROMPTS, seed=opts.seed)


def _prompt_files(training: list[Prompt], data: TrainingData, seed: int) -> dict[str, list[Prompt]]:
    files = {TRAINING: training, WORDS: card_prompts.with_words_replaced(training, seed=seed)}
    if data.heldout:
        files[HELDOUT] = drawn_evenly(data.heldout, (), most=len(training), seed=seed)
    return files


# Steps --------------------------------------------------------------------------------------------


def _why_not(words: Sequence[str]) -> str | None:
    """Why a generation is not possible, in a line; None if it is. Loads no model."""
    try:
        generation_of((*words, "--prompt", "x"))
    except UsageError as error:
        return str(error)
    return None


def thinned(numbers: Sequence[int], most: int) -> list[int]:
    """At most so many of the numbers, evenly spread, with the first and the last one."""
    if len(numbers) <= most:
        return list(numbers)
    places = {round(i * (len(numbers) - 1) / (most - 1)) for i in range(most)}
    return [numbers[i] for i in sorted(places)]


def _base(
    opts: RetrievalOptions, model: Model, commands: Commands
) -> tuple[tuple[str, ...] | None, str | None]:
    """The base model. Returns: words that name it, or None; why it is left out, or None. UsageError
    if --base_model names one that cannot be used."""
    if model.base is None:
        return None, "the model that was fine-tuned is not known; name it with --base_model"
    why = _why_not((*model.base, *commands.sampling))
    if why and opts.base_model:
        raise UsageError(why)
    return (None, f"the base model cannot be used: {why}") if why else (model.base, None)


def _steps(
    opts: RetrievalOptions, model: Model, commands: Commands, files: Mapping[str, list[Prompt]]
) -> tuple[list[Step], dict[str, str]]:
    """The steps that are possible. Returns: steps, {part: why it is left out}."""
    why = _why_not((*model.words, *commands.sampling))
    if why:
        raise UsageError(why)
    left_out = {}
    detecting: tuple[str, ...] = ("--detect", ",".join(DETECTORS))
    why = _why_not((*model.words, *commands.sampling, *detecting))
    if why:
        detecting, left_out["detectors"] = (), why
    base, why = _base(opts, model, commands)
    if why:
        left_out[BASE] = why
    if HELDOUT not in files:
        left_out[HELDOUT] = "training set no pictures aside (diff_train.py --holdout)"
    if model.checkpoint:
        left_out["course"] = f"the card is of one checkpoint (--checkpoint {model.checkpoint})"
    elif not model.checkpoints:
        left_out["course"] = (
            "there are no checkpoints before the last (diff_train.py --modelsavesteps)"
        )
    chosen = thinned(model.checkpoints, MOST_CHECKPOINTS)
    if len(chosen) < len(model.checkpoints):
        left_out["checkpoints"] = (
            f"{len(chosen)} of {len(model.checkpoints)} earlier checkpoints are measured"
        )
    steps = steps_of(
        model=model.words,
        base=base,
        checkpoints=chosen,
        size=ArmSize(len(files[TRAINING]), opts.im_batch),
        heldout=len(files.get(HELDOUT, ())),
        seed=opts.seed,
        detecting=detecting,
    )
    return steps, left_out


def _trials(
    main: Step, commands: Commands
) -> tuple[list[tuple[Published | None, Step]], dict[str, str]]:
    """The trials of the worst prompts that the model allows, the first without a mitigation.
    Returns: trials, {part: why it is left out}."""
    size = dataclasses.replace(main.size, prompts=min(WORST_PROMPTS, main.size.prompts))
    trials: list[tuple[Published | None, Step]] = [
        (None, trial_step("", "without a mitigation", main, size=size, flags=()))
    ]
    left_out = {}
    for each in mitigations.PUBLISHED:
        words = flags.words_of(each.flags, GenerationOptions)
        why = _why_not((*main.model, *commands.sampling, *words))
        if why:
            left_out[f"mitigation {each.name}"] = why
        else:
            step = trial_step(each.name, each.label, main, size=size, flags=words)
            trials.append((each, step))
    return trials, left_out


# The plan -----------------------------------------------------------------------------------------


def _decisive() -> list[str]:
    """Names of the flags of generation and measurement that decide what a card shows."""
    handed = [field.name for field in dataclasses.fields(RetrievalOptions)]
    names = [name for name in handed if name not in (*NOT_HANDED_ON, *MAY_CHANGE)]
    return [*SAMPLING, *(name for name in names if name not in SAMPLING)]


def _settings(
    opts: RetrievalOptions, model: Model, data: TrainingData, prompts: list[Prompt]
) -> dict[str, Any]:
    """What a card that is continued must share, by flag."""
    texts = json.dumps([[prompt.text, prompt.source_image] for prompt in prompts])
    return {
        "modelpath": model.identity,
        "base_model": model.base,
        "val_dir": data.fingerprint or data.source,
        VAL_CONTENT: data.content_fingerprint,
        "seed": opts.seed,
        "im_batch": opts.im_batch,
        "metrics": opts.metrics,
        "budget": opts.budget,
        **{name: getattr(opts, name) for name in _decisive()},
        # last: prompts may differ because one of the above does, which then is the one reported
        "prompts": hashlib.sha256(texts.encode()).hexdigest(),
    }


def plan(opts: RetrievalOptions, processes: Processes) -> CardPlan:
    """Resolve and check the options of a card. UsageError for what does not go together; nothing
    is written."""
    if processes.count > 1:
        raise UsageError(
            f"--modelpath: a card is made by one process, and {processes.count} take part; start"
            " one, and make its commands in several with torchrun"
        )
    choice = FileChoice(variant=opts.variant, config=opts.config, unet=opts.unet)
    model = card_subject.model_of(
        str(opts.modelpath), opts.base_model, choice, checkpoint=opts.checkpoint
    )
    data = card_subject.data_of(
        model, opts.val_dir, opts.val_captions, columns=opts.columns, say=processes.say
    )
    folder = folder_of(opts, model, data)
    commands = _commands(opts, folder, model, data)
    training = _training_prompts(opts, model, data)
    files = _prompt_files(training, data, opts.seed)
    steps, left_out = _steps(opts, model, commands, files)
    trials, impossible = _trials(steps[0], commands)
    if opts.innocent_dir is None and opts.base_dir is None:
        commands = commands.with_innocents(BASE, steps)
    # its weights may be missing, which must be known before images are generated
    measurement.build_descriptor(
        evaluation_stage.descriptor_choice(opts),
        device=processes.device,
        dtype=devices.measuring_dtype(opts.mixed_precision, processes.device),
    )
    return CardPlan(
        model=model,
        data=data,
        commands=commands,
        prompts=files,
        steps=tuple(steps),
        trials=tuple(trials),
        left_out=left_out | impossible,
        settings=json.loads(json.dumps(_settings(opts, model, data, training))),
    )


def write_prompts(planned: CardPlan) -> None:
    """Write the files of the prompts."""
    for name, listed in planned.prompts.items():
        card_prompts.write(planned.commands.folder / PROMPTS / f"{name}.json", listed)
