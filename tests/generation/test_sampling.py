import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

from tests.pipelines import embed
from utils.data.caption_edits import RandomTokens
from utils.data.encoder_window import too_long
from utils.generation import mitigations, sampling
from utils.generation.sampling import Prompt

PROMPTS = [Prompt("a red circle", "a.png"), Prompt("two"), Prompt("three words here")]


@pytest.fixture
def pipeline(micro_parts):
    return micro_parts().assemble()


def jobs(prompts=PROMPTS, *, seed=1, per=2, edit=None, noise=0.0, tokenizer=None):
    values = {
        "rand_noise_lam": noise,
        "rand_augs": edit,
        "rand_aug_repeats": 2,
        "cfg_start": None,
        "cfg_before": 0.0,
    }
    hooks = mitigations.SampleHooks(
        mitigations.chosen(values), tokenizer and RandomTokens(tokenizer)
    )
    return list(sampling.image_jobs(prompts, hooks, images_per_prompt=per, seed=seed)), hooks


def pixels(pipeline, jobs_and_hooks, *, batch_size=4, steps=3, guidance=7.5):
    listed, hooks = jobs_and_hooks
    settings = sampling.SampleSettings(steps=steps, guidance=guidance, side=16)
    images = sampling.generate(
        pipeline, listed, settings=settings, hooks=hooks, batch_size=batch_size, device="cpu"
    )
    return [np.asarray(each.image, float) for each in images]


def test_image_i_belongs_to_prompt_i_div_imb():
    listed, _ = jobs()
    assert [j.index for j in listed] == list(range(6))
    assert [j.source_prompt for j in listed] == ["a red circle"] * 2 + ["two"] * 2 + [
        "three words here"
    ] * 2
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
    batches = [pixels(pipeline, jobs(noise=noise), batch_size=b) for b in (1, 4, 6)]
    for one, four, six in zip(*batches, strict=True):
        assert np.abs(one - four).mean() < 0.5
        assert np.abs(one - six).mean() < 0.5
    assert np.abs(batches[0][0] - batches[0][1]).mean() > 5  # and two images of a prompt differ


def test_an_image_agrees_with_a_loop_written_by_hand(pipeline, micro_parts):
    """Classifier-free guidance over the DDIM steps, one image, nothing of the pipeline's
    __call__."""
    listed, hooks = jobs(PROMPTS[:1], per=1)
    ours = pixels(pipeline, (listed, hooks), guidance=3.0)[0]
    parts, scheduler = micro_parts(), pipeline.scheduler
    with torch.no_grad():
        e = embed(parts, ["a red circle", ""])
        x = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(listed[0].seed))
        scheduler.set_timesteps(3)
        for t in scheduler.timesteps:
            conditional, unconditional = parts.denoiser(
                x.repeat(2, 1, 1, 1), t, encoder_hidden_states=e
            ).sample
            guided = unconditional + 3.0 * (conditional - unconditional)
            x = scheduler.step(guided[None], t, x).prev_sample
        image = parts.vae.decode(x / parts.vae.config.scaling_factor).sample
    expected = ((image[0] / 2 + 0.5).clamp(0, 1) * 255).round().permute(1, 2, 0).numpy()
    assert np.abs(ours - expected).max() <= 1


def test_noise_is_each_images_and_each_branchs_own(pipeline, monkeypatch):
    """Seen where the network gets it: three images, so three unconditional embeddings and then
    three conditional ones."""
    seen = []
    forward = pipeline.unet.forward

    def spy(sample, t, encoder_hidden_states, **kwargs):
        seen.append(encoder_hidden_states.clone())
        return forward(sample, t, encoder_hidden_states=encoder_hidden_states, **kwargs)

    plain = pixels(pipeline, jobs(per=1), steps=1)
    monkeypatch.setattr(pipeline.unet, "forward", spy)
    noisy = pixels(pipeline, jobs(per=1, noise=0.8), steps=1)
    pixels(pipeline, jobs(per=1), steps=1)
    pixels(pipeline, jobs(PROMPTS[:1], per=1, noise=0.8), steps=1)
    # a random U-Net listens little to its text; that the image moves at all is the point here
    assert not any(np.array_equal(a, b) for a, b in zip(plain, noisy, strict=True))
    moved = (seen[0] - seen[1]).flatten(1)
    assert len(moved) == 6
    assert all(abs(m - 0.8) < 0.1 for m in moved.std(1))
    between = np.corrcoef(moved) - np.eye(6)
    assert np.abs(between).max() < 0.2
    torch.testing.assert_close(seen[2][[0, 1]], seen[0][[0, 3]])  # the first image alone


