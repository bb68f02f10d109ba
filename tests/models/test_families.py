import json

import numpy as np
import pytest
import torch

from tests.pipelines import MINIATURES, flux, miniature
from utils.generation import mitigations, sampling
from utils.generation.sampling import Prompt
from utils.models import families, loading, pipeline_files
from utils.models.parts import Parts
from utils.runtime.errors import DataError, UsageError
from utils.training import steps
from utils.training.steps.base import StepSettings


def generate(pipeline, prompts, *, guidance, negative=None, steps=3, length=None):
    hooks = mitigations.SampleHooks()
    jobs = list(
        sampling.image_jobs([Prompt(p) for p in prompts], hooks, images_per_prompt=1, seed=1)
    )
    settings = sampling.SampleSettings(
        steps=steps,
        guidance=guidance,
        side=16,
        negative_prompt=negative,
        text_length=length,
    )
    images = sampling.generate(
        pipeline, jobs, settings=settings, hooks=hooks, batch_size=8, device="cpu"
    )
    return jobs, [np.asarray(m.image, float) for m in images]


@pytest.mark.parametrize("negative", [None, "", "blue star"])
@pytest.mark.parametrize("name", MINIATURES)
def test_our_batch_is_what_the_pipeline_makes_of_each_prompt_alone(name, negative):
    """Whatever a family embeds, pools, zeroes or packs: its own call with plain prompts is the
    reference."""
    pipeline = miniature(name)
    jobs, ours = generate(pipeline, ["a red circle", "b"], guidance=3.0, negative=negative)
    call = {"guidance_scale": 3.0, "negative_prompt": negative}
    if name == "Flux" and negative is not None:
        call |= {"true_cfg_scale": 3.0, "guidance_scale": 1.0}
    for job, image in zip(jobs, ours, strict=True):
        own = pipeline(
            prompt=job.prompt,
            height=16,
            width=16,
            num_inference_steps=3,
            **call,
            generator=torch.Generator().manual_seed(job.seed),
        ).images[0]
        assert np.abs(image - np.asarray(own, float)).mean() < 0.5
    assert np.abs(ours[0] - ours[1]).mean() > 5


def test_sdxl_takes_zeros_when_no_negative_prompt_is_given():
    family = families.FAMILIES["StableDiffusionXLPipeline"]
    none, empty = (family.encode_negative(miniature("SDXL"), given, "cpu") for given in (None, ""))
    assert all(float(row.abs().max()) == 0 for row in none.values())
    assert all(float(row.abs().max()) > 0 for row in empty.values())


def test_published_steps_and_scale_for_stable_diffusion_else_the_pipelines_own():
    defaults = {name: families.default_sampling(name) for name in families.FAMILIES}
    assert defaults == {
        "StableDiffusionPipeline": (50, 7.5),
        "StableDiffusionXLPipeline": (50, 7.5),
        "StableDiffusion3Pipeline": (28, 7.0),
        "FluxPipeline": (28, 3.5),
        "DDPMPipeline": (50, 1.0),
        "DDIMPipeline": (50, 1.0),
    }


def test_another_class_is_refused_by_name(tmp_path):
    (tmp_path / "model_index.json").write_text('{"_class_name": "KandinskyPipeline"}')
    with pytest.raises(
        UsageError,
        match="--modelpath='.*' is a KandinskyPipeline; use one of: StableDiffusionPipeline, ",
    ):
        families.read("--modelpath", str(tmp_path))
    with pytest.raises(
        UsageError, match="is a KandinskyPipeline; use one of: StableDiffusionPipeline$"
    ):
        families.read("--modelpath", str(tmp_path), takes=("StableDiffusionPipeline",))


def test_options_of_guidance_that_would_have_no_effect_are_refused():
    sd, with_scale, without = (
        {"time_cond_proj_dim": None},
        {"guidance_embeds": True},
        {"guidance_embeds": False},
    )

    def guided(name, config, scale, negative=None, given=True):
        return families.require_guidance(name, config, scale, negative, scale_given=given)

    assert guided("StableDiffusionPipeline", sd, 7.5)
    assert not guided("StableDiffusionPipeline", sd, 1.0)
    assert not guided("StableDiffusionPipeline", {"time_cond_proj_dim": 256}, 7.5)
    assert not guided("FluxPipeline", with_scale, 3.5)
    assert guided("FluxPipeline", without, 3.5, "")
    assert not guided("FluxPipeline", without, 3.5, given=False)
    with pytest.raises(
        UsageError,
        match="--negative_prompt='x' has no effect with --guidance_scale=1: guidance is off",
    ):
        guided("StableDiffusionPipeline", sd, 1.0, "x")
    with pytest.raises(
        UsageError, match="--guidance_scale=3.5 has no effect: this network takes no scale"
    ):
        guided("FluxPipeline", without, 3.5)


def read_by(pipeline, length=None):
    family = families.family_of(pipeline)
    return family.longest(pipeline, **family.text_arguments(pipeline, length))


