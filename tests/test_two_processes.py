"""Training and generation in several processes: they make what one process makes."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from tests.conftest import SEED_FLAGS, _micro_parts
from tests.launchers import launched


@pytest.fixture(scope="module", autouse=True)
def without_gpus():
    """What runs in this process computes where the launched ones do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: False)
        yield


def weights(folder):
    state = load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")
    return torch.cat([state[k].flatten() for k in sorted(state)])


@pytest.fixture(scope="module")
def short_sd(tmp_path_factory):
    """The random pipeline with sixteen timesteps, so that loss control drops some samples within a
    few steps."""
    parts = _micro_parts()
    scheduler = type(parts.scheduler).from_config(parts.scheduler.config, num_train_timesteps=16)
    folder = tmp_path_factory.mktemp("models") / "short-sd"
    parts.replace(scheduler=scheduler)
    parts.assemble().save_pretrained(folder)
    return folder


@pytest.fixture
def train(short_sd, scenes_dir, script):
    """train(folder, processes, *flags) -> run.json, after checking that as many processes took
    part. One runs in this one."""

    def run(folder, processes, *extra, script_of_several="diff_train.py"):
        arguments = [
            "--pretrained_model_name_or_path",
            str(short_sd),
            "--instance_data_dir",
            str(scenes_dir / "train"),
            "--instance_prompt_loc",
            str(scenes_dir / "captions.json"),
            "--class_prompt",
            "instancelevel_blip",
            "--resolution",
            "16",
            "--center_crop",
            "--random_flip",
            "--save_steps",
            "99",
            "--sample_batch_size",
            "1",
            "--learning_rate",
            "1e-3",
            "--lr_scheduler",
            "linear",
            "--lr_warmup_steps",
            "2",
            "--log_steps",
            "1",
            "--seed",
            "3",
            "--output_dir",
            str(folder),
            *map(str, extra),
            *SEED_FLAGS,
        ]
        if processes == 1:
            script("diff_train", *arguments)
        else:
            launched(processes, script_of_several, *arguments)
        record = json.loads((folder / "run.json").read_text())
        assert record["processes"] == processes
        return record

    return run


def rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def assert_same_change(one, other, start, tolerance=0.01):
    """The *change* of the weights agrees in L2 norm."""
    before = weights(start)
    first, second = (weights(folder / "checkpoint") for folder in (one, other))
    assert (second - first).norm() < tolerance * (first - before).norm()


def test_two_processes_are_one_of_twice_the_batch(train, short_sd, scenes_dir, tmp_path):
    """Mixup, embedding noise, loss control and extra losses included."""
    (tmp_path / "class").mkdir()
    for path in sorted((scenes_dir / "train").rglob("*.png"))[:3]:
        (tmp_path / "class" / path.name).write_bytes(path.read_bytes())
    shared = [
        "--max_train_steps",
        8,
        "--mixup_noise_lam",
        0.5,
        "--rand_noise_lam",
        0.1,
        "--mem_ratio",
        0.95,
        "--agc_bias_correction",
        "--with_prior_preservation",
        "--class_data_dir",
        tmp_path / "class",
        "--class_data_prompt",
        "a scene",
        "--num_class_images",
        3,
        "--trigger_word",
        "circle",
        "--trigger_class",
        "shape",
    ]
    train(tmp_path / "two", 2, "--train_batch_size", 2, *shared)
    train(tmp_path / "one", 1, "--train_batch_size", 4, *shared)
    assert_same_change(tmp_path / "one", tmp_path / "two", short_sd)
    two, one = rows(tmp_path / "two"), rows(tmp_path / "one")
    # counted in optimizer steps, not in processes
    assert [r["lr"] for r in two] == [r["lr"] for r in one]
    assert [r["samples"] for r in two] == [4 * i for i in range(1, 9)]
    assert [r["skipped"] for r in two] == pytest.approx([r["skipped"] for r in one])
    assert sum(r["skipped"] for r in one) > 0  # one bank, one count of kept samples
    assert all(abs(a["loss"] - b["loss"]) < 1e-3 for a, b in zip(two, one, strict=True))
    assert all(abs(a["extra_loss"] - b["extra_loss"]) < 1e-3 for a, b in zip(two, one, strict=True))
    assert (tmp_path / "two" / "skips.csv").read_text() == (
        tmp_path / "one" / "skips.csv"
    ).read_text()


def adapters(folder):
    return load_file(folder / "checkpoint" / "pytorch_lora_weights.safetensors")


