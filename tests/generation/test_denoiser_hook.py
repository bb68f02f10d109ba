import dataclasses

import diffusers
import numpy as np
import pytest
import torch

from tests.pipelines import MINIATURES, embed, miniature
from utils.generation import denoiser_hook, guidance, mitigations, sampling
from utils.generation.sampling import Prompt
from utils.models import families, schedulers


def generated(pipeline, *steer, scale=3.0, steps=3, count=2):
    """Images of `count` prompts with hooks at the denoiser's output; each of `steer`: (scale) ->
    hook."""
    hooks = mitigations.SampleHooks(
        tuple(mitigations.Mitigation("x", "--x", steer=s) for s in steer)
    )
    prompts = [Prompt(f"a red circle {n}") for n in range(count)]
    jobs = list(sampling.image_jobs(prompts, hooks, images_per_prompt=1, seed=1))
    negative = "blue" if type(pipeline).__name__ == "FluxPipeline" else None
    settings = sampling.SampleSettings(
        steps=steps, guidance=scale, side=16, negative_prompt=negative
    )
    images = sampling.generate(
        pipeline, jobs, settings=settings, hooks=hooks, batch_size=count, device="cpu"
    )
    return [np.asarray(m.image, float) for m in images]


def same(a, b, bound=0.0):
    return all(np.abs(x - y).max() <= bound for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("name", MINIATURES)
def test_a_hook_sees_every_step_and_changes_nothing_unless_it_does(name):
    pipeline, seen = miniature(name), []
    plain = generated(pipeline)
    watched = generated(pipeline, lambda scale: lambda p: seen.append(p) or p)
    assert same(plain, watched)
    assert [p.timestep for p in seen] == pytest.approx(pipeline.scheduler.timesteps.tolist())
    assert len(seen) == 3
    for p in seen:
        assert p.conditional.shape == p.unconditional.shape == p.latents.shape
        assert len(p.latents) == 2
        assert not torch.equal(p.conditional, p.unconditional)
    assert all(p.flow == (name in ("SD 3", "Flux")) for p in seen)
    assert not pipeline.scheduler.__dict__.get("step")
    assert same(plain, generated(pipeline))  # nothing is left behind


@pytest.mark.parametrize("name", MINIATURES)
def test_both_predictions_can_be_replaced(name):
    """The guided prediction in both branches is the pipeline's own guidance at that scale."""
    pipeline = miniature(name)
    expected = generated(pipeline, scale=3.0)
    actual = generated(pipeline, lambda scale: lambda p: guidance.guided(p, 3.0), scale=9.0)
    assert same(expected, actual, 1)
    assert not same(expected, generated(pipeline, scale=9.0), 1)
    conditional = generated(
        pipeline,
        lambda scale: lambda p: dataclasses.replace(p, unconditional=p.conditional),
        scale=9.0,
    )
    assert same(
        conditional,
        generated(pipeline, lambda scale: lambda p: guidance.guided(p, 1.0), scale=9.0),
        1,
    )


@pytest.mark.parametrize("name", MINIATURES)
def test_latents_can_be_replaced(name):
    """Halved before the last step: what the scheduler steps from. The others do not show in a
    constant prediction."""
    pipeline = miniature(name)
    plain = generated(pipeline, steps=1)
    halved = generated(
        pipeline, lambda scale: lambda p: dataclasses.replace(p, latents=p.latents / 2), steps=1
    )
    assert not same(plain, halved, 5)
    again = generated(
        pipeline, lambda scale: lambda p: dataclasses.replace(p, latents=p.latents.clone()), steps=1
    )
    assert same(plain, again)


@pytest.mark.parametrize("scheduler", ["DDIM", "EulerDiscrete"])
def test_everything_a_hook_replaces_agrees_with_a_loop_written_by_hand(micro_parts, scheduler):
    """Latents scaled, timestep moved and both predictions changed at every step, on a scheduler
    that scales the denoiser's input and on one that does not."""
    parts = micro_parts()
    pipeline = parts.assemble()
    pipeline.scheduler = getattr(diffusers, f"{scheduler}Scheduler").from_config(
        parts.scheduler.config
    )
    moved = 40 if scheduler == "DDIM" else 0  # Euler finds its place by counting

    def steer(scale):
        return lambda p: dataclasses.replace(
            p,
            latents=0.9 * p.latents,
            timestep=p.timestep - moved,
            conditional=0.8 * p.conditional,
            unconditional=0.7 * p.unconditional + 0.01 * p.latents,
        )

    actual = generated(pipeline, steer, count=1)[0]
    with torch.no_grad():
        e = embed(parts, ["a red circle 0", ""])
        job = next(
            sampling.image_jobs(
                [Prompt("x")], mitigations.SampleHooks(), images_per_prompt=1, seed=1
            )
        )
        by_hand = getattr(diffusers, f"{scheduler}Scheduler").from_config(parts.scheduler.config)
        by_hand.set_timesteps(3)
        x = (
            torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(job.seed))
            * by_hand.init_noise_sigma
        )
        for t in by_hand.timesteps:
            inputs = by_hand.scale_model_input(x, t)
            c, u = parts.denoiser(
                inputs.repeat(2, 1, 1, 1), t, encoder_hidden_states=e
            ).sample.chunk(2)
            c, u = 0.8 * c, 0.7 * u + 0.01 * x
            x = by_hand.step(u + 3.0 * (c - u), t - moved, 0.9 * x).prev_sample
        image = parts.vae.decode(x / parts.vae.config.scaling_factor).sample[0]
    expected = ((image / 2 + 0.5).clamp(0, 1) * 255).round().permute(1, 2, 0).numpy()
    assert np.abs(actual - expected).max() <= 1


