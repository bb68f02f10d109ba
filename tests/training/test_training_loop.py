"""The loop around a run: rounds, states, resuming, stopping. What a step computes is tested in
tests/training/test_trainer.py."""

import hashlib
import json
import multiprocessing
import os
import signal

import pytest
import torch
from safetensors.torch import load_file

from tests.conftest import SEED_FLAGS
from tests.training.conftest import needs_prodigy
from utils.files import resume_states, run_folder
from utils.training import ensemble, trainer


@pytest.fixture
def flags(micro_sd, scenes_dir):
    """flags(folder, **replaced) -> a command line of a run of six steps."""

    def made(folder, *extra, **replaced):
        named = {
            "pretrained_model_name_or_path": micro_sd,
            "instance_data_dir": scenes_dir / "train",
            "instance_prompt_loc": scenes_dir / "captions.json",
            "class_prompt": "instancelevel_blip",
            "resolution": 16,
            "train_batch_size": 2,
            "max_train_steps": 6,
            "save_steps": 99,
            "sample_batch_size": 1,
            "learning_rate": 1e-2,
            "lr_warmup_steps": 0,
            "seed": 7,
            "log_steps": 2,
            "output_dir": folder,
        } | replaced
        return [v for k, value in named.items() if value is not None for v in (f"--{k}", value)] + [
            *extra,
            *SEED_FLAGS,
        ]

    return made


ENSEMBLE = {
    "clients_num": 3,
    "total_round": 2,
    "max_train_steps": 2,
    "modelsaverounds": 1,
    "mem_ratio": 1.25,
}


def checksum(folder):
    weights = (folder / "checkpoint" / "unet" / "diffusion_pytorch_model.safetensors").read_bytes()
    return hashlib.sha256(weights).hexdigest()[:16]


def rows(folder):
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k != "images_per_second"} for row in found]


class Killed(BaseException):
    """Stands for the moment at which a process is gone: nothing catches it."""


def killed_at(monkeypatch, owner, name, count):
    """Let the count-th call of owner.name be the last thing that happens."""
    calls, real = iter(range(1, 1000)), getattr(owner, name)

    def dying(*args, **kwargs):
        if next(calls) == count:
            raise Killed
        return real(*args, **kwargs)

    monkeypatch.setattr(owner, name, dying)


def test_an_ensemble_leaves_checkpoints_by_round_rows_by_split_and_splits_by_image(
    script, flags, tmp_path
):
    printed = script("diff_train", *flags(tmp_path / "r", **ENSEMBLE, save_steps=3, log_steps=1))
    assert "2 copies take turns" not in printed
    assert "3 copies take turns; those that wait need 0.00 GiB of host memory" in printed
    assert "4 steps of each of 3 copies" in printed
    names = sorted(p.name for p in (tmp_path / "r").iterdir())
    assert [n for n in names if n.startswith(("checkpoint", "state"))] == [
        "checkpoint",
        "checkpoint_1",
        "checkpoint_2",
        "state_12",
    ]
    # a grid where a multiple of three steps was passed: after the second round, and at the start
    assert sorted(p.name for p in (tmp_path / "r" / "generations").glob("*.png")) == [
        "0.png",
        "4.png",
    ]
    assert [(r["round"], r["shard"], r["step"], r["samples"]) for r in rows(tmp_path / "r")] == [
        (n, k, s, 2 * s) for n, steps in ((1, (1, 2)), (2, (3, 4))) for k in range(3) for s in steps
    ]
    assert set(rows(tmp_path / "r")[0]) == {
        "step",
        "round",
        "shard",
        "samples",
        "loss",
        "lr",
        "skipped",
    }
    record = json.loads((tmp_path / "r" / "run.json").read_text())
    assert sorted(record["shards"].values()) == [k for k in range(3) for _ in range(4)]
    assert record["images_per_second"] > 0
    assert (
        checksum(tmp_path / "r")
        == hashlib.sha256(
            (
                tmp_path / "r" / "checkpoint_2" / "unet" / "diffusion_pytorch_model.safetensors"
            ).read_bytes()
        ).hexdigest()[:16]
    )


