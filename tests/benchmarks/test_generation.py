"""The generation benchmark: both sides generate every prompt, and memory is printed on the way."""

import argparse

import numpy as np
import pytest
from PIL import Image

from benchmarks import generation


@pytest.fixture
def args(micro_sd):
    return argparse.Namespace(
        model=str(micro_sd),
        side=16,
        steps=2,
        images=3,
        batch=2,
        many=5,
        mixed_precision="no",
        compile=False,
    )


@pytest.mark.parametrize("side", [generation.ours, generation.published])
def test_a_turn_makes_every_prompt_and_can_be_repeated(args, tmp_path, side):
    turn = side(args)
    for name in ("first", "second"):
        turn(tmp_path / name)
        images = sorted((tmp_path / name).rglob("*.png"))
        assert [p.stem for p in images] == ["0", "1", "2"]
        assert all(np.asarray(Image.open(p)).shape == (16, 16, 3) for p in images)
    assert len(set(generation.prompts_of(1000))) == 1000


def test_memory_is_read_at_the_marks(args, tmp_path, capsys):
    generation.memory(args, tmp_path)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0].strip() for line in lines] == [
        "1 images",
        "2 images",
        "5 images",
        "manifest written",
    ]
    assert len(list((tmp_path / "many" / "generations").iterdir())) == 5
