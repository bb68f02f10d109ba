"""diff_train.py --lora_rank, and the other scripts on what it leaves."""

import copy
import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from tests import adapted, pipelines
from tests.conftest import SEED_FLAGS
from utils.card import card_subject
from utils.files import adapter_folder, run_folder

BOTH = ("--lora_rank", 4, "--lora_alpha", 8, "--train_text_encoder", "--output_kohya_format")


def words(micro_sd, scenes_dir, folder, **replaced):
    flags = {
        "pretrained_model_name_or_path": micro_sd,
        "instance_data_dir": scenes_dir / "train",
        "instance_prompt_loc": scenes_dir / "captions.json",
        "class_prompt": "instancelevel_blip",
        "resolution": 16,
        "center_crop": True,
        "train_batch_size": 2,
        "max_train_steps": 4,
        "save_steps": 99,
        "modelsavesteps": 2,
        "sample_batch_size": 1,
        "learning_rate": 1e-2,
        "seed": 7,
        "log_steps": 1,
        "output_dir": folder,
    } | replaced
    given = [w for k, v in flags.items() if v for w in ([f"--{k}"] + ([] if v is True else [v]))]
    return [str(word) for word in (*SEED_FLAGS, *given)]


@pytest.fixture(scope="module")
def lora_run(tmp_path_factory, micro_sd, scenes_dir):
    """A finished run of four steps with adapters on both networks; no test writes here."""
    import diff_train

    folder = tmp_path_factory.mktemp("runs") / "run"
    diff_train.main([*words(micro_sd, scenes_dir, folder), *map(str, BOTH)])
    return folder


@pytest.fixture
def train(script, micro_sd, scenes_dir, tmp_path):
    """train(*flags, **replaced) -> the run's folder; what it noticed is train.noticed."""
    count = iter(range(100))

    def run(*flags, **replaced):
        folder = replaced.pop("output_dir", tmp_path / f"run{next(count)}")
        script("diff_train", *words(micro_sd, scenes_dir, folder, **replaced), *flags)
        run.noticed = script.noticed
        return folder

    return run


def weights(folder, name="checkpoint"):
    return load_file(folder / name / adapter_folder.WEIGHTS)


def image(folder):
    row = json.loads((folder / "manifest.json").read_text())["images"][0]
    return np.asarray(Image.open(folder / row["file"]), float)


def test_checkpoints_are_adapters_with_the_name_of_their_base(lora_run, micro_sd):
    assert run_folder.Run(lora_run, {}).checkpoints() == [
        "checkpoint",
        "checkpoint_2",
        "checkpoint_4",
    ]
    files = sorted(path.name for path in (lora_run / "checkpoint_2").iterdir())
    wanted = [adapter_folder.RECORD, adapter_folder.KOHYA_WEIGHTS, adapter_folder.WEIGHTS]
    assert files == sorted(wanted)
    record = json.loads((lora_run / "checkpoint" / adapter_folder.RECORD).read_text())
    assert record["base"]["source"] == str(micro_sd)
    assert set(record["base"]["fingerprints"]) == {"unet", "text_encoder"}
    assert (record["rank"], record["alpha"]) == (4, 8)
    early, late = weights(lora_run, "checkpoint_2"), weights(lora_run)
    assert set(early) == set(late)
    assert all(tensor.dtype == torch.float32 for tensor in late.values())
    assert any(name.startswith("text_encoder.") for name in late)
    assert not any(torch.equal(early[n], late[n]) for n in late if "lora_B" in n)
    state = load_file(next(lora_run.glob("state_4/*.safetensors")))
    assert all("lora_" in name for name in state if "weights/" in name or "moments/" in name)


