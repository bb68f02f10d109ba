"""diff_train.py on DDPMs: new ones and those of a folder, without and with classes."""

import json
import re
import shlex

import numpy as np
import pytest
import torch
from PIL import Image

from tests.conftest import ROOT
from tests.pipelines import ddpm as miniature
from utils.models import ddpm, ddpm_networks, loading
from utils.models.ddpm import Classes
from utils.models.parts import Parts
from utils.runtime import seeding
from utils.training.steps.base import StepSettings
from utils.training.steps.ddpm import DdpmStep

NETWORK = {
    "_class_name": "UNet2DModel",
    "block_out_channels": [8, 8],
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "attention_head_dim": 4,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """12 images of 8 px in two classes, a network, and DDPMs to start from."""
    root = tmp_path_factory.mktemp("ddpm")
    rng = np.random.default_rng(0)
    for i in range(12):
        folder = root / "images" / ("cat" if i % 3 else "dog")
        folder.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    (root / "one").mkdir()
    Image.fromarray(pixels).save(root / "one" / "0.png")
    (root / "net.json").write_text(json.dumps(NETWORK))
    miniature().save_pretrained(root / "plain")
    few = miniature(2)
    few.scheduler.register_to_config(num_train_timesteps=10)
    few.save_pretrained(root / "classes")
    return root


def flags(data, out, *more, images="images", steps=4):
    return (
        *("--instance_data_dir", data / images, "--output_dir", out, "--resolution", 8),
        *("--max_train_steps", steps, "--seed", 3, "--num_workers", 0, "--log_steps", 1),
        *("--learning_rate", 2e-3, "--sample_batch_size", 2, "--report_to", "none", *more),
    )


def new(data):
    return ("--unconditional_arch", data / "net.json")


def weights(folder):
    network = loading.load_pipeline("--modelpath", folder).unet
    return torch.cat([p.detach().flatten() for p in network.parameters()])


def rows_of(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").open()]


def losses(run):
    return [row["loss"] for row in rows_of(run)]


@pytest.mark.parametrize(("name", "count"), [("cifar", 35_746_307), ("afhq", 78_700_803)])
def test_the_published_networks_have_the_published_sizes(name, count):
    from diffusers import UNet2DModel

    with torch.device("meta"):
        network = UNet2DModel.from_config(ddpm_networks.configuration(name))
    assert sum(p.numel() for p in network.parameters()) == count


def test_the_first_loss_is_the_mean_squared_error_of_the_noise(script, data, tmp_path):
    """One image: pixels in [-1, 1], linear betas, a uniform timestep."""
    script("diff_train", *new(data), *flags(data, tmp_path / "run", images="one", steps=1))
    pipeline = ddpm_networks.new_pipeline(NETWORK, side=8, labels=None, seed=3)
    pixels = np.asarray(Image.open(data / "one" / "0.png"), np.float32) / 127.5 - 1
    clean = torch.from_numpy(pixels).permute(2, 0, 1)
    kept = (1 - torch.linspace(1e-4, 0.02, 1000)).cumprod(0)
    errors = []
    for slot in range(4):
        generator = seeding.torch_generator(3, "noise", 0, 0, slot)
        time = torch.randint(1000, (), generator=generator)
        _, noise = (torch.randn(3, 8, 8, generator=generator) for _ in range(2))
        noisy = kept[time] ** 0.5 * clean + (1 - kept[time]) ** 0.5 * noise
        found = pipeline.unet.train()(noisy[None], time[None]).sample[0]
        errors.append(float((found - noise).square().mean()))
    assert losses(tmp_path / "run")[0] == pytest.approx(np.mean(errors), rel=1e-4)


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """A run with all that a DDPM can have: classes, two rounds of two balanced copies, control."""
    import diff_train

    run = tmp_path_factory.mktemp("runs") / "run"
    given = flags(
        data,
        run,
        *("--class_prompt", "classlevel", "--class_dropout", 0.3, "--shards_by", "class"),
        *("--clients_num", 2, "--total_round", 2, "--mem_ratio", 1.1, "--use_ema"),
        *("--duplication", "dup_both", "--weight_pc", 0.2, "--random_flip"),
        *("--copy_check_steps", 4, "--copy_check_prompts", 3, "--copy_check_descriptor", "pixel"),
        *("--stop_at_copy_share", 0.99),
    )
    diff_train.main([str(value) for value in (*new(data), *given)])
    return run


def test_a_class_conditional_ensemble(script, trained, tmp_path):
    for name in ("checkpoint", "checkpoint_best"):
        found = ddpm.read_classes("", trained / name, {"num_class_embeds": 3})
        assert found == Classes(("cat", "dog"), null=2)
    record = json.loads((trained / "run.json").read_text())
    shares = {(key.split("/")[0], split) for key, split in record["shards"].items()}
    assert shares == {("cat", 0), ("cat", 1), ("dog", 0), ("dog", 1)}
    dogs = [split for key, split in record["shards"].items() if key.startswith("dog")]
    assert sorted(dogs) == [0, 0, 1, 1]
    assert len(record["duplicated"]) == 2
    counts = [line.split(",") for line in (trained / "skips.csv").read_text().splitlines()[1:]]
    assert sum(int(drawn) for _, drawn, _ in counts) == 2 * 2 * 4 * 4
    shown = json.loads(next((trained / "generations").glob("0*.json")).read_text())
    assert {row["label"] for row in shown} <= {0, 1}
    checks = [row for row in rows_of(trained) if "copy_share" in row]
    assert checks
    assert all(np.isfinite(row["loss_training"]) for row in checks)
    out = ("--modelpath", trained, "-nb", 3, "--num_inference_steps", 2, "--guidance_scale", 2)
    script("diff_inference", *out, "--classes", "dog", "--savepath", tmp_path / "g")
    rows = json.loads((tmp_path / "g" / "manifest.json").read_text())["images"]
    assert [row["label"] for row in rows] == [1, 1, 1]


def test_both_kinds_of_weights_of_a_run_with_ema_can_be_sampled(script, trained, tmp_path):
    out = ("--modelpath", trained, "-nb", 1, "--num_inference_steps", 2, "--savepath")
    script("diff_inference", *out, tmp_path / "a")
    raw = trained / "checkpoint" / "unet_without_ema"
    script("diff_inference", *out, tmp_path / "b", "--unet", raw)
    averaged, own = (
        np.asarray(Image.open(tmp_path / name / "generations" / "0.png"), int) for name in "ab"
    )
    assert (averaged != own).any()
    assert (trained / "checkpoint_best" / "unet_without_ema").is_dir()


def test_a_resumed_run_is_the_same_to_the_bit(script, data, tmp_path):
    more = ("--class_prompt", "classlevel", "--mem_ratio", 2, "--use_ema")
    script("diff_train", *new(data), *flags(data, tmp_path / "whole", *more))
    script("diff_train", *new(data), *flags(data, tmp_path / "parts", *more, steps=2))
    resumed = ("--resume_from_checkpoint", "latest")
    script("diff_train", *new(data), *flags(data, tmp_path / "parts", *more, *resumed))
    whole, parts = (tmp_path / name for name in ("whole", "parts"))
    assert torch.equal(weights(whole / "checkpoint"), weights(parts / "checkpoint"))
    assert losses(whole) == losses(parts)


def test_a_folder_is_trained_further(script, data, tmp_path):
    base = ("--pretrained_model_name_or_path", data / "plain")
    script("diff_train", *base, *flags(data, tmp_path / "run", steps=1))
    before, after = weights(data / "plain"), weights(tmp_path / "run" / "checkpoint")
    assert 0 < (after - before).abs().max() < 0.01
    assert not (tmp_path / "run" / "checkpoint" / "classes.json").exists()
    # classes without names take those of the images
    base = ("--pretrained_model_name_or_path", data / "classes", "--class_prompt", "classlevel")
    script("diff_train", *base, *flags(data, tmp_path / "named", "--mem_ratio", 0.1))
    found = json.loads((tmp_path / "named" / "checkpoint" / "classes.json").read_text())
    assert found == {"names": ["cat", "dog"], "null": None}
    # 16 draws of 10 timesteps: with so small a ratio the second visit of a timestep is skipped
    counts = (tmp_path / "named" / "skips.csv").read_text().splitlines()[1:]
    assert sum(int(line.split(",")[2]) for line in counts) > 0


def test_labels_follow_the_prompts_of_classes():
    parts = Parts(miniature(2, null=True))
    parts.classes = Classes(("cat", "dog"), null=2)
    ids = DdpmStep(parts, StepSettings()).token_ids(
        parts, ["An image of dog", "", "An image of cat"]
    )
    assert ids["labels"].tolist() == [1, 2, 0]
    parts.classes = None
    assert DdpmStep(parts, StepSettings()).token_ids(parts, ["An image"]) == {}


def test_the_plan_of_a_new_model_is_printed(script, data, tmp_path):
    shown = json.loads(
        script("diff_train", *new(data), *flags(data, tmp_path / "run"), "--dry_run")
    )
    assert shown["options"]["unconditional_arch"] == str(data / "net.json")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("model", "given", "line"),
    [
        ("new", ("--trainspecial", "randrepl"), "--trainspecial='randrepl' "),
        (
            "new",
            ("--rand_noise_lam", 0.1),
            "--rand_noise_lam=0.1 has no effect: '.*' reads no text",
        ),
        ("new", ("--mixup_noise_lam", 0.1), "--mixup_noise_lam=0.1 has no effect"),
        ("new", ("--train_text_encoder",), "--train_text_encoder=True has no effect"),
        ("new", ("--validation_prompt", "x"), "--validation_prompt=.* has no effect"),
        ("new", ("--lora_rank", 2), "--lora_rank=2: '.*' is a DDPM"),
        ("new", ("--tokenizer_name", "x"), "--tokenizer_name='x' has no effect"),
        ("new", ("--class_dropout", 0.1), "--class_dropout=0.1 hides classes"),
        ("new", ("--duplication", "dup_image"), "--duplication='dup_image' draws among"),
        ("new", ("--variant", "fp16"), "--variant='fp16' chooses among the files of a base model"),
        ("new", ("--resolution", 9), "--resolution=9 is not accepted; use a multiple of 2"),
        ("plain", ("--class_prompt", "classlevel"), "was made without classes; use nolevel"),
        ("classes", (), "was made with classes; use classlevel"),
        (
            "classes",
            ("--class_prompt", "classlevel", "--class_dropout", 0.1),
            "--class_dropout=0.1: '.*' has no null class",
        ),
    ],
)
def test_flags_that_need_text_are_refused_by_name(refused, data, tmp_path, model, given, line):
    start = ("--pretrained_model_name_or_path", data / model) if model != "new" else new(data)
    found = refused("diff_train", *start, *flags(data, tmp_path / "run", *given))
    assert re.search(line, found)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arch", "line"),
    [
        (
            "imagenet",
            "--unconditional_arch='imagenet' is not accepted; use one of: cifar, afhq, or",
        ),
        ("absent.json", "--unconditional_arch='absent.json'"),
        ("index.json", "describes 'DDPMPipeline'; give a config.json of UNet2DModel"),
    ],
)
def test_other_architectures_are_refused(refused, data, tmp_path, monkeypatch, arch, line):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "index.json").write_text((data / "plain" / "model_index.json").read_text())
    given = ("--unconditional_arch", arch, *flags(data, tmp_path / "run"))
    assert re.search(line, refused("diff_train", *given))


