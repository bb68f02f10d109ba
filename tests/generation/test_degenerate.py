import numpy as np
import pytest
import torch
from PIL import Image

from utils.generation import degenerate, mitigations, sampling
from utils.generation.sampling import Prompt
from utils.runtime.errors import DataError


def notes_of(pipeline, count=3):
    hooks = mitigations.SampleHooks()
    jobs = list(
        sampling.image_jobs([Prompt("a red circle")] * count, hooks, images_per_prompt=1, seed=1)
    )
    settings = sampling.SampleSettings(steps=2, side=16)
    images = sampling.generate(
        pipeline, jobs, settings=settings, hooks=hooks, batch_size=2, device="cpu"
    )
    return [each.notes.get("degenerate") for each in images]


def rows(*kinds):
    return [
        {"file": f"generations/{i}.png"} | ({"degenerate": kind} if kind else {})
        for i, kind in enumerate(kinds)
    ]


def test_images_of_a_network_without_finite_weights_are_known(micro_parts):
    parts = micro_parts()
    assert notes_of(parts.assemble()) == [None] * 3
    with torch.no_grad():
        parts.denoiser.conv_in.weight *= float("nan")
    assert notes_of(parts.assemble()) == ["not finite"] * 3


def test_values_are_looked_at_before_the_pipeline_clamps_them(micro_parts):
    """Infinite values become pixels of 0 or 255, which look like any others."""
    parts = micro_parts()
    with torch.no_grad():
        parts.vae.decoder.conv_out.weight[0] = 0
        parts.vae.decoder.conv_out.bias[0] = float("inf")
    assert notes_of(parts.assemble(), 1) == ["not finite"]


def test_an_image_of_one_colour_is_known_by_its_pixels():
    plain, other = Image.new("RGB", (8, 8), (0, 200, 7)), np.zeros((8, 8, 3), np.uint8)
    other[3, 4, 2] = 1
    assert degenerate.note_of(plain, True) == {"degenerate": "one colour"}
    assert degenerate.note_of(Image.fromarray(other), True) == {}
    assert degenerate.note_of(Image.fromarray(other), False) == {"degenerate": "not finite"}


def test_few_plain_images_are_counted_and_most_end_the_generation():
    few = rows(None, "one colour", None, "not finite")
    assert degenerate.counts_of(few) == {"not finite": 1, "one colour": 1}
    assert degenerate.summary(few) == (
        "2 of 4 images show nothing (1 not finite, 1 of one colour), the first: generations/1.png"
    )
    degenerate.require_pictures(few, precision="no")
    assert degenerate.summary(rows(None)) is None
    with pytest.raises(DataError, match=r"^3 of 5 .* so the generation stops; use other weights$"):
        degenerate.require_pictures(rows(*["not finite"] * 3, None, None), precision="no")
    with pytest.raises(DataError, match="use --mixed_precision bf16, or other weights"):
        degenerate.require_pictures(rows("not finite"), precision="fp16")


def test_a_generation_stops_while_it_runs_and_not_at_its_first_plain_image():
    kinds = ["one colour"] * 8 + [None] * 8 + ["one colour"] * 99
    with pytest.raises(DataError, match="^9 of 17 images show nothing"):
        list(degenerate.stopping(rows(*kinds), precision="no"))
