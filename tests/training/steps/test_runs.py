"""Runs of diff_train.py on miniatures of Stable Diffusion XL, 3 and Flux."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from tests.conftest import SEED_FLAGS
from tests.launchers import torchrun
from tests.pipelines import miniature

FAMILIES = {"SDXL": "unet", "SD 3, 2 blocks": "transformer", "Flux": "transformer"}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """{name: folder of a miniature}."""
    folder = tmp_path_factory.mktemp("miniatures")
    for number, name in enumerate(FAMILIES):
        miniature(name).save_pretrained(folder / str(number))
    return {name: folder / str(number) for number, name in enumerate(FAMILIES)}


@pytest.fixture
def flags(models, scenes_dir):
    """flags(name, folder, *others) -> words of a command of four steps."""

    def made(name, folder, *others):
        own = () if name == "SDXL" else ("--max_sequence_length", 20)
        words = (
            *("--pretrained_model_name_or_path", models[name]),
            *("--instance_data_dir", scenes_dir / "train", "--resolution", 16),
            *("--instance_prompt_loc", scenes_dir / "captions.json"),
            *("--class_prompt", "instancelevel_blip", "--output_dir", folder),
            *("--max_train_steps", 4, "--save_steps", 99, "--sample_batch_size", 1),
            *("--learning_rate", 1e-3, "--lr_warmup_steps", 0, "--seed", 3),
            *own,
            *others,
            *SEED_FLAGS,
        )
        return [str(word) for word in words]

    return made


def weights(folder, name):
    files = sorted((folder / "checkpoint" / FAMILIES[name]).glob("*.safetensors"))
    state = {key: each for file in files for key, each in load_file(file).items()}
    return torch.cat([state[key].flatten() for key in sorted(state)])


def test_a_run_generates_at_the_length_that_it_was_trained_at(script, flags, tmp_path):
    script("diff_train", *flags("Flux", tmp_path / "run", "--train_batch_size", 2))
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["options"]["max_sequence_length"] == 20
    made = {}
    for length in (None, 20, 512):
        given = () if length is None else ("--max_sequence_length", length)
        folder = tmp_path / f"made-{length}"
        script(
            "diff_inference",
            *("--modelpath", tmp_path / "run", "-nb", 1, "--num_inference_steps", 2),
            *("--savepath", folder, *given),
        )
        made[length] = np.asarray(Image.open(folder / "generations" / "0.png"))
    assert np.array_equal(made[None], made[20])
    assert not np.array_equal(made[None], made[512])


@pytest.mark.parametrize("name", FAMILIES)
def test_cached_outputs_give_the_same_run_and_a_resumed_one_the_same_bits(
    script, flags, tmp_path, name
):
    """Latents, text and, for SDXL, sizes and corners are those of the draw."""
    shared = ("--train_batch_size", 8, "--center_crop", "--random_flip", "--state_steps", 2)
    script("diff_train", *flags(name, tmp_path / "plain", *shared, "--cache_latents", "off"))
    script("diff_train", *flags(name, tmp_path / "cached", *shared))
    record = json.loads((tmp_path / "cached" / "run.json").read_text())
    assert record["encoded"] == ["latents", "captions"]
    plain, cached = (weights(tmp_path / folder, name) for folder in ("plain", "cached"))
    torch.testing.assert_close(plain, cached, rtol=0, atol=1e-4)
    given = flags(name, tmp_path / "plain", *shared, "--cache_latents", "off")
    script("diff_train", *given, "--max_train_steps", 6, "--resume_from_checkpoint", "latest")
    whole = flags(name, tmp_path / "whole", *shared, "--cache_latents", "off")
    script("diff_train", *whole, "--max_train_steps", 6)
    assert torch.equal(*(weights(tmp_path / folder, name) for folder in ("plain", "whole")))


def test_two_processes_are_one_of_twice_the_batch(script, flags, tmp_path, models, monkeypatch):
    """With the text encoders of SDXL, whose last layers have no gradient."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    commands = []
    for number, name in enumerate(FAMILIES):
        text = ("--train_text_encoder",) if name == "SDXL" else ()
        two = flags(name, tmp_path / f"two-{number}", *text, "--train_batch_size", 2)
        commands.append(two)
        script(
            "diff_train", *flags(name, tmp_path / f"one-{number}", *text, "--train_batch_size", 4)
        )
    (tmp_path / "commands.json").write_text(json.dumps(commands))
    torchrun(2, "tests/several_trainings.py", tmp_path / "commands.json")
    for number, name in enumerate(FAMILIES):
        one, two = (weights(tmp_path / f"{many}-{number}", name) for many in ("one", "two"))
        network = getattr(miniature(name), FAMILIES[name]).state_dict()
        before = torch.cat([network[key].flatten() for key in sorted(network)])
        assert (one - two).norm() < 0.01 * (one - before).norm()


@pytest.mark.parametrize(
    ("name", "given", "line"),
    [
        ("Flux", ("--snr_gamma", 5), "matches flows; use --weighting_scheme"),
        ("Flux", ("--mixed_precision", "fp16"), "overflows in float16; use bf16"),
        ("SDXL", ("--max_sequence_length", 20), "is the number of tokens of T5"),
        ("SDXL", ("--timestep_shift", 2), "is of models that match flows"),
        ("SDXL", ("--guidance_scale", 3.5), "takes no scale while it is trained"),
    ],
)
def test_a_flag_of_another_family_is_refused_before_a_model_loads(
    refused, flags, tmp_path, name, given, line
):
    assert line in refused("diff_train", *flags(name, tmp_path / "run", *given, "--dry_run"))


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_trains_in_a_bucket_that_is_not_square(script, flags, tmp_path, name):
    """All scenes are square, and are cropped to the only size."""
    given = ("--aspect_ratio_buckets", "16,32", "--center_crop", "--train_batch_size", 2)
    script("diff_train", *flags(name, tmp_path / "run", *given, "--max_train_steps", 2))
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["buckets"]["counts"] == {"16,32": 12}
    rows = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert all(0 < json.loads(row)["loss"] < 100 for row in rows)