def test_a_run_starts_from_one_model(refused, data, tmp_path):
    both = (*new(data), "--pretrained_model_name_or_path", data / "plain")
    line = refused("diff_train", *both, *flags(data, tmp_path / "run"))
    assert "starts without a base model" in line
    line = refused("diff_train", *flags(data, tmp_path / "run"))
    assert "--pretrained_model_name_or_path is required" in line


def recipes():
    """The commands of the published recipes, by the headings that stand above them."""
    text = (ROOT / "docs" / "train.md").read_text()
    section = text.split("### The published recipes")[1].split("\n## ")[0]
    blocks = re.findall(r"^#### (.+?)$.*?^```text\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    return {
        name: [shlex.split(line)[1:] for line in block.replace("\\\n", " ").splitlines()]
        for name, block in blocks
    }


# what is cut; everything else of a recipe stays as it is printed
SMALL = {
    "--unconditional_arch": "net.json",
    "--resolution": "8",
    "--max_train_steps": "2",
    "--total_round": "2",
    "--clients_num": "2",
    "--train_batch_size": "2",
    "--lr_warmup_steps": "1",
    "--sample_batch_size": "1",
    "-nb": "2",
    "--num_inference_steps": "2",
    "--metrics": "similarity",
}


@pytest.mark.parametrize("name", ["CIFAR-10", "CIFAR-100", "CIFAR-100 by class", "AFHQ"])
def test_the_published_recipes_run_as_they_are_printed(script, data, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.json").write_text(json.dumps(NETWORK))
    places = {"cifar10": "images", "cifar100": "images", "afhq_dog": "images"}
    for place, images in places.items():
        (tmp_path / place).symlink_to(data / images)
    commands = recipes()[name]
    assert len(commands) >= 3
    for command in commands:
        module, *words = command
        for flag, value in SMALL.items():
            if flag in words:
                words[words.index(flag) + 1] = value
        extra = {
            "diff_train.py": ("--num_workers", "0", "--report_to", "none"),
            "diff_inference.py": (),
            "diff_retrieval.py": ("--num_workers", "0", "--pt_style", "pixel", "--no_align"),
        }[module]
        script(module.removesuffix(".py"), *words, *extra)
