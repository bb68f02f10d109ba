"""When checks of copies are made, and what follows from them. What a check measures is tested in
tests/watch; here a list says it, or the weights do."""

import json

import pytest
import torch
from PIL import Image

from tests.conftest import SEED_FLAGS
from tests.training.test_training_loop import ENSEMBLE, Killed, checksum, killed_at
from utils.files import run_folder
from utils.reports import copying_plot
from utils.training import trainer
from utils.training.copy_checks import Checked
from utils.watch import watch_stage


class Listed:
    """Finds the shares of a list, one after the other; the lower end is half of each."""

    def __init__(self, *shares):
        self.shares = iter(shares)

    def prepare(self):
        pass

    def check(self, model):
        return found(next(self.shares))


class OfWeights:
    """Finds a share that is a function of the weights, as any true measure is."""

    def prepare(self):
        pass

    def check(self, model):
        with model.pipeline() as pipeline:
            weights = pipeline.unet.parameters()
            total = sum(p.detach().double().abs().sum() for p in weights)
        return found(float(total) % 1)


def found(share):
    numbers = {"copy_share": share, "copy_share_lo": share / 2, "copy_share_hi": 1.0}
    sheet = Image.new("RGB", (8, 8), (int(200 * share), 0, 0))
    return Checked({**numbers, "sim_95pc": 0.5, "loss_training": 0.1}, sheet, [{"copy": True}])


@pytest.fixture
def train(script, micro_sd, scenes_dir, monkeypatch):
    """train(folder, watch, *words, **flags) -> what a run of six steps printed."""

    def made(folder, watch, *words, **replaced):
        monkeypatch.setattr(watch_stage, "watch_of", lambda opts, job, processes: watch)
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
            "copy_check_steps": 2,
            "output_dir": folder,
        } | replaced
        given = [word for k, v in named.items() if v is not None for word in (f"--{k}", v)]
        return script("diff_train", *given, *words, *SEED_FLAGS)

    return made


@pytest.fixture(autouse=True)
def plotted(monkeypatch):
    """The number of checks of each plot, which none draws: it would take longer than a run."""
    seen = []
    monkeypatch.setattr(
        copying_plot, "copying", lambda path, checks, limit: seen.append(len(checks))
    )
    return seen


def checks(folder):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if "copy_share" in row]


def kept(folder):
    return json.loads((folder / "checkpoint_best" / "copy_check.json").read_text())


def weights_of(folder):
    from safetensors.torch import load_file

    return load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")


def test_a_run_ends_when_the_lower_bound_passes_and_keeps_the_last_checkpoint_below(
    train, tmp_path
):
    run = tmp_path / "r"
    # at step 4 the share is above the limit, and its lower end is not
    out = train(run, Listed(0.0, 0.18, 0.3), stop_at_copy_share=0.1, max_train_steps=9)
    assert [row["step"] for row in checks(run)] == [2, 4, 6]
    record = json.loads((run / "run.json").read_text())
    assert record["finished"]
    assert record["stopped_at_copy_share"] == {
        "limit": 0.1,
        "step": 6,
        "copy_share": 0.3,
        "copy_share_lo": 0.15,
        "copy_share_hi": 1.0,
    }
    assert kept(run) == checks(run)[1]
    assert (run / "state_6").is_dir()
    assert (run / "generations" / "6.png").is_file()
    assert not list(run.glob("state_9"))
    assert "6 steps, " in out
    assert (
        "stopped at step 6: 30 % copies (15 to 100 %), surely above --stop_at_copy_share=0.1; the"
        " last check below it was at step 4: --checkpoint best" in out
    )
    assert "3 copy checks took " in out
    # both checkpoints are those of a run without checks, at their steps
    train(tmp_path / "w", Listed(), copy_check_steps=None, max_train_steps=6, modelsavesteps=4)
    for folder, plain in (("checkpoint_best", "checkpoint_4"), ("checkpoint", "checkpoint")):
        ours, theirs = weights_of(run / folder), weights_of(tmp_path / "w" / plain)
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_what_is_said_when_no_check_is_below_and_when_none_is_above(train, tmp_path):
    out = train(tmp_path / "above", Listed(0.9), stop_at_copy_share=0.1)
    assert "stopped at step 2: " in out
    assert "no check was below it, and no checkpoint_best was kept" in out
    assert not (tmp_path / "above" / "checkpoint_best").exists()
    out = train(tmp_path / "below", Listed(0.0, 0.1, 0.1), stop_at_copy_share=0.1)
    assert (
        "no check was surely above --stop_at_copy_share=0.1; the last check below it was at step 6"
        in out
    )
    assert "stopped_at_copy_share" not in json.loads((tmp_path / "below" / "run.json").read_text())


