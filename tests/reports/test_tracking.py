import io
import json

import pytest
from PIL import Image

from utils.reports import tracking


def test_none_and_other_processes_keep_nothing(tmp_path):
    for name, main in (("none", True), ("wandb", False)):
        tracker = tracking.open_tracker(
            name, folder=tmp_path, project="p", name=None, config={}, main_process=main
        )
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
    tracker = tracking.open_tracker(
        "tensorboard", folder=tmp_path, project="p", name="n", config={"lr": 1}
    )
    tracker.log({"loss": 0.5}, 10)
    tracker.image("generations", tmp_path / "i.png", 10)
    tracker.finish()
    events = EventAccumulator(str(tmp_path / "logs")).Reload()
    assert [(e.step, e.value) for e in events.Scalars("loss")] == [(10, 0.5)]
    assert events.Images("generations")[0].step == 10


def test_shards_are_logged_apart_against_their_samples(tmp_path, monkeypatch):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tracker = tracking.open_tracker(
        "tensorboard", folder=tmp_path, project="p", name="n", config={}, logging_dir="mine"
    )
    # steps go back from shard to shard
    for shard, step, loss in ((0, 8, 0.5), (0, 16, 0.25), (1, 8, 0.75)):
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
    tracker = tracking.open_tracker(
        "wandb", folder=tmp_path, project="p", name="n", config={}, run_id="abc"
    )
    tracker.log({"loss": 0.5}, 8, group="shard_0")
    tracker.log({"loss": 0.4}, 16, group="shard_0")
    assert sent == [
        ("shard_0/*", "shard_0/samples"),
        ({"shard_0/loss": 0.5, "shard_0/samples": 8}, None),
        ({"shard_0/loss": 0.4, "shard_0/samples": 16}, None),
    ]
    assert (opened["id"], opened["resume"]) == ("abc", "allow")


@pytest.mark.parametrize("mode", ["offline"])
def test_a_real_offline_wandb_run_is_made(tmp_path, monkeypatch, mode):
    monkeypatch.setenv("WANDB_MODE", mode)
    tracker = tracking.open_tracker(
        "wandb", folder=tmp_path, project="p", name="n", config={"seed": 1}
    )
    tracker.log({"loss": 0.5}, 1)
    tracker.finish()
    assert list(tmp_path.glob("wandb/offline-run-*/*.wandb"))
    assert tracker.hint.startswith("wandb keeps this run offline; to upload it: wandb sync ")
    assert tracker.run_id in tracker.hint


def jpeg(colour):
    buffer = io.BytesIO()
    Image.new("RGB", (6, 4), colour).save(buffer, "JPEG")
    return buffer.getvalue()


PICTURES = {
    "generated/0.png": jpeg((200, 0, 0)),
    "generated/1.png": jpeg((0, 200, 0)),
    "training/a.png": jpeg((0, 0, 200)),
}
ROWS = [
    {
        "query": "generated/0.png",
        "score": 0.5,
        "prompt": "a boat",
        "source_score": None,
        "duplicated": None,
        "query_picture": "generated/0.png",
        "match_picture": "training/a.png",
    },
    {
        "query": "1.png",
        "score": 0.25,
        "prompt": None,
        "source_score": 0.0,
        "duplicated": False,
        "query_picture": "generated/1.png",
        "match_picture": "training/a.png",
    },
]


def test_wandb_gets_a_table_with_pictures_in_their_columns(tmp_path, monkeypatch):
    import wandb

    sent = []

    class Run:
        id, dir = "abc", str(tmp_path / "r" / "files")

        def log(self, row, step=None):
            sent.append((row, step))

    class Table:
        def __init__(self, columns, data):
            self.columns, self.data = columns, data

    monkeypatch.setattr(wandb, "init", lambda **kwargs: Run())
    monkeypatch.setattr(wandb, "Table", Table)
    monkeypatch.setattr(wandb, "Image", lambda image: ("image", image.size, image.getpixel((3, 2))))
    monkeypatch.setenv("WANDB_MODE", "online")
    tracker = tracking.open_tracker("wandb", folder=tmp_path, project="p", name="n", config={})
    tracker.table("matches", ROWS, PICTURES, 3)
    ((logged, step),) = sent
    (table,) = logged.values()
    assert (list(logged), step) == (["matches"], 3)
    assert table.columns == list(ROWS[0])
    first, second = (dict(zip(table.columns, row, strict=True)) for row in table.data)
    # values stay what they are, missing ones too; a name is a picture in columns of pictures alone
    assert {k: first[k] for k in list(ROWS[0])[:5]} == {k: ROWS[0][k] for k in list(ROWS[0])[:5]}
    assert {k: second[k] for k in list(ROWS[0])[:5]} == {k: ROWS[1][k] for k in list(ROWS[0])[:5]}
    for row, channel in ((first, 0), (second, 1)):
        for cell, bright in ((row["query_picture"], channel), (row["match_picture"], 2)):
            assert cell[:2] == ("image", (6, 4))
            assert cell[2][bright] > 150
    tracker.table("matches", [], {}, 3)
    assert len(sent) == 1


def test_a_real_offline_wandb_run_takes_the_table_and_an_image(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    # where wandb keeps a table's pictures until they are sent
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "data"))
    Image.new("RGB", (8, 8), (9, 9, 9)).save(tmp_path / "plot.png")
    tracker = tracking.open_tracker("wandb", folder=tmp_path, project="p", name="n", config={})
    tracker.log({"sim_mean": 0.5}, 0)
    tracker.image("similarity", tmp_path / "plot.png", 0)
    tracker.table("matches", ROWS, PICTURES, 0)
    tracker.finish()
    (media,) = tmp_path.glob("wandb/offline-run-*/files/media")
    (file,) = media.rglob("*.table.json")
    table = json.loads(file.read_text())
    assert table["columns"] == list(ROWS[0])
    assert [row[:5] for row in table["data"]] == [list(row.values())[:5] for row in ROWS]
    assert [Image.open(p).size for p in media.rglob("similarity*.png")] == [(8, 8)]
    kept = [
        p
        for p in (tmp_path / "data").rglob("*")
        if p.is_file() and p.read_bytes().startswith(b"\x89PNG")
    ]
    pixels = [Image.open(p).getpixel((3, 2)) for p in kept]
    assert {p.index(max(p)) for p in pixels} == {0, 1, 2}  # both generations and their match


def test_tensorboard_gets_the_table_as_text_without_pictures(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tracker = tracking.open_tracker(
        "tensorboard", folder=tmp_path, project="p", name="n", config={"lr": 1}
    )
    tracker.table("matches", ROWS, PICTURES, 0)
    tracker.table("nothing", [], {}, 0)
    tracker.finish()
    events = EventAccumulator(str(tmp_path / "logs")).Reload()
    assert [tag.split("/")[0] for tag in events.Tags()["tensors"]] == ["config", "matches"]
    (event,) = events.Tensors("matches/text_summary")
    head, _, first, second = event.tensor_proto.string_val[0].decode().split("\n")
    assert [c.strip() for c in head.split("|")[1:-1]] == list(ROWS[0])[:5]
    assert [c.strip() for c in second.split("|")[1:-1]] == ["1.png", "0.25", "", "0.0", "False"]