def test_rounds_between_checkpoints(script, flags, tmp_path):
    script(
        "diff_train",
        *flags(
            tmp_path / "r",
            **(ENSEMBLE | {"total_round": 3, "modelsaverounds": 2, "max_train_steps": 1}),
        ),
    )
    assert sorted(p.name for p in (tmp_path / "r").glob("checkpoint*")) == [
        "checkpoint",
        "checkpoint_2",
    ]


def test_the_schedule_of_an_ensemble_spans_all_rounds(script, flags, tmp_path):
    script("diff_train", *flags(tmp_path / "r", **ENSEMBLE, lr_scheduler="linear", log_steps=1))
    rates = [r["lr"] for r in rows(tmp_path / "r") if r["shard"] == 1]
    assert rates == pytest.approx([1e-2, 0.75e-2, 0.5e-2, 0.25e-2])


@pytest.mark.parametrize(
    ("shape", "owner", "name", "count"),
    [
        ({}, trainer.Trainer, "step", 5),
        ({}, resume_states, "_write", 2),
        ({}, run_folder, "save_folder", 2),
        (ENSEMBLE, trainer.Trainer, "step", 9),
        (ENSEMBLE, ensemble.parallel, "sum_over_processes", 7),
        (ENSEMBLE, resume_states, "_write", 4),
        (ENSEMBLE, resume_states, "_remove", 2),
        (ENSEMBLE, run_folder, "save_folder", 2),
        pytest.param(
            {"optimizer": "prodigy", "learning_rate": 10},
            trainer.Trainer,
            "step",
            5,
            marks=needs_prodigy,
        ),
    ],
    ids=lambda v: (
        getattr(v, "__name__", v)
        if isinstance(v, str | int)
        else "ensemble"
        if v is ENSEMBLE
        else ""
    ),
)
def test_a_killed_run_continues_to_the_same_bits(
    script, flags, tmp_path, monkeypatch, shape, owner, name, count
):
    """In a step, while averaging, while writing a state or a checkpoint, while removing an old
    state."""
    more = shape | {"state_steps": 2, "modelsavesteps": 3, "caption_dropout": 0.3}
    script(
        "diff_train",
        *flags(tmp_path / "whole", "--use_ema", "--center_crop", "--random_flip", **more),
    )
    command = flags(tmp_path / "cut", "--use_ema", "--center_crop", "--random_flip", **more)
    with monkeypatch.context() as patch:
        killed_at(patch, owner, name, count)
        with pytest.raises(Killed):
            script("diff_train", *command)
    assert not (tmp_path / "cut" / "checkpoint").exists()
    script("diff_train", *command, "--resume_from_checkpoint", "latest")
    assert checksum(tmp_path / "cut") == checksum(tmp_path / "whole")
    assert rows(tmp_path / "cut") == rows(tmp_path / "whole")
    if "mem_ratio" in shape:
        assert (tmp_path / "cut" / "skips.csv").read_text() == (
            tmp_path / "whole" / "skips.csv"
        ).read_text()
    assert not [p.name for p in (tmp_path / "cut").iterdir() if p.name.startswith(".state")]


def test_one_state_is_kept_or_as_many_as_asked_and_an_older_one_can_be_named(
    script, flags, tmp_path
):
    script("diff_train", *flags(tmp_path / "r", state_steps=1, checkpoints_total_limit=3))
    assert sorted(p.name for p in (tmp_path / "r").glob("state_*")) == [
        "state_4",
        "state_5",
        "state_6",
    ]
    before, last = checksum(tmp_path / "r"), (tmp_path / "r" / "state_6").stat().st_ino
    out = script(
        "diff_train",
        *flags(tmp_path / "r", state_steps=99, modelsavesteps=99),
        "--resume_from_checkpoint",
        "state_4",
    )
    assert "continuing from" in out
    assert checksum(tmp_path / "r") == before
    assert [p.name for p in (tmp_path / "r").glob("state_*")] == ["state_6"]
    # written anew, not left from the past that was taken back
    assert (tmp_path / "r" / "state_6").stat().st_ino != last


