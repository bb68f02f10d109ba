"""Checks of copies of adapters on Stable Diffusion XL, 3 and Flux."""

import json

import pytest

from tests import pipelines
from tests.conftest import SEED_FLAGS
from utils.generation import sampling
from utils.reports import copying_plot
from utils.watch import copy_watch

# of previews too: that of the toolkit for U-Nets, else of the pipeline's call
SCALES = {"SDXL": 7.5, "SD 3": 7.0, "Flux": 3.5}


@pytest.fixture
def settings(monkeypatch):
    """The settings of the images of each check."""
    seen, generate = [], sampling.generate
    monkeypatch.setattr(
        copy_watch.sampling,
        "generate",
        lambda *given, **named: seen.append(named["settings"]) or generate(*given, **named),
    )
    monkeypatch.setattr(copying_plot, "copying", lambda *given, **named: None)
    return seen


@pytest.mark.parametrize("name", SCALES)
def test_a_check_generates_as_the_family_does(script, scenes_dir, tmp_path, settings, name):
    pipelines.miniature(name).save_pretrained(tmp_path / "base")
    length = None if name == "SDXL" else 12
    script(
        "diff_train",
        *("--pretrained_model_name_or_path", tmp_path / "base", "--lora_rank", 2),
        *("--instance_data_dir", scenes_dir / "train", "--resolution", 16),
        *("--instance_prompt_loc", scenes_dir / "captions.json"),
        *("--class_prompt", "instancelevel_blip", "--output_dir", tmp_path / "run"),
        *("--max_train_steps", 1, "--save_steps", 99, "--sample_batch_size", 1, "--seed", 3),
        *("--copy_check_steps", 1, "--copy_check_prompts", 2, "--learning_rate", 1e-3),
        *(() if length is None else ("--max_sequence_length", length)),
        *SEED_FLAGS,
    )
    (check,) = [each for each in settings if each.steps == copy_watch.STEPS]
    assert (check.guidance, check.text_length) == (SCALES[name], length)
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").open()]
    assert [row["copy_share_n"] for row in rows if "copy_share" in row] == [2]
    assert all(0 < row["loss_training"] < 100 for row in rows if "copy_share" in row)
    assert (tmp_path / "run" / "generations" / "1_copies.png").is_file()
