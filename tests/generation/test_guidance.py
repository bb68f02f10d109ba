import dataclasses
import itertools

import numpy as np
import pytest
import torch

from tests.pipelines import embed, miniature
from utils.generation import denoiser_hook, guidance, mitigations, sampling
from utils.generation.sampling import Prompt


def prediction(timestep, conditional, unconditional, factor=1.0):
    conditional, unconditional = (
        torch.tensor(v)[:, None, None] for v in (conditional, unconditional)
    )
    return denoiser_hook.Prediction(
        torch.zeros_like(conditional), float(timestep), conditional, unconditional, factor
    )


def test_the_guided_prediction_by_hand_stands_in_both_branches():
    replaced = guidance.guided(prediction(1, [2.0, 3.0], [1.0, 5.0]), torch.tensor([3.0, -2.0]))
    assert replaced.conditional.flatten().tolist() == [4.0, 9.0]  # 1 + 3 (2 - 1), 5 - 2 (3 - 5)
    assert torch.equal(replaced.conditional, replaced.unconditional)


def test_the_static_transition_is_passed_at_its_timestep():
    hook = guidance.StaticTransition(start=500, before=0.0)
    above, at, below = (prediction(t, [2.0], [1.0]) for t in (501, 500, 499))
    # the unconditional one
    assert hook(above).conditional.item() == hook(above).unconditional.item() == 1.0
    assert hook(at) is at
    assert hook(below) is below
    assert (
        guidance.StaticTransition(start=650, before=-2.0)(
            prediction(700, [2.0], [1.0])
        ).conditional.item()
        == -1.0
    )


def test_the_dynamic_transition_is_each_images_first_local_minimum():
    """Distances 5 3 4 2, 5 4 3 2 and 1 2 1 2: the first image's minimum is the second step, seen at
    the third; the second has none; the third's first value is no minimum, for nothing fell before
    it."""
    hook = guidance.DynamicTransition(scale=7.0, before=0.0)
    replaced = [
        hook(prediction(t, distances, [0.0] * 3)).conditional.flatten().tolist()
        for t, distances in (
            (900, [5.0, 5.0, 1.0]),
            (800, [3.0, 4.0, 2.0]),
            (700, [4.0, 3.0, 1.0]),
            (600, [2.0, 2.0, 2.0]),
        )
    ]
    assert replaced == [[0.0, 0.0, 0.0], [0.0, 0.0, 0.0], [28.0, 0.0, 0.0], [14.0, 0.0, 14.0]]
    assert hook.report() == [{"guided_from": 700.0}, {"guided_from": None}, {"guided_from": 600.0}]


def test_a_timestep_that_comes_twice_counts_once():
    """PNDM evaluates its second timestep twice: 5 3 4 (again at the same time) 2 has no minimum."""
    hook = guidance.DynamicTransition(scale=7.0, before=0.0)
    replaced = [
        hook(prediction(t, [d], [0.0])).conditional.item()
        for t, d in ((900, 5.0), (800, 3.0), (800, 4.0), (700, 2.0))
    ]
    assert replaced == [0.0] * 4


def test_of_a_flow_the_distance_is_its_own():
    """The noise's, (1 - t) times it, would rise here from the first step on, and fall only at the
    last."""
    hook = guidance.DynamicTransition(scale=7.0, before=0.0)
    steps = ((1000, 5.0), (800, 4.0), (500, 4.5))
    replaced = [
        hook(dataclasses.replace(prediction(t, [d], [0.0], 1 - t / 1000), flow=True))
        for t, d in steps
    ]
    assert [p.conditional.item() for p in replaced] == [0.0, 0.0, 31.5]


def test_the_distance_is_that_of_the_noise_whatever_is_predicted():
    hook = guidance.DynamicTransition(scale=7.0, before=0.0)
    # the velocity's distance falls throughout, the noise's is 0.6, 0.5, 0.8
    steps = ((950, 6.0, 0.1), (900, 5.0, 0.1), (800, 4.0, 0.2))
    replaced = [
        hook(prediction(t, [d], [0.0], factor)).conditional.item() for t, d, factor in steps
    ]
    assert replaced == [0.0, 0.0, 28.0]