@pytest.mark.parametrize("name", ["EulerDiscrete", "PNDM"])
def test_a_timestep_cannot_be_replaced_where_the_scheduler_counts_its_steps(micro_parts, name):
    pipeline = micro_parts().assemble()
    schedulers.use_scheduler(pipeline, name)
    with pytest.raises(
        TypeError, match=f"{name}Scheduler counts its steps; a hook cannot replace its timestep"
    ):
        generated(pipeline, lambda scale: lambda p: dataclasses.replace(p, timestep=p.timestep - 1))


def test_without_an_unconditional_branch_the_hook_gets_one_prediction(micro_parts):
    seen = []
    plain = generated(micro_parts().assemble(), scale=1.0)
    watched = generated(
        micro_parts().assemble(),
        lambda scale: lambda p: seen.append(p.unconditional) or p,
        scale=1.0,
    )
    assert same(plain, watched)
    assert seen == [None] * 3


def test_differences_of_noise_by_hand():
    """Velocity, flow and clean image of the same two noises and clean images: the factor gives back
    the noise's difference."""
    ddim = diffusers.DDIMScheduler(prediction_type="v_prediction")
    t = 700
    a, s = float(ddim.alphas_cumprod[t]) ** 0.5, float(1 - ddim.alphas_cumprod[t]) ** 0.5
    x, noise = torch.randn(5), torch.randn(2, 5)
    clean = (x - s * noise) / a  # one noisy x, two opinions on what is in it
    velocity = a * noise - s * clean
    difference = noise[0] - noise[1]
    torch.testing.assert_close(
        denoiser_hook.noise_factor(ddim, t) * (velocity[0] - velocity[1]), difference
    )
    sample = diffusers.DDIMScheduler(prediction_type="sample")
    torch.testing.assert_close(
        denoiser_hook.noise_factor(sample, t) * (clean[0] - clean[1]),
        difference,
        rtol=1e-4,
        atol=1e-4,
    )
    assert denoiser_hook.noise_factor(diffusers.DDIMScheduler(), t) == 1
    flow = diffusers.FlowMatchEulerDiscreteScheduler()
    clean = (x - 0.7 * noise) / 0.3
    factor = denoiser_hook.noise_factor(flow, 700.0)
    torch.testing.assert_close(factor * ((noise - clean)[0] - (noise - clean)[1]), difference)
    between = denoiser_hook.noise_factor(ddim, 700.5) ** 2
    assert between == pytest.approx(float(ddim.alphas_cumprod[700] + ddim.alphas_cumprod[701]) / 2)


def test_an_error_in_the_pipeline_leaves_no_hook(micro_parts):
    pipeline = micro_parts().assemble()

    def fails(prediction):
        raise RuntimeError("no")

    with (
        pytest.raises(RuntimeError, match="no"),
        denoiser_hook.steered(pipeline, families.family_of(pipeline), fails, guided=True),
    ):
        pipeline(prompt="x", num_inference_steps=1, height=16, width=16)
    assert not pipeline.unet._forward_hooks
    assert "step" not in pipeline.scheduler.__dict__
    assert pipeline(prompt="x", num_inference_steps=1, height=16, width=16).images