def test_a_damaged_state_is_told_before_anything_is_written(script, flags, refused, tmp_path):
    script("diff_train", *flags(tmp_path / "r"))
    (tmp_path / "r" / "state_6" / "process_0.safetensors").write_bytes(b"half")
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "r").rglob("*")}
    line = refused("diff_train", *flags(tmp_path / "r"), "--resume_from_checkpoint", "latest")
    assert "process_0.safetensors cannot be read" in line
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "r").rglob("*")} == before


def test_an_image_that_vanishes_ends_the_run_in_a_line(
    refused, flags, scenes_dir, tmp_path, monkeypatch
):
    import shutil

    from utils.data import image_sets

    data = shutil.copytree(scenes_dir, tmp_path / "scenes")
    check = image_sets.readable

    def checked(*args, **kwargs):
        kept = check(*args, **kwargs)
        for i in range(1, len(kept)):
            kept.path(i).unlink()
        return kept

    monkeypatch.setattr(image_sets, "readable", checked)
    named = {"instance_data_dir": data / "train", "instance_prompt_loc": data / "captions.json"}
    command = flags(tmp_path / "r", **named)
    # a worker's traceback must not reach the line
    command[command.index("--num_workers") + 1] = "1"
    line = refused("diff_train", *command, status=1)
    assert "No such file" in line
    assert "what was saved is kept" in line
    assert "Traceback" not in line
    assert "DataError" not in line
    assert not multiprocessing.active_children()  # the process would wait for them at its exit


def test_a_full_disk_under_a_checkpoint_ends_in_a_line_and_leaves_the_state(
    refused, script, flags, tmp_path, monkeypatch
):
    import errno

    def full(pipeline, folder):
        folder.mkdir()
        (folder / "half").write_text("x")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))

    from diffusers import StableDiffusionPipeline

    with monkeypatch.context() as patch:
        patch.setattr(StableDiffusionPipeline, "save_pretrained", full)
        line = refused(
            "diff_train", *flags(tmp_path / "r", modelsavesteps=4, state_steps=2), status=1
        )
    assert "cannot write: [Errno 28] No space left on device" in line
    assert sorted(p.name for p in (tmp_path / "r").iterdir()) == [
        "captions.json",
        "generations",
        "metrics.jsonl",
        "run.json",
        "state_2",
    ]
    script(
        "diff_train",
        *flags(tmp_path / "r", modelsavesteps=4, state_steps=2),
        "--resume_from_checkpoint",
        "latest",
    )
    script("diff_train", *flags(tmp_path / "whole", modelsavesteps=4, state_steps=2))
    assert checksum(tmp_path / "r") == checksum(tmp_path / "whole")


def test_a_longer_run_with_a_constant_rate_continues_where_the_shorter_ended(
    script, flags, refused, tmp_path
):
    script("diff_train", *flags(tmp_path / "whole", max_train_steps=9))
    script("diff_train", *flags(tmp_path / "r"))
    line = refused(
        "diff_train",
        *flags(tmp_path / "r", max_train_steps=3),
        "--resume_from_checkpoint",
        "latest",
    )
    assert "--max_train_steps=3: the run in --output_dir was made with 6 steps" in line
    script(
        "diff_train",
        *flags(tmp_path / "r", max_train_steps=9),
        "--resume_from_checkpoint",
        "latest",
    )
    assert checksum(tmp_path / "r") == checksum(tmp_path / "whole")


