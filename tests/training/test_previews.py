import contextlib
import json
from types import SimpleNamespace

import torch
from PIL import Image

from utils.models import loading
from utils.training.previews import preview


def fake_training(parts):
    @contextlib.contextmanager
    def pipeline():
        yield loading.assemble(parts)

    return SimpleNamespace(
        device=torch.device("cpu"), pipeline=pipeline, noise_scheduler=parts.noise_scheduler
    )


def test_a_preview_is_a_grid_with_its_prompts(tmp_path, micro_parts):
    parts = micro_parts()
    prompts = {f"{i}.png": [f"prompt {i}", "other"] for i in range(5)}
    preview(fake_training(parts), prompts, tmp_path / "9.png", count=3, seed=1, side=16)
    rows = json.loads((tmp_path / "9.json").read_text())
    assert [prompts[r["image"]][0] for r in rows] == [r["prompt"] for r in rows]
    assert Image.open(tmp_path / "9.png").size == (3 * 22 + 6, 28)