def loop(parts, scheduler, text, seed, choose, *, scale, steps):
    """Guidance over the DDIM steps written by hand, one image; choose(list of (c, u, alpha_bar) so
    far, t) -> its scale."""
    with torch.no_grad():
        e = embed(parts, [text, ""])
        x = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(seed))
        scheduler.set_timesteps(steps)
        seen = []
        for t in scheduler.timesteps:
            c, u = parts.denoiser(x.repeat(2, 1, 1, 1), t, encoder_hidden_states=e).sample.chunk(2)
            seen.append((c, u, float(scheduler.alphas_cumprod[int(t)])))
            x = scheduler.step(u + choose(seen, int(t)) * (c - u), t, x).prev_sample
        image = parts.vae.decode(x / parts.vae.config.scaling_factor).sample[0]
    return ((image / 2 + 0.5).clamp(0, 1) * 255).round().permute(1, 2, 0).numpy()


def ours(pipeline, prompts, *, cfg_start, cfg_before, steps):
    values = {
        "rand_noise_lam": 0.0,
        "rand_augs": None,
        "rand_aug_repeats": 2,
        "cfg_start": cfg_start,
        "cfg_before": cfg_before,
    }
    hooks = mitigations.SampleHooks(mitigations.chosen(values))
    jobs = list(sampling.image_jobs(prompts, hooks, images_per_prompt=1, seed=1))
    settings = sampling.SampleSettings(steps=steps, guidance=6.0, side=16)
    generated = list(
        sampling.generate(
            pipeline, jobs, settings=settings, hooks=hooks, batch_size=8, device="cpu"
        )
    )
    return jobs, [np.asarray(m.image, float) for m in generated], [m.notes for m in generated]


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
@pytest.mark.parametrize(("start", "before"), [(500, 0.0), (650, -2.0)])
def test_the_static_transition_agrees_with_a_loop_written_by_hand(micro_parts, kind, start, before):
    parts = micro_parts(kind)
    pipeline = parts.assemble()
    jobs, images, _ = ours(
        pipeline,
        [Prompt("a red circle"), Prompt("b")],
        cfg_start=start,
        cfg_before=before,
        steps=10,
    )
    for job, image in zip(jobs, images, strict=True):
        expected = loop(
            parts,
            pipeline.scheduler,
            job.prompt,
            job.seed,
            lambda seen, t: before if t > start else 6.0,
            scale=6.0,
            steps=10,
        )
        assert np.abs(image - expected).max() <= 1


@pytest.mark.parametrize("before", [0.0, 1.0])
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_the_dynamic_transition_agrees_with_a_loop_written_by_hand(micro_parts, kind, before):
    parts = micro_parts(kind)
    pipeline = parts.assemble()
    with torch.no_grad():  # a random text encoder says nearly the same of every prompt
        parts.encoders["text_encoder"].get_input_embeddings().weight.mul_(40)
        parts.denoiser.time_embedding.linear_1.weight.mul_(
            10
        )  # and a random U-Net of every timestep
    prompts = [Prompt(p) for p in ("a red circle", "b", "noisy field", "zebra", "quick", "1 2 3")]
    jobs, images, notes = ours(pipeline, prompts, cfg_start="auto", cfg_before=before, steps=12)
    for job, image, note in zip(jobs, images, notes, strict=True):
        began = []

        def choose(seen, t, began=began):
            factor = [a**0.5 if kind == "v_prediction" else 1.0 for *_, a in seen]
            distance = [
                f * float((c - u).norm()) for f, (c, u, _) in zip(factor, seen, strict=True)
            ]
            fell = any(later < earlier for earlier, later in itertools.pairwise(distance[:-1]))
            if not began and fell and distance[-1] > distance[-2]:
                began.append(t)
            return 6.0 if began else before

        expected = loop(
            parts, pipeline.scheduler, job.prompt, job.seed, choose, scale=6.0, steps=12
        )
        assert np.abs(image - expected).max() <= 1
        assert note == {"guided_from": float(began[0]) if began else None}
    assert len({n["guided_from"] for n in notes}) > 1  # images of one batch have their own


@pytest.mark.parametrize("name", ["SDXL", "SD 3"])
def test_before_the_transition_nothing_of_the_prompt_is_seen(name):
    """With scale 0 throughout, the image is the unconditional one: two prompts from one seed cannot
    differ."""
    pipeline = miniature(name)
    images = []
    for text in ("a red circle", "zebra"):
        _, (image,), _ = ours(pipeline, [Prompt(text)], cfg_start=0, cfg_before=0.0, steps=3)
        images.append(image)
    assert np.array_equal(*images)
