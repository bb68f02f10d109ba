import contextlib
import json
from types import SimpleNamespace

import numpy as np
import torch
from PIL import Image

from utils.training import steps
from utils.training.previews import preview


def fake_training(parts):
    @contextlib.contextmanager
    def pipeline():
        yield parts.assemble()

    return SimpleNamespace(
        device=torch.device("cpu"),
        pipeline=pipeline,
        process=SimpleNamespace(preview_steps=50),
        family=steps.of(parts),
    )


def test_a_preview_is_a_grid_with_its_prompts(tmp_path, micro_parts):
    parts = micro_parts()
    prompts = {f"{i}.png": [f"prompt {i}", "other"] for i in range(5)}
    preview(fake_training(parts), prompts, tmp_path / "9.png", count=3, seed=1, side=16)
    rows = json.loads((tmp_path / "9.json").read_text())
    assert [prompts[r["image"]][0] for r in rows] == [r["prompt"] for r in rows]
    assert Image.open(tmp_path / "9.png").size == (3 * 22 + 6, 28)


def test_prompts_of_the_users_own_follow_and_change_no_other_image(tmp_path, micro_parts):
    training, prompts = fake_training(micro_parts()), {"a.png": ["a"], "b.png": ["b"]}
    for name, own in (("plain", ()), ("0", ("mine", "")), ("1", ("mine", ""))):
        preview(training, prompts, tmp_path / f"{name}.png", count=2, seed=1, side=16, own=own)
    plain, rows, later = (
        json.loads((tmp_path / f"{name}.json").read_text()) for name in ("plain", "0", "1")
    )
    assert rows[:2] == plain
    assert [(r["prompt"], r["image"], r["from"]) for r in rows[2:]] == [
        ("mine", None, "--validation_prompt"),
        ("", None, "--validation_prompt"),
    ]
    assert {r["from"] for r in plain} == {"training"}
    assert len({r["seed"] for r in rows}) == 4
    assert rows == later  # the same seeds at every step
    before, grid, again = (
        np.asarray(Image.open(tmp_path / f"{name}.png")) for name in ("plain", "0", "1")
    )
    assert grid.shape == (28, 4 * 22 + 6, 3)
    # the numbers of an image do not depend on its batch, up to rounding
    assert np.abs(grid[6:22, 6:44].astype(int) - before[6:22, 6:44]).max() <= 1
    assert np.array_equal(grid, again)
    assert grid[6:22, 50:66].std() > 0
