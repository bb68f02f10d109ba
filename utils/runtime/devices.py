"""Devices, precision and memory: the one place that names a device or a dtype."""

from __future__ import annotations

import resource
import sys

import torch

from utils.runtime.errors import UsageError

# of --mixed_precision, whether this machine can compute in it or not
DTYPES = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def threads() -> int:
    """Number of CPU threads of torch; results on a CPU repeat to the bit only with the same."""
    return torch.get_num_threads()


def default_device() -> torch.device:
    """The GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def dtype_of(mixed_precision: str, *, without_gpu: str = "no, bf16") -> torch.dtype:
    """The dtype of frozen networks under --mixed_precision ("no", "fp16" or "bf16").

    UsageError for fp16 without a GPU, because a CPU cannot train in it.
    without_gpu: the values that the script accepts without a GPU, for the message."""
    if mixed_precision == "fp16" and not torch.cuda.is_available():
        raise UsageError(
            f"--mixed_precision='fp16' needs a GPU; without one choose one of: {without_gpu}"
        )
    return DTYPES[mixed_precision]


def measuring_dtype(mixed_precision: str | None, device: torch.device) -> torch.dtype:
    """The dtype of networks that measure: as given, else float16 on a GPU and float32 on a CPU."""
    return dtype_of(
        mixed_precision or ("fp16" if device.type == "cuda" else "no"), without_gpu="no"
    )


# {GPU: its peak before the last call of `forget_peak`}
_earlier_peaks: dict[torch.device, int] = {}


def _peak(device):
    return max(torch.cuda.max_memory_allocated(device), _earlier_peaks.get(device, 0))


def forget_peak(device: torch.device) -> None:
    """Let a GPU's allocator count its peak anew; `peak_memory` keeps the one so far."""
    _earlier_peaks[device] = _peak(device)
    torch.cuda.reset_peak_memory_stats(device)


def peak_memory(device: torch.device) -> dict[str, int | None]:
    """Peak memory of this process in bytes. Returns: {"host": ..., "device": None on a CPU}."""
    scale = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is in KiB on Linux
    host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale
    return {"host": host, "device": _peak(device) if device.type == "cuda" else None}


def total_memory(device: torch.device) -> int:
    """Memory of a device in bytes, used or not; of a CPU that of the machine."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    import psutil

    return psutil.virtual_memory().total


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy a tensor to a device; to a GPU through pinned memory, so that the host does not wait."""
    if device.type != "cuda" or tensor.device.type == "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def to_host(tensor: torch.Tensor) -> torch.Tensor:
    """A copy in host memory that shares no storage with the tensor."""
    return tensor.detach().to("cpu", copy=True)
