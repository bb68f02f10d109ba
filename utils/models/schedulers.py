"""The diffusers scheduler of a pipeline: which names are accepted, how many steps it can run, and
how it is replaced."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from utils.models import plain_schedules
from utils.models.families import FAMILIES
from utils.models.pipeline_files import Configs
from utils.runtime.errors import UsageError, choose

UNSEEDED = ("DPMSolverSDE", "CosineDPMSolverMultistep")


class ScheduledSteps(NamedTuple):
    """A scheduler that was checked without weights."""

    name: str  # without the word Scheduler
    order: int  # evaluations of the denoiser per step
    first_timestep: float | None  # None where it depends on the size of the image


def require_scheduler(flag: str, name: str, pipeline_class: str) -> type:
    """The diffusers class of a scheduler; UsageError as of `_require_name`. name: without the word
    Scheduler."""
    import diffusers

    # diffusers imports a scheduler when it is asked for: only the one that is needed
    return getattr(diffusers, _require_name(flag, name, pipeline_class))


def _require_name(flag: str, name: str, pipeline_class: str) -> str:
    """The name of the diffusers class of a scheduler; UsageError if the pipeline cannot use it, or
    if its noise does not come from each image's own generator."""
    if name in UNSEEDED:
        raise UsageError(
            f"{flag}={name!r} draws noise without the image's own generator; use another scheduler"
        )
    accepted = {n: f"{n}Scheduler" for n in FAMILIES[pipeline_class].schedulers}
    return choose(flag, name, accepted)


def _built(scheduler: Any, config: dict, settings: dict) -> Any:
    """The scheduler of a configuration. settings: of its own, that replace those of the
    configuration."""
    if scheduler.__name__ == "PNDMScheduler":
        # as Stable Diffusion runs it: without the Runge-Kutta steps at the start, which evaluate
        # the denoiser four times each
        return scheduler.from_config(config, skip_prk_steps=True)
    return scheduler.from_config(config, **settings)


def _settings(pipeline_class: str, name: str, own: str) -> dict:
    """The settings that a family gives to a scheduler in the place of the pipeline's own."""
    return {} if name == own else FAMILIES[pipeline_class].scheduler_settings.get(name, {})


def plan_scheduler(name: str, given: str | None, configs: Configs, steps: int) -> ScheduledSteps:
    """The scheduler of a pipeline, checked without weights. UsageError for one that is not
    accepted, does not fit the pipeline's configuration or cannot run so many steps.

    name: class of the pipeline.
    given: value of --scheduler; None is the pipeline's own.
    steps: number of denoising steps.
    """
    own = configs.index["scheduler"][1].removesuffix("Scheduler")
    flag = "--scheduler" if given else "the pipeline's own scheduler (--scheduler names another)"
    chosen = given or own
    _require_name(flag, chosen, name)
    if configs.scheduler.get("stochastic_sampling") and chosen == own:
        raise UsageError(
            f"{flag}={own!r} samples stochastically, with noise that these pipelines do not draw"
            " from the image's own generator; use a scheduler_config.json with stochastic_sampling"
            " false"
        )
    family = FAMILIES[name]
    if family.flow:
        return ScheduledSteps(chosen, 1, None)  # all of scheduler_names.FLOW_MATCHING have order 1
    config = dict(configs.scheduler)
    if family.steps_offset is not None:
        config["steps_offset"] = family.steps_offset
    settings = _settings(name, chosen, own)
    if plain_schedules.is_plain(chosen, config | settings):
        plain = _Plain(chosen, config | settings)
        return ScheduledSteps(chosen, 1, _first_timestep(plain, plain.most, chosen, steps))
    scheduler: Any = require_scheduler(flag, chosen, name)
    try:
        built = _built(scheduler, config, settings)
    except (ValueError, NotImplementedError) as error:
        raise UsageError(
            f"{flag}={chosen!r} does not fit the settings of the pipeline's {own}: {error}"
        ) from None
    most = built.config.num_train_timesteps
    return ScheduledSteps(chosen, scheduler.order, _first_timestep(built, most, chosen, steps))


class _Plain:
    """Stands for a scheduler whose timesteps are known without diffusers."""

    def __init__(self, name: str, config: dict):
        self.name, self.config = name, config
        self.most = config.get("num_train_timesteps", 1000)
        self.timesteps = np.empty(0)

    def set_timesteps(self, steps: int) -> None:
        if self.name == "DDIM" and steps > self.most:
            raise ValueError(steps)  # as diffusers does
        self.timesteps = plain_schedules.timesteps(self.name, self.config, steps)


def _first_timestep(scheduler: Any, most: int, name: str, steps: int) -> float:
    """The timestep at which denoising starts; UsageError if the scheduler cannot run `steps`.
    most: timesteps that it was trained on."""
    try:
        scheduler.set_timesteps(steps)
        times = scheduler.timesteps
        fits = float(times.max()) < most and (steps == 1 or times.max() > times.min())
    except (ValueError, IndexError, ZeroDivisionError):
        fits = False
    if not fits:
        raise UsageError(
            f"--num_inference_steps={steps} is too many for {name} over {most} timesteps; use fewer"
        )
    return float(times[0])


def use_scheduler(pipeline: Any, name: str) -> None:
    """Replace the pipeline's scheduler by another one with the same betas and prediction type.

    name: without the word Scheduler; the name of its own scheduler changes nothing.
    """
    own = type(pipeline.scheduler).__name__.removesuffix("Scheduler")
    if name != own:
        family = type(pipeline).__name__
        scheduler = require_scheduler("--scheduler", name, family)
        settings = _settings(family, name, own)
        pipeline.scheduler = _built(scheduler, pipeline.scheduler.config, settings)
