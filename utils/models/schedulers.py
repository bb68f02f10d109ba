"""Schedulers of diffusers by name: which a pipeline takes, whether one can run so many steps, and
giving it one."""

from utils.models.families import DENOISING, FAMILIES
from utils.runtime.errors import UsageError, choose

UNSEEDED = ("DPMSolverSDE", "CosineDPMSolverMultistep")


def require_scheduler(flag, name, pipeline_class):
    """The class of a scheduler, by its name without the word Scheduler; UsageError on one that the
    pipeline cannot use, or whose noise does not come from the images' own generators."""
    import diffusers

    if name in UNSEEDED:
        raise UsageError(
            f"{flag}={name!r} draws noise without the image's own generator; use another one"
        )
    accepted = FAMILIES[pipeline_class].schedulers
    return choose(flag, name, {n: getattr(diffusers, f"{n}Scheduler") for n in accepted})


def _built(made, config):
    # PNDM as Stable Diffusion runs it: without the Runge-Kutta steps at the start, of four
    # evaluations each
    return made.from_config(
        config, **({"skip_prk_steps": True} if made.__name__ == "PNDMScheduler" else {})
    )


def plan_scheduler(name, given, configs, steps):
    """The scheduler of a pipeline of class `name`: `given`, or its own; checked without weights.

    UsageError on one that is not accepted, does not fit the pipeline's configuration, or cannot run
    so many steps. Returns: (its name, evaluations of the network a step, its first timestep or None
    where that depends on the image's size)."""
    own = configs.index["scheduler"][1].removesuffix("Scheduler")
    flag = (
        "--scheduler"
        if given
        else "the pipeline's own scheduler (another one is taken with --scheduler)"
    )
    made = require_scheduler(flag, given or own, name)
    if configs.scheduler.get("stochastic_sampling") and given in (None, own):
        raise UsageError(
            f"{flag}={own!r} samples stochastically, with noise that these pipelines do not draw"
            " from the image's own generator; takes a scheduler_config.json with"
            " stochastic_sampling false"
        )
    if FAMILIES[name].schedulers != DENOISING:
        return given or own, made.order, None
    config = dict(configs.scheduler)
    if name == "StableDiffusionPipeline":
        config["steps_offset"] = 1  # as the pipeline itself sees to
    try:
        built = _built(made, config)
    except (ValueError, NotImplementedError) as error:
        raise UsageError(
            f"{flag}={given or own!r} does not fit the settings of the pipeline's {own}: {error}"
        ) from None
    most = built.config.num_train_timesteps
    try:
        built.set_timesteps(steps)
        times = built.timesteps
        fits = float(times.max()) < most and (steps == 1 or times.max() > times.min())
    except (ValueError, IndexError, ZeroDivisionError):
        fits = False
    if not fits:
        raise UsageError(
            f"--num_inference_steps={steps} is too many for {given or own} over {most} timesteps;"
            " takes fewer"
        )
    return given or own, made.order, float(times[0])


def use_scheduler(pipeline, name):
    """Give the pipeline the scheduler of that name, unless it is its own, keeping its betas and
    prediction type."""
    if name != type(pipeline.scheduler).__name__.removesuffix("Scheduler"):
        pipeline.scheduler = _built(
            require_scheduler("--scheduler", name, type(pipeline).__name__),
            pipeline.scheduler.config,
        )
