"""diff_inference.py on models that read no text, and the evaluation of what it makes."""

import json
import re

import numpy as np
import pytest
from PIL import Image

from tests.pipelines import ddpm, miniature
from utils.models.ddpm import Classes, write_classes


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Folders of DDPMs: plain, of classes, of classes with a null class."""
    root = tmp_path_factory.mktemp("ddpm")
    ddpm().save_pretrained(root / "plain")
    ddpm(3).save_pretrained(root / "classes")
    ddpm(2, null=True).save_pretrained(root / "null")
    write_classes(root / "null", Classes(("cat", "dog"), null=2))
    return root


def generate(script, model, out, *more, images=5):
    flags = ("--num_inference_steps", 3, "--savepath", out)
    script("diff_inference", "--modelpath", model, "-nb", images, *flags, *more)
    record = json.loads((out / "manifest.json").read_text())
    pixels = [np.asarray(Image.open(out / row["file"]), float) for row in record["images"]]
    return record, np.stack(pixels)


def test_images_without_prompts_or_sources(script, models, tmp_path):
    record, pixels = generate(script, models / "plain", tmp_path / "g")
    assert pixels.shape == (5, 8, 8, 3)
    assert (record["pipeline"], record["scheduler"]) == ("DDPMPipeline", "DDIMScheduler")
    texts = ("prompt", "source_prompt", "source_image")
    assert all(row[key] is None for row in record["images"] for key in texts)
    assert "label" not in record["images"][0]
    assert "prompts_cut" not in record
    assert not (tmp_path / "g" / "prompts.txt").exists()
    assert len({row["seed"] for row in record["images"]}) == 5
    # neither the batch nor the number of images changes an image
    _, fewer = generate(script, models / "plain", tmp_path / "h", "--batch_size", 2, images=3)
    assert np.abs(fewer - pixels[:3]).max() <= 1
    _, other = generate(script, models / "plain", tmp_path / "o", "--scheduler", "DDPM")
    assert np.abs(other - pixels).max() > 10


def test_classes_come_in_turn(script, models, tmp_path):
    record, pixels = generate(script, models / "classes", tmp_path / "g")
    assert [row["label"] for row in record["images"]] == [0, 1, 2, 0, 1]
    assert record["classes"] == ["0", "1", "2"]
    chosen, one = generate(script, models / "classes", tmp_path / "h", "--classes", "2,0")
    assert [row["label"] for row in chosen["images"]] == [2, 0, 2, 0, 2]
    # the same seed: only the class differs
    assert np.abs(one[3] - pixels[3]).max() <= 1
    assert np.abs(one[0] - pixels[0]).max() > 1


def test_guidance_and_names_of_a_model_with_a_null_class(script, models, tmp_path):
    record, guided = generate(
        script, models / "null", tmp_path / "g", "--classes", "dog", "--guidance_scale", 4
    )
    assert {row["label"] for row in record["images"]} == {1}
    _, plain = generate(script, models / "null", tmp_path / "h", "--classes", "dog")
    assert np.abs(guided - plain).max() > 1


def test_the_plan_names_images_and_classes(script, models):
    shown = json.loads(
        script("diff_inference", "--modelpath", models / "null", "-nb", 7, "--dry_run")
    )
    assert (shown["images"], shown["recognised"]["classes"]) == (7, ["cat", "dog"])
    assert shown["options"]["resolution"] == 8
    assert "prompts" not in shown["recognised"]


@pytest.mark.parametrize(
    ("model", "flags", "line"),
    [
        ("plain", ("--prompt", "a cat"), r"--prompt=\('a cat',\) does not fit '.*', a model that"),
        ("plain", ("--negative_prompt", "x"), "--negative_prompt='x' does not fit"),
        ("plain", ("--rand_noise_lam", 0.1), "--rand_noise_lam=0.1 does not fit"),
        ("plain", ("--rand_augs", "rand_word_add"), "--rand_augs='rand_word_add' does not fit"),
        ("plain", ("--im_batch", 2), "--im_batch=2 does not fit"),
        ("plain", ("--classes", "0"), "--classes='0': '.*' is not conditioned on classes"),
        ("classes", ("--classes", "7"), "--classes='7': '.*' has no class '7'"),
        ("classes", ("--guidance_scale", 3), "--guidance_scale=3 has no effect: '.*' has no null"),
        ("plain", ("--cfg_start", 500), "--cfg_start needs an unconditional branch"),
        ("plain", ("--resolution", 9), "--resolution=9 is not accepted; use a multiple of 2 with"),
        (
            "plain",
            ("--scheduler", "DDPM", "--eta", 0.5),
            "--eta=0.5 is the noise in the steps of DDIM, and the scheduler is DDPM",
        ),
        (
            "plain",
            ("--num_inference_steps", 1000),
            "--num_inference_steps=1000 is too many for DDIM over 1000 timesteps",
        ),
    ],
)
def test_flags_that_have_no_effect_are_refused_by_name(
    refused, models, tmp_path, model, flags, line
):
    given = ("--modelpath", models / model, "-nb", 2, *flags, "--savepath", tmp_path / "g")
    assert re.search(line, refused("diff_inference", *given))


def test_other_scripts_and_models_refuse_classes_and_ddpms(refused, models, tmp_path):
    out = ("--savepath", tmp_path / "g")
    line = "sd_mitigation.py generates from prompts, and '.*' reads no text; use diff_inference.py"
    assert re.search(line, refused("sd_mitigation", "--modelpath", models / "plain", *out))
    miniature("SD 1").save_pretrained(tmp_path / "sd")
    line = "--classes='1': '.*' reads prompts, not classes; give --prompt"
    flags = ("--modelpath", tmp_path / "sd", "--prompt", "a", "--classes", "1", *out)
    assert re.search(line, refused("diff_inference", *flags))


def test_eta_reaches_pipelines_that_read_prompts(script, tmp_path):
    miniature("SD 1").save_pretrained(tmp_path / "sd")
    pictures = []
    for eta in (0, 1):
        out = tmp_path / str(eta)
        script(
            "diff_inference",
            "--modelpath",
            tmp_path / "sd",
            "--prompt",
            "a",
            "--resolution",
            16,
            "--scheduler",
            "DDIM",
            "--num_inference_steps",
            3,
            "--eta",
            eta,
            "--savepath",
            out,
        )
        pictures.append(np.asarray(Image.open(out / "generations" / "0.png"), float))
        settings = json.loads((out / "manifest.json").read_text())["settings"]
        assert settings.get("eta", 0) == eta
    assert np.abs(pictures[0] - pictures[1]).max() > 5


def test_such_a_generation_is_measured(script, models, tmp_path):
    generate(script, models / "classes", tmp_path / "g", images=6)
    (tmp_path / "train").mkdir()
    rng = np.random.default_rng(0)
    for i in range(55):
        pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        if i == 7:  # a copy
            pixels = np.asarray(Image.open(tmp_path / "g" / "generations" / "2.png"))
        Image.fromarray(pixels).save(tmp_path / "train" / f"{i}.png")
    script(
        "diff_retrieval",
        "--query_dir",
        tmp_path / "g",
        "--val_dir",
        tmp_path / "train",
        "--pt_style",
        "pixel",
        "--metrics",
        "similarity,mq",
        "--mq_size",
        8,
        "--no_align",
        "--output_dir",
        tmp_path / "e",
    )
    found = json.loads((tmp_path / "e" / "metrics.json").read_text())
    assert (found["mq_015"], found["mq_rate_015"]) == (1, pytest.approx(1 / 6))
    # each image is a cluster of its own
    assert found["mq_rate_015_lo"] < found["mq_rate_015"] < found["mq_rate_015_hi"]
    assert found["nl2_share"] >= 1 / 6
    assert "source_matched" not in found
