import numpy as np
import pytest
import torch
from PIL import Image

from utils.diffusion import generation, mitigation, models
from utils.errors import UsageError
from utils.records import Prompt

PROMPTS = [Prompt("a red circle", "a.png"), Prompt("two"), Prompt("three words here")]


@pytest.fixture
def pipeline(micro_parts):
    return models.assemble(micro_parts())


def jobs(prompts=PROMPTS, *, seed=1, per=2, edit=None, noise=0.0, tokenizer=None):
    hooks = mitigation.sample_hooks(edit=edit, times=2, noise=noise, tokenizer=tokenizer)
    return generation.image_jobs(prompts, hooks, images_per_prompt=per, seed=seed), hooks


def pixels(pipeline, made, *, batch_size=4, steps=3, guidance=7.5):
    listed, hooks = made
    settings = generation.SampleSettings(steps=steps, guidance=guidance, side=16)
    images = generation.generate(pipeline, listed, settings=settings, hooks=hooks, batch_size=batch_size, device="cpu")
    return [np.asarray(image, float) for _, image in images]


def test_image_i_belongs_to_prompt_i_div_imb():
    listed, _ = jobs()
    assert [j.index for j in listed] == list(range(6))
    assert [j.source_prompt for j in listed] == ["a red circle"] * 2 + ["two"] * 2 + ["three words here"] * 2
    assert [j.source_image for j in listed] == ["a.png"] * 2 + [None] * 4
    assert len({j.seed for j in listed}) == 6
    assert all(j.seed < 2**53 for j in listed)


def test_an_edit_is_drawn_once_a_prompt_and_does_not_depend_on_their_number(micro_parts):
    tokenizer = micro_parts().tokenizer
    listed, _ = jobs(edit="rand_word_add", tokenizer=tokenizer)
    assert listed[0].prompt == listed[1].prompt != listed[0].source_prompt
    fewer, _ = jobs(PROMPTS[:2], edit="rand_word_add", tokenizer=tokenizer)
    assert fewer == listed[:4]
    assert jobs(seed=2, edit="rand_word_add", tokenizer=tokenizer)[0][0].prompt != listed[0].prompt


@pytest.mark.parametrize("noise", [0.0, 0.4])
def test_an_image_does_not_depend_on_its_batch(pipeline, noise):
    made = [pixels(pipeline, jobs(noise=noise), batch_size=b) for b in (1, 4, 6)]
    for one, four, six in zip(*made, strict=True):
        assert np.abs(one - four).mean() < 0.5
        assert np.abs(one - six).mean() < 0.5
    assert np.abs(made[0][0] - made[0][1]).mean() > 5  # and two images of a prompt differ


def test_an_image_agrees_with_a_loop_written_by_hand(pipeline, micro_parts):
    """Classifier-free guidance over the DDIM steps, one image, nothing of the pipeline's __call__."""
    listed, hooks = jobs(PROMPTS[:1], per=1)
    found = pixels(pipeline, (listed, hooks), guidance=3.0)[0]
    parts, scheduler = micro_parts(), pipeline.scheduler
    with torch.no_grad():
        e = models.embed(parts.tokenizer, parts.text_encoder, ["a red circle", ""], device="cpu")
        x = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(listed[0].seed))
        scheduler.set_timesteps(3)
        for t in scheduler.timesteps:
            conditional, unconditional = parts.unet(x.repeat(2, 1, 1, 1), t, encoder_hidden_states=e).sample
            guided = unconditional + 3.0 * (conditional - unconditional)
            x = scheduler.step(guided[None], t, x).prev_sample
        image = parts.vae.decode(x / parts.vae.config.scaling_factor).sample
    expected = ((image[0] / 2 + 0.5).clamp(0, 1) * 255).round().permute(1, 2, 0).numpy()
    assert np.abs(found - expected).max() <= 1


def test_noise_reaches_both_branches_independently_and_only_through_its_strength(pipeline):
    listed, _ = jobs(per=1)
    zero = torch.zeros(3, 32, 16)
    conditional, unconditional = (generation.noised(zero, listed, 0.5, branch) for branch in (0, 1))
    assert conditional.std().item() == pytest.approx(0.5, rel=0.1)
    correlation = np.corrcoef(conditional.flatten(), unconditional.flatten())[0, 1]
    assert abs(correlation) < 0.1
    assert not torch.equal(conditional[0], conditional[1])  # of each image's own
    assert torch.equal(generation.noised(zero[:1], listed[:1], 1.0, 0), 2 * conditional[:1])


def test_noise_changes_the_image_and_reaches_the_unconditional_embedding(pipeline, monkeypatch):
    seen = []
    forward = pipeline.unet.forward

    def spy(sample, t, encoder_hidden_states, **kwargs):
        seen.append(encoder_hidden_states.clone())
        return forward(sample, t, encoder_hidden_states=encoder_hidden_states, **kwargs)

    plain = pixels(pipeline, jobs(per=1), steps=1)
    monkeypatch.setattr(pipeline.unet, "forward", spy)
    noisy = pixels(pipeline, jobs(per=1, noise=0.8), steps=1)
    pixels(pipeline, jobs(per=1), steps=1)
    # a random U-Net listens little to its text; that the image moves at all is the point here
    assert not any(np.array_equal(a, b) for a, b in zip(plain, noisy, strict=True))
    moved = (seen[0] - seen[1]).flatten(1).std(1)  # rows: unconditional of three images, then conditional
    assert len(moved) == 6
    assert all(abs(m - 0.8) < 0.1 for m in moved)


def test_without_guidance_there_is_no_unconditional_branch(pipeline):
    plain, guided = (pixels(pipeline, jobs(per=1), guidance=g)[0] for g in (1.0, 7.5))
    assert np.abs(plain - guided).mean() > 0.5


def test_a_prompt_is_embedded_once(pipeline, monkeypatch):
    calls = []
    encode = pipeline.encode_prompt

    def spy(*args, **kwargs):
        calls.append(kwargs.get("prompt"))
        return encode(*args, **kwargs)

    monkeypatch.setattr(pipeline, "encode_prompt", spy)
    pixels(pipeline, jobs(per=3), batch_size=2)
    texts = [p for call in calls for p in call or []]  # the pipeline itself calls it without a prompt
    assert sorted(texts) == ["", "a red circle", "three words here", "two"]


def test_schedulers_by_name(pipeline):
    generation.use_scheduler(pipeline, "DPMSolverMultistep")
    assert type(pipeline.scheduler).__name__ == "DPMSolverMultistepScheduler"
    assert pipeline.scheduler.config.beta_schedule == "scaled_linear"
    with pytest.raises(UsageError, match="--scheduler='Fast' is unknown; choose one of: .*DDIM"):
        generation.require_scheduler("Fast")
    with pytest.raises(UsageError, match="--scheduler='DPMSolverSDE' draws noise without the image's own generator"):
        generation.require_scheduler("DPMSolverSDE")


def test_images_are_pillow_rgb_of_the_asked_side(pipeline):
    listed, hooks = jobs(per=1)
    settings = generation.SampleSettings(steps=1, side=24)
    job, image = next(generation.generate(pipeline, listed, settings=settings, hooks=hooks, batch_size=2, device="cpu"))
    assert (job, image.size, image.mode) == (listed[0], (24, 24), "RGB")
    assert isinstance(image, Image.Image)