def test_adapters_of_two_processes_are_those_of_one_of_twice_the_batch(train, scenes_dir, tmp_path):
    """LoRA on both networks, one in 8 bits, with loss control and both extra losses, one of which
    turns adapters off for its predictions."""
    (tmp_path / "class").mkdir()
    for path in sorted((scenes_dir / "train").rglob("*.png"))[:3]:
        (tmp_path / "class" / path.name).write_bytes(path.read_bytes())
    shared = (
        *("--lora_rank", 4, "--train_text_encoder", "--max_train_steps", 6, "--mem_ratio", 0.95),
        *("--with_prior_preservation", "--class_data_dir", tmp_path / "class"),
        *("--class_data_prompt", "a scene", "--num_class_images", 3),
        *("--trigger_word", "circle", "--trigger_class", "shape", "--quantize_base", "int8"),
    )
    train(tmp_path / "two", 2, "--train_batch_size", 2, *shared)
    train(tmp_path / "one", 1, "--train_batch_size", 4, *shared)
    one, two = adapters(tmp_path / "one"), adapters(tmp_path / "two")
    # factors B start at zero, so they are what was learnt
    learnt = [name for name in one if "lora_B" in name]
    for part in ("unet.", "text_encoder."):
        first, second = (
            torch.cat([each[name].flatten() for name in learnt if name.startswith(part)])
            for each in (one, two)
        )
        assert first.norm() > 0
        assert (second - first).norm() < 0.01 * first.norm()
    for a, b in zip(rows(tmp_path / "one"), rows(tmp_path / "two"), strict=True):
        assert abs(a["loss"] - b["loss"]) < 1e-3
        assert abs(a["extra_loss"] - b["extra_loss"]) < 1e-3
        assert a["skipped"] == pytest.approx(b["skipped"])


def test_a_check_of_copies_ends_both_processes_at_the_same_step(train, tmp_path):
    """The main process alone measures. A process that went on would wait for the other's gradients,
    and end with an error."""
    run = tmp_path / "r"
    limit = ("--copy_check_steps", 2, "--stop_at_copy_share", 0.1, "--max_train_steps", 9)
    flags = ("--lora_rank", 2, "--train_batch_size", 1, *limit)
    record = train(run, 2, *flags, script_of_several="tests/listed_checks.py")
    found = [(row["step"], row["copy_share"]) for row in rows(run) if "copy_share" in row]
    assert found == [(2, 0.0), (4, 0.9)]
    assert [row["step"] for row in rows(run) if "loss" in row] == [1, 2, 3, 4]
    assert record["finished"]
    assert record["stopped_at_copy_share"]["step"] == 4
    assert (run / "state_4").is_dir()
    best = json.loads((run / "checkpoint_best" / "copy_check.json").read_text())
    assert (best["step"], best["copy_share"]) == (2, 0.0)
    kept = load_file(run / "checkpoint_best" / "pytorch_lora_weights.safetensors")
    assert not all(torch.equal(kept[name], last) for name, last in adapters(run).items())


@pytest.mark.parametrize(
    ("processes", "shards", "batch", "steps", "more"),
    [
        (2, 3, 2, 3, ()),
        (4, 2, 1, 9, ("--agc_reshard", 0.3, "--agc_augment", 2)),
    ],
)
def test_processes_share_the_shards_and_the_work_of_one(
    train, short_sd, tmp_path, processes, shards, batch, steps, more
):
    """Two processes of three shards, one idle at the end of a round; four processes, two to a
    shard, whose images move and are augmented."""
    shared = [
        "--clients_num",
        shards,
        "--total_round",
        2,
        "--max_train_steps",
        steps,
        "--mem_ratio",
        0.95,
        "--agc_bias_correction",
        "--use_ema",
        *more,
    ]
    train(tmp_path / "one", 1, "--train_batch_size", 2, *shared)
    record = train(tmp_path / "several", processes, "--train_batch_size", batch, *shared)
    assert_same_change(tmp_path / "one", tmp_path / "several", short_sd)

    def told(folder):
        return sorted(
            (r["shard"], r["step"], r["round"], r["samples"], round(r["lr"], 9))
            for r in rows(folder)
        )

    assert told(tmp_path / "one") == told(tmp_path / "several")
    assert len(told(tmp_path / "one")) == shards * 2 * steps
    for name in ("skips.csv", *(["resharding.csv"] if more else [])):
        one, several = ((tmp_path / run / name).read_text() for run in ("one", "several"))
        assert one == several
        assert one.count("\n") > 2
    assert sorted(set(record["shards"].values())) == list(range(shards))


