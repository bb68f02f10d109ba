"""The trainer under torchrun: two processes of batch b train what one process of batch 2b trains."""

import json
import os
import socket
import subprocess
import sys

import torch
from safetensors.torch import load_file

from tests.conftest import ROOT, SEED_FLAGS


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def weights(folder):
    state = load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")
    return torch.cat([state[k].flatten() for k in sorted(state)])


def test_two_processes_are_one_of_twice_the_batch(micro_sd, scenes_dir, tmp_path):
    def train(launcher, batch, folder):
        command = [
            *launcher, str(ROOT / "diff_train.py"), "--pretrained_model_name_or_path", str(micro_sd),
            "--instance_data_dir", str(scenes_dir / "train"), "--instance_prompt_loc", str(scenes_dir / "captions.json"),
            "--class_prompt", "instancelevel_blip", "--resolution", "16", "--random_flip", "--max_train_steps", "8",
            "--train_batch_size", str(batch), "--mixup_noise_lam", "0.5", "--rand_noise_lam", "0.1", "--learning_rate", "1e-3",
            "--lr_scheduler", "linear", "--lr_warmup_steps", "2", "--save_steps", "99", "--sample_batch_size", "1",
            "--log_steps", "1", "--seed", "3", "--output_dir", str(folder), *SEED_FLAGS,
        ]  # fmt: skip
        environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
        subprocess.run(command, check=True, env=environment, capture_output=True, text=True)
        return json.loads((folder / "run.json").read_text()), weights(folder / "checkpoint")

    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", str(free_port())]
    record, both = train(torchrun, 2, tmp_path / "two")
    assert record["processes"] == 2
    _, one = train([sys.executable], 4, tmp_path / "one")
    start = weights(micro_sd)
    assert (both - one).norm() < 0.01 * (one - start).norm()
    rows = [[json.loads(line) for line in (tmp_path / n / "metrics.jsonl").read_text().splitlines()] for n in ("two", "one")]
    assert [r["lr"] for r in rows[0]] == [r["lr"] for r in rows[1]]  # counted in optimizer steps, not in processes
    assert [r["samples"] for r in rows[0]] == [4 * i for i in range(1, 9)]
    assert all(abs(a["loss"] - b["loss"]) < 1e-3 for a, b in zip(*rows, strict=True))
