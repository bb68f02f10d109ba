import pytest
import torch

from utils.runtime import devices
from utils.runtime.errors import UsageError


def test_dtypes(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert [devices.dtype_of(p) for p in ("no", "fp16", "bf16")] == [
        torch.float32,
        torch.float16,
        torch.bfloat16,
    ]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(
        UsageError,
        match="--mixed_precision='fp16' needs a GPU; without one choose one of: no, bf16",
    ):
        devices.dtype_of("fp16")


def test_peak_memory_is_in_bytes():
    found = devices.peak_memory(torch.device("cpu"))
    assert found["host"] > 50 * 2**20  # torch alone
    assert found["device"] is None


def test_a_copy_in_host_memory_shares_nothing():
    tensor = torch.ones(2)
    host = devices.to_host(tensor)
    tensor.zero_()
    assert host.tolist() == [1, 1]