def test_a_check_follows_the_last_step_and_leaves_its_row_sheet_and_plot(train, tmp_path, plotted):
    run = tmp_path / "r"
    train(run, Listed(0.1, 0.2), copy_check_steps=4)
    first, last = checks(run)
    assert (first["step"], last["step"]) == (4, 6)
    assert last == {"step": 6, "round": 1, "samples": 12, **found(0.2).numbers}
    with Image.open(run / "generations" / "6_copies.png") as sheet:
        assert sheet.size == (8, 8)
    assert json.loads((run / "generations" / "6_copies.json").read_text()) == [{"copy": True}]
    assert plotted == [1, 2]
    assert not (run / "checkpoint_best").exists()  # without --stop_at_copy_share
    # rows of the loss are as they are without checks
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "loss" in row] == [2, 4, 6]


def test_an_ensemble_is_checked_at_the_end_of_rounds(train, tmp_path):
    run = tmp_path / "r"
    shape = ENSEMBLE | {"total_round": 3, "modelsaverounds": 9}
    train(run, Listed(0.1, 0.2), copy_check_steps=3, **shape)
    # three steps are passed in the second round, the next three end with the third
    assert [(row["round"], row["step"], row["samples"]) for row in checks(run)] == [
        (2, 4, 8),
        (3, 6, 12),
    ]
    train(tmp_path / "s", Listed(0.9), copy_check_steps=1, stop_at_copy_share=0.1, **shape)
    assert [row["round"] for row in checks(tmp_path / "s")] == [1]
    record = json.loads((tmp_path / "s" / "run.json").read_text())
    assert record["stopped_at_copy_share"]["step"] == 2
    assert (tmp_path / "s" / "state_6").is_dir()  # three turns of two steps


def test_a_killed_run_continues_with_the_same_rows(train, tmp_path, monkeypatch, plotted):
    """Killed in a step after a check that no state holds, and while a checkpoint is kept."""
    more = {"state_steps": 3, "stop_at_copy_share": 0.999}
    train(tmp_path / "whole", OfWeights(), **more)
    whole = checks(tmp_path / "whole")
    for run, owner, name, count in (
        (tmp_path / "1", trainer.Trainer, "step", 6),
        (tmp_path / "2", run_folder, "save_folder", 2),
    ):
        with monkeypatch.context() as patch:
            killed_at(patch, owner, name, count)
            with pytest.raises(Killed):
                train(run, OfWeights(), **more)
        out = train(run, OfWeights(), "--resume_from_checkpoint", "latest", **more)
        assert checks(run) == whole
        assert checksum(run) == checksum(tmp_path / "whole")
        assert kept(run) == whole[2]
        assert plotted[-1] == 3
        assert "3 copy checks took" in out


def test_a_run_that_ended_ends_again_and_goes_on_without_the_limit(train, tmp_path):
    run = tmp_path / "r"
    train(run, Listed(0.0, 0.9), stop_at_copy_share=0.1)
    again = train(run, Listed(), "--resume_from_checkpoint", "latest", stop_at_copy_share=0.1)
    assert "stopped at step 4: 90 % copies" in again
    assert kept(run)["step"] == 2
    train(run, Listed(0.9), "--resume_from_checkpoint", "latest")
    assert [row["step"] for row in checks(run)] == [2, 4, 6]
    assert "stopped_at_copy_share" not in json.loads((run / "run.json").read_text())


def test_a_checkpoint_of_a_step_that_is_taken_back_is_removed(train, tmp_path, monkeypatch):
    run, more = tmp_path / "r", {"state_steps": 3, "max_train_steps": 8}
    with monkeypatch.context() as patch:
        killed_at(patch, trainer.Trainer, "step", 6)
        with pytest.raises(Killed):
            train(run, Listed(0.0, 0.1), stop_at_copy_share=0.1, **more)
    assert kept(run)["step"] == 4  # the state is of step 3
    out = train(
        run, Listed(0.1), "--resume_from_checkpoint", "latest", stop_at_copy_share=0.04, **more
    )
    assert "stopped at step 4" in out
    assert not (run / "checkpoint_best").exists()


def test_a_limit_needs_checks(refused, micro_sd, scenes_dir):
    line = refused(
        "diff_train",
        "--pretrained_model_name_or_path",
        micro_sd,
        "--instance_data_dir",
        scenes_dir / "train",
        "--stop_at_copy_share",
        0.05,
    )
    assert line.endswith(
        "--stop_at_copy_share=0.05 is a limit of what checks of copies find; give"
        " --copy_check_steps too"
    )
