"""What is said of a run's memory before it is loaded, against the run itself."""

import json

import pytest
import torch

from tests.conftest import SEED_FLAGS
from utils.training import memory_needed, training_job


@pytest.fixture
def run(script, micro_sd, scenes_dir, tmp_path, monkeypatch):
    """run(*flags) -> (the PreparedRun after its last step, run.json, what was printed)."""
    jobs, prepare = [], training_job.prepare

    def noted(*given):
        jobs.append(prepare(*given))
        return jobs[-1]

    monkeypatch.setattr(training_job, "prepare", noted)

    def made(*flags):
        out = script(
            "diff_train",
            *(
                "--pretrained_model_name_or_path",
                micro_sd,
                "--instance_data_dir",
                scenes_dir / "train",
            ),
            *("--instance_prompt_loc", scenes_dir / "captions.json", "--resolution", 16),
            *("--class_prompt", "instancelevel_blip", "--train_batch_size", 2),
            *("--save_steps", 99, "--sample_batch_size", 1, "--max_train_steps", 1, "--seed", 7),
            *("--output_dir", tmp_path / "run", *SEED_FLAGS, *flags),
        )
        return jobs[0], json.loads((tmp_path / "run" / "run.json").read_text()), out

    return made


def size(tensors):
    return sum(t.numel() * t.element_size() for t in tensors)


def held(job):
    """Bytes of what a process holds, by what they are for."""
    model = job.model
    learning = {id(p) for p in model.weights.values()}
    moments = [
        value
        for state in model.optimizer.state.values()
        for name, value in state.items()
        if isinstance(value, torch.Tensor) and value.numel() > 1
    ]
    rest = [p for m in model.modules.values() for p in m.parameters() if id(p) not in learning]
    frozen = [model.frozen.vae, *model.frozen.encoders.values()]
    return {
        "weights that learn": size(model.weights.values()),
        "their gradients": size(model.weights.values()),
        "moments": size(moments),
        "averages": 0 if model.ema is None else size(model.ema.averages.values()),
        "base weights": size(rest),
        "copy of the base model": getattr(model.extra_losses.base, "bytes", 0),
        "frozen networks": size(p for each in frozen for p in each.parameters()),
    }


BASE = ("--trigger_word", "circle", "--trigger_class", "shape")
RUNS = {
    "full": ("--use_ema", "--train_text_encoder", *BASE),
    "full, half precision": ("--mixed_precision", "bf16"),
    "LoRA": ("--lora_rank", 4, "--lora_layers", "to_q,conv1,ff.net.2", "--train_text_encoder"),
    "LoRA, 4 bits": (
        *("--lora_rank", 2, "--use_dora", "--lora_freeze_a", "--quantize_base", "nf4"),
        *("--mixed_precision", "bf16", *BASE),
    ),
}


@pytest.mark.parametrize("flags", RUNS.values(), ids=RUNS)
def test_what_was_computed_is_what_a_run_holds(run, flags):
    job, record, out = run(*flags)
    said, own = record["memory"]["device"], held(job)
    line = f"memory of a process: {memory_needed.in_words(sum(said.values()))} of its device"
    assert line in out
    # moments of a single number are not told from counters
    assert said.pop("moments") == pytest.approx(own.pop("moments"), rel=1e-3)
    assert said == own
    assert record["pass_memory"] == job.model.pass_memory.bytes > own["their gradients"]
    passed = memory_needed.in_words(record["pass_memory"])
    assert f"forward and backward pass of a micro-batch: {passed} beside the weights" in out
    networks = job.model.parts.networks
    kept = size(p for n in ("vae", "text_encoder") for p in networks[n].parameters())
    halves = "--mixed_precision" in flags and "--lora_rank" not in flags
    assert record["memory"]["host"]["originals of frozen networks"] == (kept if halves else 0)


def test_waiting_copies_are_those_that_the_run_counts(run):
    job, record, _ = run("--clients_num", 2, "--use_ema", "--lora_rank", 2)
    assert record["memory"]["host"]["waiting copies"] == job.copies.host_bytes() > 0
