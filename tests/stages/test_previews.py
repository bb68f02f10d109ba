import json
from types import SimpleNamespace

import torch
from PIL import Image

from utils.diffusion import models
from utils.stages.previews import preview


def fake_training(parts, main=True):
    accelerator = SimpleNamespace(is_main_process=main, device=torch.device("cpu"))
    return SimpleNamespace(accelerator=accelerator, pipeline=lambda: models.assemble(parts))


def test_a_preview_is_a_grid_with_its_prompts_and_leaves_the_model_in_training(tmp_path, micro_parts):
    parts = micro_parts()
    parts.unet.train()
    prompts = {f"{i}.png": [f"prompt {i}", "other"] for i in range(5)}
    preview(fake_training(parts), prompts, tmp_path / "9.png", count=3, seed=1, side=16)
    rows = json.loads((tmp_path / "9.json").read_text())
    assert [prompts[r["image"]][0] for r in rows] == [r["prompt"] for r in rows]
    assert Image.open(tmp_path / "9.png").size == (3 * 22 + 6, 28)
    assert parts.unet.training


def test_only_the_main_process_draws(tmp_path, micro_parts):
    preview(fake_training(micro_parts(), main=False), {"a": ["b"]}, tmp_path / "9.png", count=1, seed=0, side=16)
    assert list(tmp_path.iterdir()) == []