def test_a_fresh_pipeline_of_diffusers_gives_the_images_of_diff_inference(
    lora_run, micro_sd, script, tmp_path
):
    """Every tensor counted; --iternum takes an earlier adapter; the run is the model's name."""
    from diffusers import StableDiffusionPipeline

    shown = {}
    for name, flags in {"last": (), "two": ("--iternum", 2)}.items():
        script(
            "diff_inference", "--modelpath", lora_run, "-nb", 1, "--savepath", tmp_path / name,
            "--num_inference_steps", 3, *flags,
        )  # fmt: skip
        shown[name] = image(tmp_path / name)
    assert not np.array_equal(shown["last"], shown["two"])
    manifest = json.loads((tmp_path / "last" / "manifest.json").read_text())
    assert (
        manifest["settings"]["modelpath"] == json.loads((lora_run / "run.json").read_text())["id"]
    )
    pipeline = StableDiffusionPipeline.from_pretrained(micro_sd, safety_checker=None)
    pipeline.load_lora_weights(lora_run / "checkpoint")
    applied = adapted.adapted_parts(pipeline)
    count = sum("lora_" in n for net in applied.values() for n, _ in net.named_parameters())
    assert count == len(weights(lora_run))
    row = manifest["images"][0]
    from utils.generation import mitigations, sampling
    from utils.generation.sampling import Prompt

    jobs = sampling.image_jobs(
        [Prompt(row["prompt"], None)], mitigations.SampleHooks(), images_per_prompt=1,
        seed=manifest["settings"]["seed"],
    )  # fmt: skip
    settings = sampling.SampleSettings(
        side=16, steps=3, guidance=manifest["settings"]["guidance_scale"]
    )
    made = next(
        iter(
            sampling.generate(
                pipeline, list(jobs), settings=settings, hooks=mitigations.SampleHooks(),
                batch_size=1, device=torch.device("cpu"),
            )
        )
    )  # fmt: skip
    assert np.abs(np.asarray(made.image, float) - shown["last"]).max() <= 1  # of 255, by rounding


def test_the_card_of_a_run_compares_base_and_adapter(lora_run, micro_sd):
    model = card_subject.model_of(str(lora_run), None)
    assert model.words == ("--modelpath", str(lora_run))
    assert model.base == ("--modelpath", str(micro_sd))
    assert model.checkpoints == [2]
    other = card_subject.model_of(str(lora_run), "owner/other")
    assert other.words[2:] == ("--pretrained_model_name_or_path", "owner/other")


def test_a_run_resumes_to_the_bit_with_dropout_control_and_mitigations(
    train, refused, micro_sd, scenes_dir
):
    flags = (
        "--lora_rank", 2, "--lora_dropout", 0.3, "--use_dora", "--use_ema", "--mem_ratio", 1.1,
        "--rand_noise_lam", 0.1, "--trainspecial", "allcaps", "--duplication", "dup_both",
        "--quantize_base", "nf4",
    )  # fmt: skip
    whole = train(*flags)
    part = train(*flags, max_train_steps=2)
    resumed = ("--resume_from_checkpoint", "latest")
    other = words(micro_sd, scenes_dir, part)
    assert "--quantize_base='int8': the run in --output_dir was made with 'nf4'" in refused(
        "diff_train", *other, *flags[:-1], "int8", *resumed
    )
    train(*flags, *resumed, output_dir=part)
    assert weights(part)
    for name, tensor in weights(whole).items():
        assert torch.equal(tensor, weights(part)[name]), name


def test_an_ensemble_averages_in_megabytes_and_says_what_that_loses(train):
    folder = train("--lora_rank", 4, "--clients_num", 2, "--total_round", 2, max_train_steps=2)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    errors = [row["average_error"] for row in rows if "average_error" in row]
    assert len(errors) == 2
    assert all(0 < error < 1 for error in errors)
    assert [row["step"] for row in rows if "average_error" in row] == [2, 4]
    exact = train("--lora_rank", 4, "--lora_freeze_a", "--clients_num", 2, max_train_steps=2)
    assert '"average_error": 0.0' in (exact / "metrics.jsonl").read_text()


def test_in_half_precision_the_model_is_loaded_once_and_adapters_stay_float32(train, monkeypatch):
    """The base is bfloat16 and nothing is copied; the record knows it by its own precision."""
    deepcopy = copy.deepcopy

    def no_networks(value, *memo):
        assert not isinstance(value, torch.nn.Module)
        return deepcopy(value, *memo)

    monkeypatch.setattr(copy, "deepcopy", no_networks)
    folder = train("--lora_rank", 2, "--mixed_precision", "bf16", max_train_steps=2)
    found = weights(folder)
    assert {tensor.dtype for tensor in found.values()} == {torch.float32}
    assert all(tensor.any() for name, tensor in found.items() if "lora_B" in name)
    record = json.loads((folder / "checkpoint" / adapter_folder.RECORD).read_text())
    assert list(record["base"]["fingerprints"]["unet"]) == ["bfloat16"]