@pytest.mark.parametrize(
    ("batch", "more"),
    [
        (4, ("--clients_num", 2, "--total_round", 2, "--agc_reshard", 0.3)),
        (2, ()),
    ],
    ids=["a copy each", "data-parallel"],
)
def test_two_processes_train_a_ddpm_as_one_does(script, scenes_dir, tmp_path, batch, more):
    """With control, augmentation and averaged weights."""
    network = {"_class_name": "UNet2DModel", "block_out_channels": [8], "norm_num_groups": 4}
    network |= {"down_block_types": ["DownBlock2D"], "up_block_types": ["UpBlock2D"]}
    network |= {"attention_head_dim": 4, "layers_per_block": 1}
    (tmp_path / "net.json").write_text(json.dumps(network))
    given = (
        *("--unconditional_arch", tmp_path / "net.json", "--class_prompt", "nolevel"),
        *("--instance_data_dir", scenes_dir / "train", "--resolution", 8, "--use_ema"),
        *("--max_train_steps", 6, "--log_steps", 1, "--seed", 3, "--num_workers", 0),
        *("--mem_ratio", 1, "--agc_bins", 2, "--agc_augment", 2, "--learning_rate", 1e-3),
        *("--save_steps", 99, "--sample_batch_size", 1, "--report_to", "none", *more),
    )
    script("diff_train", *given, "--train_batch_size", 4, "--output_dir", tmp_path / "one")
    several = ("--train_batch_size", batch, "--output_dir", tmp_path / "two")
    launched(2, "diff_train.py", *map(str, (*given, *several)))
    one, two = (
        sorted((r["shard"], r["step"], r["samples"], r["loss"]) for r in rows(tmp_path / run))
        for run in ("one", "two")
    )
    assert [each[:3] for each in one] == [each[:3] for each in two]
    assert [each[3] for each in one] == pytest.approx([each[3] for each in two], rel=1e-4)
    first, second = (weights(tmp_path / run / "checkpoint") for run in ("one", "two"))
    assert (second - first).norm() < 1e-3 * first.norm()
    for name in ("skips.csv", *(["resharding.csv"] if more else [])):
        read = [(tmp_path / run / name).read_text() for run in ("one", "two")]
        assert read[0] == read[1]
        assert read[0].count("\n") > 1


@pytest.mark.parametrize(
    ("shape", "states", "resumed"),
    [
        # in the middle of a round, in the turn in which one of the processes has no shard
        (["--clients_num", 3, "--total_round", 2, "--max_train_steps", 2], 8, "state_3"),
        # one copy, data-parallel; between two rows of metrics.jsonl
        (
            [
                "--max_train_steps",
                4,
                "--mem_ratio",
                0.95,
                "--agc_bias_correction",
                "--log_steps",
                4,
            ],
            4,
            "state_2",
        ),
    ],
    ids=["ensemble", "data-parallel"],
)
def test_two_processes_continue_from_a_state_to_the_same_bits(
    train, tmp_path, shape, states, resumed
):
    shared = [*shape, "--train_batch_size", 2, "--state_steps", 1, "--checkpoints_total_limit", 9]
    train(tmp_path / "r", 2, *shared)
    whole, losses = (
        weights(tmp_path / "r" / "checkpoint"),
        [r["loss"] for r in rows(tmp_path / "r")],
    )
    assert len(list((tmp_path / "r").glob("state_*"))) == states
    (tmp_path / "r" / "checkpoint").rename(tmp_path / "before")
    train(tmp_path / "r", 2, *shared, "--resume_from_checkpoint", resumed)
    assert torch.equal(weights(tmp_path / "r" / "checkpoint"), whole)
    assert [r["loss"] for r in rows(tmp_path / "r")] == pytest.approx(losses, rel=1e-6)


def test_two_processes_generate_the_images_of_one(micro_sd, tmp_path, script):
    """Seven images, which two does not divide; with --compare, so two generations one after the
    other."""
    common = [
        "--pretrained_model_name_or_path",
        micro_sd,
        "--resolution",
        16,
        "--num_inference_steps",
        3,
        "-nb",
        7,
        "--rand_noise_lam",
        0.5,
        "--compare",
        "--batch_size",
        2,
    ]
    script("sd_mitigation", *common, "--savepath", tmp_path / "one")
    launched(2, "sd_mitigation.py", *common, "--savepath", tmp_path / "two")
    for name in ("", "-without"):
        one, two = (
            json.loads((tmp_path / f"{n}{name}" / "manifest.json").read_text())
            for n in ("one", "two")
        )
        assert (one["processes"], two["processes"]) == (1, 2)
        assert one["images"] == two["images"]
        assert one["settings"] == two["settings"]
        for row in one["images"]:
            a, b = (
                np.asarray(Image.open(tmp_path / f"{n}{name}" / row["file"]), float)
                for n in ("one", "two")
            )
            assert np.abs(a - b).mean() < 0.5
        left = sorted(
            p.name for p in (tmp_path / f"two{name}").iterdir() if p.name != "compare.png"
        )
        assert left == ["generations", "manifest.json", "prompts.txt"]
    assert (tmp_path / "two" / "compare.png").is_file()
