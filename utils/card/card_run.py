"""Runs the steps of a memorization card: measures the speed, fits the sizes to the budget, makes
images and evaluations. What exists already is kept."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.card import card_prompts
from utils.card.card_plan import VAL_CONTENT, CardPlan, generation_of, write_prompts
from utils.card.card_sizes import (
    ArmSize,
    Progress,
    images_of,
    seconds_of,
    seconds_to_measure,
    within,
)
from utils.card.card_steps import (
    GENERATING,
    GROUPS,
    IMAGES,
    MEASURING,
    PLAN,
    TRAINING,
    Commands,
    Step,
    line_of,
)
from utils.cli import flags
from utils.cli.retrieval_options import RetrievalOptions
from utils.files import whole_files
from utils.generation.generation_stage import Generator
from utils.index import index_stage
from utils.reports.progress import progress as bar
from utils.retrieval import evaluation_stage
from utils.retrieval.metrics import METRICS
from utils.runtime.errors import UsageError

if TYPE_CHECKING:
    from utils.generation.sampling import Prompt
    from utils.runtime.parallel import Processes

PLAN_KIND, SPEED = "card-plan", "speed"


def in_minutes(seconds: float) -> str:
    """A time as a reader needs it: "less than a minute", "12 minutes"."""
    minutes = round(seconds / 60)
    if minutes < 1:
        return "less than a minute"
    return "1 minute" if minutes == 1 else f"{minutes} minutes"


class Maker:
    """Makes the images and the evaluations of a card, one after the other.

    processes: this process alone; commands: of the card."""

    def __init__(self, processes: Processes, commands: Commands) -> None:
        self.processes, self.commands = processes, commands
        self.generator = Generator(processes, progress=bar)
        self.made = 0  # images that were made, not found

    def generate(self, step: Step) -> None:
        """Make the images of a step, or those that are missing."""
        words = self.commands.generate(step)
        planned = generation_of(words)
        if len(planned.folder.rows(planned.settings)) < planned.images.total:
            self.processes.say(f"$ {line_of(GENERATING, words)}")
        self.made += self.generator.complete(planned)["images_new"]

    def evaluate(self, step: Step, metrics: Sequence[str] | None) -> None:
        """Measure the images of a step, unless that was done.

        metrics: names for --metrics, of which those are measured for which there are enough images;
        None measures all that can be."""
        if not is_measured(self.commands.evaluation(step.name)):
            possible = metrics and [m for m in metrics if METRICS[m].least[0] <= step.size.images]
            words = self.commands.evaluate(step.name, possible)
            self.processes.say(f"$ {line_of(MEASURING, words)}")
            opts = flags.parse(RetrievalOptions, words, description=None)
            evaluation_stage.evaluate(opts, self.processes, index_stage.training_side(opts))

    def find_duplicates(self, source: str, *, indexed: bool) -> Path:
        """Find near-duplicates among the training pictures, unless that was done. UsageError if the
        descriptor has no threshold for them. Returns: the folder.

        source: value of --val_dir; indexed: whether that is an index."""
        folder = self.commands.folder / GROUPS
        if not (folder / "summary.json").is_file():
            words = self.commands.find_duplicates(source, indexed=indexed)
            self.processes.say(f"$ {line_of(MEASURING, words)}")
            opts = flags.parse(RetrievalOptions, words, description=None)
            index_stage.prepare(opts, self.processes)
        return folder


# Speed and budget ---------------------------------------------------------------------------------


def _exists(planned: CardPlan, to_measure: float) -> Progress:
    """What exists of the steps already. UsageError if a folder holds other images. to_measure:
    seconds to measure an image."""
    made, commands = {}, planned.commands
    for step in planned.steps:
        if commands.images(step.name).is_dir():
            asked = generation_of(commands.generate(step))
            made[step.name] = len(asked.folder.rows(asked.settings))
    measured = (s.name for s in planned.steps if is_measured(commands.evaluation(s.name)))
    return Progress(made, frozenset(measured), to_measure)


def is_measured(folder: Path) -> bool:
    """Whether a folder holds a finished evaluation."""
    return (folder / "metrics.json").is_file()


def _seconds_per_image(planned: CardPlan, maker: Maker) -> float:
    """Time to generate an image, measured on the images of one prompt, or on a step that exists."""
    for step in planned.steps:
        manifest = planned.commands.images(step.name) / "manifest.json"
        if manifest.is_file():
            speed = whole_files.read_manifest(manifest, "generation").get("images_per_second")
            if speed:
                return 1 / speed
    main = planned.steps[0]
    step = Step(SPEED, "", main.model, SPEED, ArmSize(1, min(4, main.size.per_prompt)), main.seed)
    card_prompts.write(maker.commands.prompts(step), planned.prompts[TRAINING][:1])
    maker.generate(step)
    maker.made = 0  # no part of the card
    manifest = maker.commands.folder / IMAGES / SPEED / "manifest.json"
    return 1 / whole_files.read_manifest(manifest, "generation")["images_per_second"]


def _require_same(path: Path, recorded: dict[str, Any], settings: dict[str, Any]) -> None:
    """Raise UsageError that names the first setting in which an unfinished or finished card
    differs."""
    for name, value in settings.items():
        # cards of earlier versions did not record the contents of the training pictures
        if name == VAL_CONTENT and name not in recorded["settings"]:
            continue
        if recorded["settings"].get(name) != value:
            flag = "val_dir" if name == VAL_CONTENT else name
            raise UsageError(
                f"--output_dir={str(path.parent)!r} holds a card with another --{flag}; use the"
                " same value, or another --output_dir"
            )


def begin(planned: CardPlan, maker: Maker, *, budget: float | None, candidates: int) -> CardPlan:
    """Settle the sizes, say them, and write the prompts and the record of the plan; a card that was
    begun keeps its sizes. Returns: the plan with these sizes.

    budget: minutes, or None; candidates: with which evaluations align an image."""
    path = planned.commands.folder / PLAN
    if path.is_file():
        recorded = whole_files.read_manifest(path, PLAN_KIND)
        _require_same(path, recorded, dict(planned.settings))
        sizes = {name: ArmSize(*size) for name, size in recorded["sizes"].items()}
        write_prompts(planned.sized(sizes))
        return planned.sized(sizes)
    write_prompts(planned)
    on_gpu = maker.processes.device.type == "cuda"
    progress = _exists(planned, seconds_to_measure(candidates=candidates, on_gpu=on_gpu))
    speed = _seconds_per_image(planned, maker)
    sizes = planned.sizes
    if budget is not None:
        sizes = within(sizes, progress, speed, budget=60 * budget)
    for line in announcement(planned.sizes, sizes, progress, speed, budget):
        maker.processes.say(line)
    sized = planned.sized(sizes)
    write_prompts(sized)
    whole_files.write_manifest(
        path,
        PLAN_KIND,
        settings=planned.settings,
        sizes={name: [size.prompts, size.per_prompt] for name, size in sizes.items()},
        seconds_per_image=speed,
    )
    return sized


def announcement(
    full: dict[str, ArmSize],
    sizes: dict[str, ArmSize],
    progress: Progress,
    speed: float,
    budget: float | None,
) -> list[str]:
    """What a card is going to make, in lines. full: sizes without a budget; speed: seconds an
    image."""
    exist = sum(progress.made.values())
    there = f", {exist} of them exist" if exist else ""
    seconds = seconds_of(sizes, progress, speed)
    lines = [
        f"the card needs up to {images_of(sizes)} images in {len(sizes)} sets{there}: about"
        f" {in_minutes(seconds)}, an estimate from {speed:.2g} s for an image"
    ]
    if budget is not None and images_of(sizes) < images_of(full):
        lines.append(
            f"--budget={budget:g} reduces {images_of(full)} images to {images_of(sizes)}: fewer"
            " prompts, and fewer images of each"
        )
    if budget is not None and seconds > 60 * budget:
        lines.append(
            f"--budget={budget:g} is too short; with fewer prompts and images the card would say"
            " nothing"
        )
    return lines


def write_worst(commands: Commands, step: Step, prompts: Sequence[Prompt]) -> Step:
    """Write the worst prompts. Returns: the step of a trial with that many."""
    card_prompts.write(commands.prompts(step), prompts)
    return step.sized(ArmSize(len(prompts), step.size.per_prompt))
