"""The training stage before its first step: the options become inputs, a model with its plan, and a
record."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from utils.runtime import parallel
from utils.runtime.errors import UsageError
from utils.training import (
    data_job,
    due,
    encode_ahead,
    ensemble,
    model_job,
    steps,
    trainer,
    training_loop,
)
from utils.training.regularisation import CLASS_IMAGES

if TYPE_CHECKING:
    from accelerate import Accelerator

    from utils.cli.train_options import TrainOptions
    from utils.data.image_sets import ImageSet
    from utils.data.training_data import CaptionedImages
    from utils.runtime.parallel import Processes
    from utils.training.preservation_job import ClassData
    from utils.training.training_inputs import TrainingInputs


@dataclass(frozen=True)
class PreparedRun:
    """A run that is ready for its first step."""

    model: trainer.Trainer
    copies: ensemble.Ensemble  # of this process
    data: CaptionedImages  # of all splits
    splits: list[np.ndarray]  # indices of the images of each split
    duplicated: list[str]  # keys of images that are, or under nodup would be, duplicated
    held_out: dict[str, list[str]]  # prompts of the images of --holdout, which are never drawn
    aside: ImageSet  # these images
    per_step: int  # images of an optimizer step of a copy
    # {network: fingerprint of its weights before training, as versions before 0.3 made it;
    # <network>_content: of all its values}
    identity: dict[str, str]
    classes: ClassData | None = None  # class images, which are drawn beside the training images

    @property
    def plan(self) -> ensemble.EnsemblePlan:
        """How long each copy trains."""
        return self.copies.plan

    @property
    def beside(self) -> dict[str, CaptionedImages]:
        """{name: images} that are drawn beside the training images."""
        return {} if self.classes is None else {CLASS_IMAGES: self.classes.data}

    @property
    def is_ensemble(self) -> bool:
        """Whether there are several copies, or several rounds."""
        return self.plan.splits > 1 or self.plan.rounds > 1


def loop_settings(opts: TrainOptions) -> training_loop.LoopSettings:
    """What the loop does beside the steps."""
    return training_loop.LoopSettings(
        every=due.Intervals(
            rows=opts.log_steps,
            previews=opts.save_steps,
            checkpoints=opts.modelsavesteps,
            ensemble_checkpoints=opts.modelsaverounds,
            states=opts.state_steps or opts.modelsavesteps,
        ),
        previews=training_loop.PreviewSettings(
            count=opts.sample_batch_size,
            seed=opts.generation_seed,
            side=opts.resolution,
            own=opts.validation_prompt,
        ),
        states_kept=opts.checkpoints_total_limit,
        batch_size=opts.train_batch_size,
        workers=opts.num_workers,
    )


def _plan(
    opts: TrainOptions, splits: list[np.ndarray], *, per_step: int, teams: int
) -> ensemble.EnsemblePlan:
    longest = max(len(part) for part in splits)
    steps = opts.max_train_steps or opts.num_train_epochs * math.ceil(longest / per_step)
    return ensemble.EnsemblePlan(
        sizes=tuple(len(part) for part in splits),
        rounds=opts.total_round,
        steps=steps,
        teams=teams,
    )


def prepare(
    opts: TrainOptions,
    data: TrainingInputs,
    accelerator: Accelerator,
    seed: int,
    classes: ClassData | None = None,
) -> PreparedRun:
    """Load the model and plan the run. classes: the class images of prior preservation."""
    team = parallel.team(accelerator, opts.clients_num)
    base, identity = model_job.load_parts(
        opts, data.images, seed, parallel.Processes(accelerator).say
    )
    data, aside = data_job.without_held_out(opts, data, seed)
    captioned, duplicated, hooks = _hooks_and_data_for(opts, data, base, seed)
    splits = data_job.splits_of(opts, captioned, seed)
    per_step = opts.train_batch_size * team.size * opts.gradient_accumulation_steps
    plan = _plan(opts, splits, per_step=per_step, teams=team.count)
    model = model_job.trainer_of(
        opts,
        base,
        accelerator,
        team,
        hooks=hooks,
        seed=seed,
        images=len(captioned.images),
        optimised=model_job.optimisation_of(opts, per_step=per_step, steps=plan.steps),
    )
    draws = data_job.draws_of(opts, captioned, splits, hooks, team=team, seed=seed, classes=classes)
    return PreparedRun(
        model=model,
        copies=_copies(opts, model, plan, draws, captioned, splits),
        data=captioned,
        splits=splits,
        duplicated=duplicated,
        held_out=data_job.prompts_of(opts, aside, data, base.tokenizer, seed),
        aside=aside,
        per_step=per_step,
        identity=identity,
        classes=classes,
    )


def _copies(opts, model, plan, draws, captioned, splits):
    moving = data_job.resharding_of(opts, captioned, splits)
    return ensemble.Ensemble(model, plan, draws, moving)


def _hooks_and_data_for(opts, data, base, seed):
    """`hooks_and_data` for a loaded model, Parts."""
    return data_job.hooks_and_data(
        opts,
        data,
        base.tokenizer,
        seed,
        window=model_job.window_for(base, opts.max_sequence_length),
        corrects_bank=steps.of(base).corrects_bank,
    )


# Before the first step ----------------------------------------------------------------------------


def require_host_memory(job: PreparedRun, say: Callable[[str], None]) -> None:
    """Print what waiting copies need in host memory and what is free; UsageError when it is not
    enough."""
    import psutil

    here = int(os.environ.get("LOCAL_WORLD_SIZE", 1))  # processes that share this machine's memory
    need, free = here * job.copies.host_bytes(), psutil.virtual_memory().available
    if not need:
        return
    needed, available = encode_ahead.gib(need), encode_ahead.gib(free)
    say(
        f"{job.plan.turns} copies take turns; those that wait need {needed} of host memory,"
        f" {available} are free"
    )
    if need > free:
        raise UsageError(
            f"--clients_num={job.plan.splits}: waiting copies need {needed} of host memory,"
            f" {available} are free; use fewer copies, or more processes"
        )


def encode(job: PreparedRun, opts: TrainOptions, folder: Path, processes: Processes) -> list[str]:
    """Compute the outputs of the frozen networks ahead (--cache_latents auto) into `folder`.
    Returns: what is cached, see encode_ahead."""
    if opts.cache_latents == "off" or job.model.frozen.vae is None:
        return []
    return encode_ahead.encode_ahead(
        job, folder, processes, views=data_job.views_of(opts), workers=opts.num_workers
    )
