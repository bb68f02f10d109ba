import pytest
import torch

from utils import devices
from utils.errors import UsageError


def test_dtypes(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert [devices.dtype_of(p) for p in ("no", "fp16", "bf16")] == [torch.float32, torch.float16, torch.bfloat16]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match="--mixed_precision='fp16' needs a GPU; without one it takes one of: no, bf16"):
        devices.dtype_of("fp16")


def test_a_launcher_that_promised_more_processes_is_an_error(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="WORLD_SIZE=2: diff_x.py works in one process"):
        devices.one_process("diff_x.py")


def test_shared_seed_keeps_what_is_given_and_draws_otherwise():
    devices.accelerator(mixed_precision="no")
    assert devices.shared_seed(12) == 12
    drawn = {devices.shared_seed(None) for _ in range(4)}
    assert len(drawn) > 1
    assert all(0 <= s < 2**31 for s in drawn)


def test_peak_memory_is_in_bytes():
    found = devices.peak_memory(torch.device("cpu"))
    assert found["host"] > 50 * 2**20  # torch alone
    assert found["device"] is None