def test_prompts_count_the_tokens_that_reach_the_network():
    limits = {name: read_by(miniature(name))[1] for name in MINIATURES}
    assert limits == {"SD 1": 32, "SD 2": 32, "SDXL": 32, "SD 3": 256, "Flux": 512}
    assert read_by(miniature("SD 1"), 40)[1] == 32
    assert read_by(miniature("Flux"), 40)[1] == 40
    pipeline = miniature("SD 3")
    assert read_by(pipeline, 40)[1] == 40
    pipeline.tokenizer_3 = None
    assert read_by(pipeline) == (pipeline.tokenizer, 32)
    second_alone = miniature("SDXL")
    second_alone.tokenizer = second_alone.text_encoder = None
    assert read_by(second_alone) == (second_alone.tokenizer_2, 32)
    assert flux(guidance_embeds=False).transformer.config.guidance_embeds is False


@pytest.mark.parametrize("name", ["SD 3", "Flux"])
def test_images_at_another_text_length_are_those_of_the_pipeline_at_it(name):
    pipeline = miniature(name)
    jobs, ours = generate(pipeline, ["a red circle"], guidance=3.0, negative="blue", length=20)
    call = {"true_cfg_scale": 3.0, "guidance_scale": 1.0} if name == "Flux" else {}
    own = pipeline(
        prompt=jobs[0].prompt,
        negative_prompt="blue",
        height=16,
        width=16,
        num_inference_steps=3,
        max_sequence_length=20,
        generator=torch.Generator().manual_seed(jobs[0].seed),
        **{"guidance_scale": 3.0, **call},
    ).images[0]
    assert np.abs(ours[0] - np.asarray(own, float)).mean() < 0.5
    _, usual = generate(pipeline, ["a red circle"], guidance=3.0, negative="blue")
    assert np.abs(ours[0] - usual[0]).mean() > 1


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """Folder of an SD 3 without T5 that was trained with three zero tokens in T5's place."""
    pipeline, folder = miniature("SD 3"), tmp_path_factory.mktemp("recorded")
    pipeline.register_modules(text_encoder_3=None, tokenizer_3=None)
    pipeline.register_to_config(**{families.TEXT_LENGTH: 3})
    pipeline.save_pretrained(folder)
    return folder


def test_a_pipeline_reads_as_many_tokens_as_its_folder_records_and_a_saved_one_records_them(
    recorded, tmp_path
):
    family = families.FAMILIES["StableDiffusion3Pipeline"]
    first = Parts(loading.load_pipeline("--x", str(recorded)))
    first.assemble().save_pretrained(tmp_path)  # as checkpoints are saved
    again = loading.load_pipeline("--x", str(tmp_path))
    for pipeline in (first.pipeline, again):
        settings = {"pipeline": pipeline, "device": "cpu"}
        own, asked = (sampling.Embedder(**settings, text_length=n) for n in (None, 5))
        assert own(["a"])["prompt_embeds"].shape[1] == 32 + 3
        assert asked(["a"])["prompt_embeds"].shape[1] == 32 + 5
        arguments = family.text_arguments(pipeline, None)
        negative = family.encode_negative(pipeline, None, "cpu", **arguments)
        assert negative["prompt_embeds"].shape[1] == 32 + 3
    assert steps.of(first).length == 3
    assert steps.of(first, StepSettings(5)).length == 5


def test_a_length_that_was_asked_for_and_is_the_class_s_own_is_not_the_recorded_one(
    recorded, script, tmp_path
):
    for length, setting in ((256, 256), (3, None)):
        made = tmp_path / str(length)
        script(
            "diff_inference",
            *("--pretrained_model_name_or_path", recorded, "--prompt", "a", "-imb", 1),
            *("--resolution", 16, "--num_inference_steps", 1, "--savepath", made),
            *("--max_sequence_length", length),
        )
        settings = json.loads((made / "manifest.json").read_text())["settings"]
        assert settings.get("max_sequence_length") == setting


@pytest.mark.parametrize("value", [0, "3", True, 2.0])
def test_a_recorded_length_that_is_no_count_is_refused(value):
    family = families.FAMILIES["StableDiffusion3Pipeline"]
    with pytest.raises(DataError, match=f"_max_sequence_length {value!r}; use a whole number"):
        family.own_text_length({families.TEXT_LENGTH: value})


def test_a_length_of_t5_is_refused_where_there_is_none():
    families.require_text_length("m", "FluxPipeline", 20)
    families.require_text_length("m", "StableDiffusionPipeline", None)
    with pytest.raises(UsageError, match="--max_sequence_length=20 is the number of tokens of T5"):
        families.require_text_length("m", "StableDiffusionXLPipeline", 20)


def test_the_resolution_is_checked_before_anything_loads(micro_sd):
    name, configs = families.read("--x", str(micro_sd))
    families.require_resolution("m", name, configs, 16)
    with pytest.raises(
        UsageError, match="--resolution=20 is not accepted; use a multiple of 8 with 'm'"
    ):
        families.require_resolution("m", name, configs, 20)
    third = pipeline_files.Configs(
        {}, {"block_out_channels": [8, 8]}, {"patch_size": 2, "pos_embed_max_size": 16}, {}
    )
    families.require_resolution("m", "StableDiffusion3Pipeline", third, 64)
    with pytest.raises(
        UsageError, match="--resolution=68 is not accepted; use a multiple of 4 up to 64 with 'm'"
    ):
        families.require_resolution("m", "StableDiffusion3Pipeline", third, 68)