@pytest.fixture(scope="module")
def stopped(tmp_path_factory, micro_sd, scenes_dir):
    """A finished run that tests ask to resume with something changed."""
    import diff_train

    folder = tmp_path_factory.mktemp("stopped") / "run"
    diff_train.main(
        [
            "--pretrained_model_name_or_path",
            str(micro_sd),
            "--instance_data_dir",
            str(scenes_dir / "train"),
            "--instance_prompt_loc",
            str(scenes_dir / "captions.json"),
            "--class_prompt",
            "instancelevel_blip",
            "--resolution",
            "16",
            "--train_batch_size",
            "2",
            "--max_train_steps",
            "2",
            "--sample_batch_size",
            "1",
            "--learning_rate",
            "1e-2",
            "--lr_warmup_steps",
            "0",
            "--seed",
            "7",
            "--lr_scheduler",
            "linear",
            "--output_dir",
            str(folder),
            *SEED_FLAGS,
        ]
    )
    return folder


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"learning_rate": 0.5},
            "--learning_rate=0.5: the run in --output_dir was made with 0.01; use the same",
        ),
        ({"train_batch_size": 3}, "--train_batch_size=3: the run in --output_dir was made with 2"),
        ({"seed": 8}, "--seed=8: the run in --output_dir was made with 7"),
        (
            {"caption_dropout": 0.1},
            "--caption_dropout=0.1: the run in --output_dir was made with 0.0; use the same",
        ),
        ({"mem_ratio": 2}, "--mem_ratio=2.0: the run in --output_dir was made with None"),
        (
            {"max_train_steps": 9},
            (
                "--max_train_steps=9: the run in --output_dir was made with 2 steps; use the"
                " same value, or a larger one with"
            ),
        ),
        ({"holdout": 0.25}, "--holdout=0.25: the run in --output_dir was made with 0.0; use the"),
        ({"clients_num": 2}, "--clients_num=2: the run in --output_dir was made with 1"),
        (
            {"class_prompt": "nolevel"},
            "--class_prompt='nolevel': the run in --output_dir was made with 'instancelevel_blip'",
        ),
        ({"instance_prompt_loc": "OTHER"}, "was made with other captions"),
        (
            {"instance_data_dir": "FEWER", "instance_prompt_loc": "COPIED"},
            "was made with other images",
        ),
        ({"pretrained_model_name_or_path": "MODEL"}, "was made with another model"),
        ({"resume_from_checkpoint": "state_1"}, "choose latest or one of: state_2"),
    ],
)
def test_what_would_change_the_result_is_refused_by_name(
    stopped, refused, flags, scenes_dir, micro_parts, tmp_path, changes, message
):
    import shutil

    texts = json.loads((scenes_dir / "captions.json").read_text())
    (tmp_path / "other.json").write_text(json.dumps({str(scenes_dir / k): ["x"] for k in texts}))
    fewer = shutil.copytree(scenes_dir / "train", tmp_path / "train")
    next(iter(sorted(fewer.rglob("*.png")))).unlink()
    shutil.copy(scenes_dir / "captions.json", tmp_path)
    parts = micro_parts()
    with torch.no_grad():
        next(parts.denoiser.parameters()).add_(1)
    parts.assemble().save_pretrained(tmp_path / "model")
    places = {
        "OTHER": tmp_path / "other.json",
        "FEWER": fewer,
        "MODEL": tmp_path / "model",
        "COPIED": tmp_path / "captions.json",
    }
    changes = {
        "lr_scheduler": "linear",
        "max_train_steps": 2,
        "resume_from_checkpoint": "latest",
    } | changes
    changes = {k: places.get(v, v) for k, v in changes.items()}
    before = {p: p.stat().st_mtime_ns for p in stopped.rglob("*")}
    assert message in refused("diff_train", *flags(stopped, **changes))
    assert {p: p.stat().st_mtime_ns for p in stopped.rglob("*")} == before


