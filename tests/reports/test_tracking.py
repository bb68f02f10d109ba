import pytest
from PIL import Image

from utils.reports import tracking


def test_none_and_other_processes_keep_nothing(tmp_path):
    for name, main in (("none", True), ("wandb", False)):
        tracker = tracking.open_tracker(name, folder=tmp_path, project="p", name=None, config={}, main_process=main)
        tracker.log({"loss": 1.0}, 1)
        tracker.finish()
        assert tracker.hint is None
    assert list(tmp_path.iterdir()) == []


def test_the_project_is_given_or_from_the_environment_or_published(monkeypatch):
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    assert tracking.project_name(None, "diffrep_ft") == "diffrep_ft"
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    assert tracking.project_name(None, "diffrep_ft") == "mine"
    assert tracking.project_name("other", "diffrep_ft") == "other"


def test_tensorboard_holds_what_was_logged(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    Image.new("RGB", (4, 4)).save(tmp_path / "i.png")
    tracker = tracking.open_tracker("tensorboard", folder=tmp_path, project="p", name="n", config={"lr": 1})
    tracker.log({"loss": 0.5}, 10)
    tracker.image("generations", tmp_path / "i.png", 10)
    tracker.finish()
    events = EventAccumulator(str(tmp_path / "logs")).Reload()
    assert [(e.step, e.value) for e in events.Scalars("loss")] == [(10, 0.5)]
    assert events.Images("generations")[0].step == 10


def test_shards_are_logged_apart_against_their_samples(tmp_path, monkeypatch):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tracker = tracking.open_tracker("tensorboard", folder=tmp_path, project="p", name="n", config={}, logging_dir="mine")
    for shard, step, loss in ((0, 8, 0.5), (0, 16, 0.25), (1, 8, 0.75)):  # steps go back from shard to shard
        tracker.log({"loss": loss}, step, group=f"shard_{shard}")
    tracker.finish()
    events = EventAccumulator(str(tmp_path / "mine")).Reload()
    assert [(e.step, e.value) for e in events.Scalars("shard_0/loss")] == [(8, 0.5), (16, 0.25)]
    assert [(e.step, e.value) for e in events.Scalars("shard_1/loss")] == [(8, 0.75)]


def test_wandb_gets_an_axis_for_each_shard_and_keeps_a_resumed_run_s_id(tmp_path, monkeypatch):
    import wandb

    sent, opened = [], {}

    class Run:
        id, dir = "abc", str(tmp_path / "r" / "files")

        def define_metric(self, name, step_metric):
            sent.append((name, step_metric))

        def log(self, row, step=None):
            sent.append((row, step))

        def finish(self):
            pass

    monkeypatch.setattr(wandb, "init", lambda **kwargs: opened.update(kwargs) or Run())
    monkeypatch.setenv("WANDB_MODE", "online")
    tracker = tracking.open_tracker("wandb", folder=tmp_path, project="p", name="n", config={}, run_id="abc")
    tracker.log({"loss": 0.5}, 8, group="shard_0")
    tracker.log({"loss": 0.4}, 16, group="shard_0")
    assert sent == [
        ("shard_0/*", "shard_0/samples"), ({"shard_0/loss": 0.5, "shard_0/samples": 8}, None),
        ({"shard_0/loss": 0.4, "shard_0/samples": 16}, None),
    ]  # fmt: skip
    assert (opened["id"], opened["resume"]) == ("abc", "allow")


@pytest.mark.parametrize("mode", ["offline"])
def test_a_real_offline_wandb_run_is_made(tmp_path, monkeypatch, mode):
    monkeypatch.setenv("WANDB_MODE", mode)
    tracker = tracking.open_tracker("wandb", folder=tmp_path, project="p", name="n", config={"seed": 1})
    tracker.log({"loss": 0.5}, 1)
    tracker.finish()
    assert list(tmp_path.glob("wandb/offline-run-*/*.wandb"))
    assert tracker.hint.startswith("wandb keeps this run offline; to upload it: wandb sync ")
    assert tracker.run_id in tracker.hint