def test_compiled_adapters_on_few_bits_learn_what_others_learn(train, monkeypatch):
    """With the tracer of torch.compile and without its code generator, which takes minutes; dropout
    is drawn, and adapters are off for predictions of the base model."""
    compiled, own = [], torch.nn.Module.compile

    def traced(network):
        compiled.append(type(network).__name__)
        own(network, backend="eager")

    monkeypatch.setattr(torch.nn.Module, "compile", traced)
    flags = (
        *("--lora_rank", 2, "--lora_dropout", 0.3, "--quantize_base", "int8"),
        *("--trigger_word", "circle", "--trigger_class", "shape"),
    )
    plain = train(*flags, max_train_steps=2)
    assert compiled == []
    other = train(*flags, "--compile", max_train_steps=2)
    assert compiled == ["Denoiser"]
    for name, tensor in weights(plain).items():
        torch.testing.assert_close(weights(other)[name], tensor, rtol=1e-3, atol=1e-5)


def test_the_default_learning_rate_of_full_weights_is_said(train):
    train("--lora_rank", 2, "--dry_run", learning_rate=None)
    assert "--learning_rate=5e-06, the default, is meant for full weights" in train.noticed
    train("--lora_rank", 2, "--dry_run", learning_rate=1e-4)
    assert "meant for full weights" not in train.noticed


REFUSED = {
    "alpha without rank": (("--lora_alpha", 8), "--lora_alpha=8.0 is a setting of LoRA; give --lo"),
    "a format without rank": (
        ("--quantize_base", "nf4"),
        "--quantize_base='nf4' is a setting of LoRA; give --lora_rank too",
    ),
    "DoRA without rank": (("--use_dora",), "--use_dora=True is a setting of LoRA"),
    "a random base": (
        ("--lora_rank", 4, "--unet_from_scratch", "yes"),
        "--lora_rank=4 and --unet_from_scratch=yes: an adapter needs the model",
    ),
    "another tokenizer": (
        ("--lora_rank", 4, "--tokenizer_name", "owner/t"),
        "--tokenizer_name='owner/t': a checkpoint of LoRA holds no tokenizer",
    ),
    "kohya's names of DoRA": (
        ("--lora_rank", 4, "--use_dora", "--output_kohya_format"),
        "--output_kohya_format and --use_dora: programs do not agree",
    ),
    "a rate of no encoder": (
        ("--text_encoder_lr", 1e-5),
        "--text_encoder_lr=1e-05 is the learning rate of --train_text_encoder",
    ),
    "one rate of Prodigy": (
        ("--train_text_encoder", "--text_encoder_lr", 1e-5, "--optimizer", "prodigy"),
        "--optimizer prodigy finds one learning rate",
    ),
    "layers": (
        ("--lora_rank", 4, "--lora_layers", "to_q,to_x", "--dry_run"),  # which loads no model
        "--lora_layers='to_x': the UNet2D",
    ),
    "no layers": (
        ("--lora_rank", 4, "--lora_layers", ","),
        "--lora_layers=',' is not accepted; use names separated by commas",
    ),
}


@pytest.mark.parametrize(("flags", "message"), REFUSED.values(), ids=REFUSED)
def test_what_does_not_go_together_is_refused(
    refused, micro_sd, scenes_dir, tmp_path, flags, message
):
    given = words(micro_sd, scenes_dir, tmp_path / "run")
    assert message in refused("diff_train", *given, *flags)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("name", "kept"), [("SDXL", "none"), ("SD 3", "int8"), ("Flux", "nf4")])
def test_other_families_train_in_bfloat16_and_diffusers_reads_every_tensor(
    train, tmp_path, name, kept
):
    """The autoencoder of SDXL and SD 3 stays float32; previews are made all the same; an adapter
    of a base in few bits is one of the base."""
    pipelines.miniature(name).save_pretrained(tmp_path / "base")
    length = () if name == "SDXL" else ("--max_sequence_length", 8)
    folder = train(
        "--lora_rank", 2, "--lora_alpha", 4, "--train_text_encoder", "--mixed_precision", "bf16",
        "--quantize_base", kept, *length, pretrained_model_name_or_path=tmp_path / "base",
        max_train_steps=1,
    )  # fmt: skip
    fresh = pipelines.miniature(name)
    fresh.load_lora_weights(folder / "checkpoint")
    found = weights(folder)
    here = {
        f"{part}.{n}": tensor
        for part, network in adapted.adapted_parts(fresh).items()
        for n, tensor in network.named_parameters()
        if "lora_" in n
    }
    assert len(here) == len(found)
    ups = [n for n in here if "lora_B" in n]
    # the last layer of a CLIP encoder, and queries of a last block, may have no gradient
    assert sum(bool(here[n].any()) for n in ups) > 0.6 * len(ups)