def test_a_resumed_run_holds_the_same_images_out(script, refused, flags, tmp_path):
    run, record = tmp_path / "r", tmp_path / "r" / "run.json"
    script("diff_train", *flags(run, holdout=0.25, max_train_steps=2))
    before, model = json.loads(record.read_text()), (run / "checkpoint").stat().st_mtime_ns
    script(
        "diff_train",
        *flags(run, holdout=0.25, max_train_steps=4, resume_from_checkpoint="latest"),
    )
    after = json.loads(record.read_text())
    assert len(before["holdout"]) == 3
    assert after["holdout"] == before["holdout"]
    assert (run / "checkpoint").stat().st_mtime_ns != model
    resumed = {"max_train_steps": 6, "resume_from_checkpoint": "latest"}
    message = "--holdout=0.5: the run in --output_dir was made with 0.25"
    assert message in refused("diff_train", *flags(run, holdout=0.5, **resumed))
    # the record of an older version, which had no such flag
    del after["holdout"], after["options"]["holdout"]
    record.write_text(json.dumps(after))
    message = "--holdout=0.25: the run in --output_dir was made with its default"
    assert message in refused("diff_train", *flags(run, holdout=0.25, **resumed))


def test_what_changes_nothing_may_differ_and_data_may_have_moved(
    script, flags, scenes_dir, stopped, tmp_path
):
    import shutil

    moved = shutil.copytree(scenes_dir, tmp_path / "moved")
    run = shutil.copytree(stopped, tmp_path / "run")
    out = script(
        "diff_train",
        *flags(
            run,
            lr_scheduler="linear",
            max_train_steps=2,
            instance_data_dir=moved / "train",
            log_steps=1,
            seed=None,
            instance_prompt_loc=moved / "captions.json",
            resume_from_checkpoint="latest",
        ),
    )
    assert "continuing from" in out
    assert checksum(run) == checksum(stopped)


def test_latest_in_a_folder_without_a_run_starts_one(script, flags, tmp_path, stopped):
    command = flags(tmp_path / "r", lr_scheduler="linear", max_train_steps=2, log_steps=10)
    script("diff_train", *command, "--resume_from_checkpoint", "latest")
    assert checksum(tmp_path / "r") == checksum(stopped)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_a_state_and_ends(
    script, flags, tmp_path, monkeypatch, capsys, number, status
):
    script("diff_train", *flags(tmp_path / "whole"))
    calls, step = iter(range(1, 100)), trainer.Trainer.step

    def signalled(self, *args):
        if next(calls) == 3:
            os.kill(os.getpid(), number)
        return step(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(trainer.Trainer, "step", signalled)
        with pytest.raises(SystemExit) as stopped_:
            script("diff_train", *flags(tmp_path / "r"))
    assert stopped_.value.code == status
    assert (
        "stopped after step 3; continue with --resume_from_checkpoint latest"
        in capsys.readouterr().err
    )
    assert [p.name for p in (tmp_path / "r").glob("state_*")] == ["state_3"]
    script("diff_train", *flags(tmp_path / "r"), "--resume_from_checkpoint", "latest")
    assert checksum(tmp_path / "r") == checksum(tmp_path / "whole")
    assert rows(tmp_path / "r") == rows(tmp_path / "whole")


def test_a_loss_that_is_not_finite_names_its_step_and_leaves_the_last_good_state(
    refused, script, flags, tmp_path, monkeypatch
):
    calls, step = iter(range(1, 100)), trainer.Trainer.step

    def broken(self, *args):
        if next(calls) == 4:
            with torch.no_grad():
                next(iter(self.weights.values())).fill_(float("nan"))
        return step(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(trainer.Trainer, "step", broken)
        line = refused("diff_train", *flags(tmp_path / "r", state_steps=2, log_steps=6), status=1)
    assert "a loss or gradient is not finite at step 4" in line
    assert [p.name for p in (tmp_path / "r").glob("state_*")] == ["state_2"]
    saved = load_file(tmp_path / "r" / "state_2" / "process_0.safetensors")
    assert all(t.isfinite().all() for n, t in saved.items() if n.startswith("weights/"))


def test_too_little_host_memory_is_told_before_the_first_step(
    refused, flags, tmp_path, monkeypatch
):
    from types import SimpleNamespace

    import psutil

    memory = SimpleNamespace(available=1000, total=2**40)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    line = refused("diff_train", *flags(tmp_path / "r", **ENSEMBLE))
    assert "--clients_num=3: waiting copies need" in line
    assert not (tmp_path / "r").exists()
