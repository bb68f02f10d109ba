import sys

import diffusers
import numpy as np
import pytest

from tests.pipelines import miniature
from utils.generation import mitigations, sampling
from utils.generation.sampling import Prompt
from utils.models import (
    families,
    pipeline_files,
    plain_schedules,
    scheduler_names,
    schedulers,
)
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


PLAIN = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}


@pytest.mark.parametrize("name", plain_schedules.PLAIN)
@pytest.mark.parametrize("spacing", [*plain_schedules.SPACINGS, None])
@pytest.mark.parametrize("most", [1000, 50])
def test_timesteps_that_are_known_are_those_of_diffusers(name, spacing, most):
    config = PLAIN | {"num_train_timesteps": most, "steps_offset": 1}
    config |= {} if spacing is None else {"timestep_spacing": spacing}
    assert plain_schedules.is_plain(name, config)
    for steps in (1, 2, 3, 7, 20, 30, 49):
        scheduler = getattr(diffusers, f"{name}Scheduler").from_config(config)
        if name == "PNDM":
            scheduler.register_to_config(skip_prk_steps=True)
        scheduler.set_timesteps(steps)
        found = plain_schedules.timesteps(name, config, steps)
        theirs = list(dict.fromkeys(scheduler.timesteps.tolist()))  # PNDM runs one twice
        assert np.allclose(list(dict.fromkeys(found.tolist())), theirs, rtol=1e-6)


@pytest.mark.parametrize("name", plain_schedules.PLAIN)
@pytest.mark.parametrize("steps", [1, 20, 999, 1000, 1001])
@pytest.mark.parametrize("spacing", plain_schedules.SPACINGS)
def test_a_plan_without_diffusers_is_that_of_diffusers(name, steps, spacing, monkeypatch):
    def planned():
        try:
            return schedulers.plan_scheduler(
                "StableDiffusionPipeline",
                name,
                configs("DDIM", timestep_spacing=spacing, **PLAIN),
                steps,
            )
        except UsageError as error:
            return str(error)

    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "diffusers", None)  # an import of it raises
        known = planned()
    monkeypatch.setattr(plain_schedules, "is_plain", lambda name, config: False)
    assert known == planned()


@pytest.mark.parametrize(
    "changed",
    [
        {"use_karras_sigmas": True},
        {"timestep_spacing": "else"},
        {"rescale_betas_zero_snr": True},
        {"beta_schedule": "squaredcos_cap_v2"},
        {"new_setting": 1},
        {"steps_offset": "1"},
    ],
)
def test_settings_that_are_not_plain_are_left_to_diffusers(changed):
    assert plain_schedules.is_plain("DPMSolverMultistep", PLAIN)
    assert not plain_schedules.is_plain("DPMSolverMultistep", PLAIN | changed)
    assert not plain_schedules.is_plain("UniPCMultistep", PLAIN)


def test_flow_matching_schedulers_have_one_evaluation_a_step():
    for name in scheduler_names.FLOW_MATCHING:
        assert getattr(diffusers, f"{name}Scheduler").order == 1
    for name in plain_schedules.PLAIN:
        assert getattr(diffusers, f"{name}Scheduler").order == 1
