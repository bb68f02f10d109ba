import diffusers
import numpy as np
import pytest

from tests.pipelines import miniature
from utils.generation import mitigations, sampling
from utils.generation.sampling import Prompt
from utils.models import families, pipeline_files, schedulers
from utils.runtime.errors import UsageError


@pytest.mark.parametrize("name", ["SD 1", "SD 3"])
def test_every_accepted_scheduler_makes_the_same_image_in_batches_of_1_3_and_8(name):
    pipeline = miniature(name)
    hooks = mitigations.SampleHooks()
    jobs = list(
        sampling.image_jobs([Prompt("a red circle")] * 8, hooks, images_per_prompt=1, seed=1)
    )
    settings = sampling.SampleSettings(steps=4, side=16, guidance=3.0)
    config, plain = pipeline.scheduler.config, {}
    for scheduler in families.family_of(pipeline).schedulers:
        pipeline.scheduler = getattr(diffusers, f"{scheduler}Scheduler").from_config(config)
        one, three, eight = (
            [
                np.asarray(m.image, float)
                for m in sampling.generate(
                    pipeline, jobs, settings=settings, hooks=hooks, batch_size=size, device="cpu"
                )
            ]
            for size in (1, 3, 8)
        )
        assert max(np.abs(a - b).mean() for a, b in zip(one, three, strict=True)) < 0.5, scheduler
        assert max(np.abs(a - b).mean() for a, b in zip(one, eight, strict=True)) < 0.5, scheduler
        assert np.abs(one[0] - one[1]).mean() > 5, scheduler
        plain[scheduler] = eight


def test_schedulers_by_name():
    pipeline = miniature("SD 1")
    schedulers.use_scheduler(pipeline, "DPMSolverMultistep")
    assert type(pipeline.scheduler).__name__ == "DPMSolverMultistepScheduler"
    assert pipeline.scheduler.config.beta_schedule == "scaled_linear"
    for name, message in (
        ("Fast", "--scheduler='Fast' is unknown; choose one of: .*DDIM"),
        ("EDMEuler", "--scheduler='EDMEuler' is unknown"),
        (
            "DPMSolverSDE",
            "--scheduler='DPMSolverSDE' draws noise without the image's own generator",
        ),
        ("FlowMatchEulerDiscrete", "is unknown"),
    ):
        with pytest.raises(UsageError, match=message):
            schedulers.require_scheduler("--scheduler", name, "StableDiffusionPipeline")
    with pytest.raises(
        UsageError, match="--scheduler='DDIM' is unknown; choose one of: FlowMatchEulerDiscrete"
    ):
        schedulers.require_scheduler("--scheduler", "DDIM", "FluxPipeline")


def configs(own, **scheduler):
    return pipeline_files.Configs(
        {"scheduler": ["diffusers", f"{own}Scheduler"]}, {}, {}, scheduler
    )


def test_a_scheduler_is_planned_without_weights():
    def planned(given, own="DDIM", steps=50, name="StableDiffusionPipeline", **config):
        return schedulers.plan_scheduler(name, given, configs(own, **config), steps)

    assert planned(None) == ("DDIM", 1, 981.0)
    assert planned("HeunDiscrete")[:2] == ("HeunDiscrete", 2)
    assert planned(None, own="FlowMatchEulerDiscrete", name="FluxPipeline") == (
        "FlowMatchEulerDiscrete",
        1,
        None,
    )
    with pytest.raises(
        UsageError, match="own scheduler .*--scheduler names another.*'EDMEuler' is unknown"
    ):
        planned(None, own="EDMEuler")
    with pytest.raises(UsageError, match="'FlowMatchEulerDiscrete' samples stochastically"):
        planned(None, own="FlowMatchEulerDiscrete", name="FluxPipeline", stochastic_sampling=True)
    with pytest.raises(
        UsageError,
        match="--scheduler='SASolver' does not fit the settings of the pipeline's DPMSolver",
    ):
        planned("SASolver", own="DPMSolverMultistep", algorithm_type="dpmsolver++")


@pytest.mark.parametrize(
    ("given", "steps"),
    [
        ("LCM", 60),
        ("DDIM", 1001),
        ("DDIM", 1000),
        ("DDPM", 1000),
        ("PNDM", 1001),
        ("DPMSolverMultistep", 1000),
    ],
)
def test_more_steps_than_a_scheduler_can_run_are_refused(given, steps):
    """Past them some fail at their first step and others repeat one timestep over and over."""
    with pytest.raises(
        UsageError,
        match=f"--num_inference_steps={steps} is too many for {given} over 1000 timesteps",
    ):
        schedulers.plan_scheduler(
            "StableDiffusionPipeline", given, configs("DDIM", timestep_spacing="leading"), steps
        )


def test_pndm_runs_as_stable_diffusion_runs_it():
    pipeline = miniature("SD 1")
    schedulers.use_scheduler(pipeline, "PNDM")
    assert pipeline.scheduler.config.skip_prk_steps
