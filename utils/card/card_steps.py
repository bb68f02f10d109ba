"""The steps of a memorization card. Each is a generation and an evaluation, as command lines that
can be pasted."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from utils.card.card_sizes import ArmSize
from utils.files import generation_models

GENERATING, MEASURING = "diff_inference.py", "diff_retrieval.py"
# names of steps
TRAINING, BASE, HELDOUT, WORDS, WORST = "training", "base", "heldout", "words", "worst"
# files and folders of a card: its steps, what they need, and what is read in the end
PLAN, PROMPTS, IMAGES, MEASURED = "plan.json", "prompts", "images", "measured"
INDEX, GROUPS, WEIGHTS = "index", "near-duplicates", "weights.json"
CARD_FILES = ("card.json", "card.md", "card.html", "course.png")
OURS = frozenset((PLAN, PROMPTS, IMAGES, MEASURED, INDEX, GROUPS, WEIGHTS, *CARD_FILES))


@dataclass(frozen=True)
class Step:
    """An arm of a card: images to make and to measure."""

    name: str  # of its folders
    label: str  # in words
    model: tuple[str, ...]  # words of diff_inference.py that name the model
    prompts: str  # name of the file of its prompts, without .json
    size: ArmSize
    seed: int  # of prompts' edits and noise
    flags: tuple[str, ...] = ()  # further words of diff_inference.py

    def sized(self, size: ArmSize) -> Step:
        """The same step with another number of images."""
        return dataclasses.replace(self, size=size)


@dataclass(frozen=True)
class Commands:
    """How the steps of a card become command lines."""

    folder: Path  # of the card
    sampling: tuple[str, ...]  # words of diff_inference.py that all steps share
    training: tuple[str, ...]  # words of diff_retrieval.py that name the training pictures
    measuring: tuple[str, ...]  # words of diff_retrieval.py that all steps share
    describing: tuple[str, ...]  # those of them that choose the descriptor

    def with_innocents(self, name: str, steps: Iterable[Step]) -> Commands:
        """The same, with the images of a step as innocents, if there is such a step."""
        if name not in {step.name for step in steps}:
            return self
        words = ("--base_dir", str(self.images(name)))
        return dataclasses.replace(self, measuring=(*self.measuring, *words))

    def prompts(self, step: Step) -> Path:
        """The file of a step's prompts."""
        return self.folder / PROMPTS / f"{step.prompts}.json"

    def images(self, name: str) -> Path:
        """The folder of a step's generation."""
        return self.folder / IMAGES / name

    def evaluation(self, name: str) -> Path:
        """The folder of a step's evaluation."""
        return self.folder / MEASURED / name

    def generate(self, step: Step) -> list[str]:
        """Words after diff_inference.py that make a step's images."""
        return [
            *step.model,
            "--prompts",
            str(self.prompts(step)),
            "--nbatches",
            str(step.size.prompts),
            "--im_batch",
            str(step.size.per_prompt),
            *self.sampling,
            *step.flags,
            "--seed",
            str(step.seed),
            "--savepath",
            str(self.images(step.name)),
        ]

    def evaluate(self, name: str, metrics: Sequence[str] | None) -> list[str]:
        """Words after diff_retrieval.py that measure a step's images.

        metrics: names for --metrics; None leaves the flag out."""
        return [
            "--query_dir",
            str(self.images(name)),
            *self.training,
            *self._measuring(name),
            *(["--metrics", ",".join(metrics)] if metrics else []),
            "--report_to",
            "none",
            "--output_dir",
            str(self.evaluation(name)),
        ]

    def _measuring(self, name: str) -> list[str]:
        """The words that all steps share. Images of the base model that are given as innocents are
        no innocents of the base model itself, of which they are named as what they are."""
        words = list(self.measuring)
        if name != BASE or "--innocent_dir" not in words:
            return words
        place = words.index("--innocent_dir")
        folder = words[place + 1]
        models = generation_models.all_made_by(folder)
        if not models or any(model.run for model in models):
            return words
        words[place : place + 2] = [] if "--base_dir" in words else ["--base_dir", folder]
        return words

    def find_duplicates(self, source: str, *, indexed: bool) -> list[str]:
        """Words after diff_retrieval.py that find near-duplicates among the training pictures.

        source: value of --val_dir; indexed: whether that is an index."""
        build = ["--build_index", str(self.folder / INDEX), *self.describing]
        return [
            "--val_dir",
            source,
            *([] if indexed else build),
            "--dedup",
            "--report_to",
            "none",
            "--output_dir",
            str(self.folder / GROUPS),
        ]


def line_of(script: str, words: Iterable[str]) -> str:
    """A command as a line for a shell."""
    return f"python {script} {shlex.join(words)}"


def steps_of(
    *,
    model: tuple[str, ...],
    base: tuple[str, ...] | None,
    checkpoints: Sequence[int],
    size: ArmSize,
    heldout: int,
    seed: int,
    detecting: tuple[str, ...],
) -> list[Step]:
    """The steps that are known before anything is measured.

    model, base: words of diff_inference.py that name them.
    checkpoints: numbers of those before the last one.
    size: of the step on training captions.
    heldout: number of held-out captions that are used.
    detecting: words of diff_inference.py for the step on training captions.
    """
    label = "the model, training captions"
    steps = [Step(TRAINING, label, model, TRAINING, size, seed, detecting)]
    if base:
        steps.append(Step(BASE, "base model, the same captions", base, TRAINING, size, seed))
    if heldout:
        few = dataclasses.replace(size, prompts=heldout)
        steps.append(Step(HELDOUT, "the model, held-out captions", model, HELDOUT, few, seed))
    steps.append(Step(WORDS, "the model, half of the words replaced", model, WORDS, size, seed))
    for number in checkpoints:
        flags = ("--iternum", str(number))
        label = f"checkpoint {number}, training captions"
        steps.append(Step(f"checkpoint_{number}", label, model, TRAINING, size, seed, flags))
    return steps


def trial_step(name: str, label: str, like: Step, *, size: ArmSize, flags: Sequence[str]) -> Step:
    """The step of a mitigation on the worst prompts, or of none.

    The seed is another one than that of the step `like`, which chose the prompts: prompts that were
    chosen for their copies copy less the next time by chance alone, also without a mitigation."""
    name = f"{WORST}-{name}" if name else WORST
    return Step(name, label, like.model, WORST, size, like.seed + 1, tuple(flags))