def test_without_guidance_there_is_no_unconditional_branch(pipeline):
    plain, guided = (pixels(pipeline, jobs(per=1), guidance=g)[0] for g in (1.0, 7.5))
    assert np.abs(plain - guided).mean() > 0.5


def test_a_prompt_is_embedded_once_and_the_unconditional_branch_once_a_run(pipeline, monkeypatch):
    calls = []
    encode = pipeline.encode_prompt

    def spy(*args, **kwargs):
        # the pipeline itself asks with embeddings at hand
        calls.append((tuple(args[0]), args[3]) if args and args[0] else None)
        return encode(*args, **kwargs)

    monkeypatch.setattr(pipeline, "encode_prompt", spy)
    # one prompt comes back after others, as draws with replacement do
    listed, hooks = jobs([*PROMPTS, PROMPTS[0]], per=3)
    pixels(pipeline, (listed, hooks), batch_size=2)
    asked = list(filter(None, calls))
    assert [guided for _, guided in asked].count(True) == 1
    texts = [text for prompts, guided in asked for text in prompts if not guided]
    assert sorted(texts) == ["a red circle", "three words here", "two"]


def test_embeddings_kept_are_bounded(pipeline):
    row = 4 * 32 * 16  # bytes of one prompt
    embedder = sampling.Embedder(pipeline, device="cpu", keep_bytes=2 * row)
    first = embedder(["a", "b", "c"])["prompt_embeds"]
    assert first.shape == (3, 32, 16)
    assert list(embedder._known) == ["b", "c"]
    embedder(["b", "d"])
    assert list(embedder._known) == ["b", "d"]
    torch.testing.assert_close(embedder(["c", "a", "c"])["prompt_embeds"], first[[2, 0, 2]])


def test_prompts_of_which_the_end_is_lost_are_counted_once_and_quietly(pipeline, caplog):
    fits, longer = "a" * 30, "b" * 31  # a letter is a token; the length is 32 with both ends
    window = sampling.window_of(pipeline)
    assert window.limit == 32
    assert too_long(window, [fits, longer, longer]) == [longer]
    pixels(pipeline, jobs([Prompt(longer)], per=1), steps=1)
    assert not caplog.records


def test_a_compiled_denoiser_makes_the_same_image_and_hooks_stay_outside(pipeline, monkeypatch):
    plain = pixels(pipeline, jobs(per=1), steps=2)
    compiled = []
    monkeypatch.setattr(
        torch, "compile", lambda function: lambda *a, **k: compiled.append(1) or function(*a, **k)
    )
    sampling.compile_denoiser(pipeline)
    assert all(
        np.array_equal(a, b)
        for a, b in zip(plain, pixels(pipeline, jobs(per=1), steps=2), strict=True)
    )
    assert len(compiled) == 2


def test_images_are_pillow_rgb_of_the_asked_side(pipeline):
    listed, hooks = jobs(per=1)
    settings = sampling.SampleSettings(steps=1, side=24)
    generated = next(
        sampling.generate(
            pipeline, listed, settings=settings, hooks=hooks, batch_size=2, device="cpu"
        )
    )
    assert (generated.job, generated.image.size, generated.image.mode, generated.notes) == (
        listed[0],
        (24, 24),
        "RGB",
        {},
    )
    assert isinstance(generated.image, Image.Image)


def test_records_do_not_change():
    job = sampling.ImageJob(0, 1, "a", "b")
    assert job.source_image is None
    with pytest.raises(dataclasses.FrozenInstanceError):
        job.prompt = "c"
    assert dataclasses.replace(job, prompt="c").prompt == "c"
