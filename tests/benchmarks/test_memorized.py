"""The benchmark of nearest neighbours in pixels at a small size, and its failures."""

import pytest
import torch

from benchmarks import memorized
from utils.retrieval.formulas import pixel_neighbours

SMALL = ("--generated", "200", "--training", "150", "--side", "8")


def run(capsys, *more):
    with pytest.raises(SystemExit) as ended:
        memorized.main([*SMALL, *more])
    return ended.value.code, capsys.readouterr().out


@pytest.mark.parametrize("more", [(), ("--flip",)])
def test_seconds_memory_and_rates_are_printed(capsys, more):
    status, output = run(capsys, "--most_gib", "100", *more)
    assert not status
    assert output.startswith("200 x 150 images of 8 px")
    assert "mq_rate_015 0.0100" in output  # every hundredth image is a copy


def test_too_much_memory_and_wrong_ratios_end_with_status_1(capsys, monkeypatch):
    status, output = run(capsys, "--most_gib", "0.01")
    assert status
    assert "more than 0.01 GiB" in output
    monkeypatch.setattr(
        pixel_neighbours, "nearest", lambda generated, *_, **__: torch.ones(len(generated), 50)
    )
    status, output = run(capsys, "--most_gib", "100")
    assert status
    assert "ratios differ" in output
