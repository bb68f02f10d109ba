"""Devices, precision and processes: the one place that makes an Accelerator and names a device or a
dtype."""

import resource
import sys

import torch

from utils.runtime.errors import UsageError


def threads():
    """Threads that torch computes with; bit-for-bit repetition on a CPU needs the same."""
    return torch.get_num_threads()


def default_device():
    """cuda if there is one, else cpu."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def dtype_of(mixed_precision, *, without_gpu="no, bf16"):
    """The dtype of frozen networks under --mixed_precision; UsageError for fp16 without a GPU,
    which cannot train in it.

    without_gpu: what else the script takes there.
    """
    if mixed_precision == "fp16" and not torch.cuda.is_available():
        raise UsageError(
            f"--mixed_precision='fp16' needs a GPU; without one it takes one of: {without_gpu}"
        )
    return {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[mixed_precision]


def measuring_dtype(mixed_precision, device):
    """The dtype of networks that measure: as given, else float16 on a GPU and float32 elsewhere."""
    return dtype_of(
        mixed_precision or ("fp16" if device.type == "cuda" else "no"), without_gpu="no"
    )


def peak_memory(device):
    """Peak memory of this process in bytes: {"host": ..., "device": ...}; device is None on a
    CPU."""
    scale = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is in KiB on Linux
    host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale
    return {
        "host": host,
        "device": torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None,
    }


# Processes that train together --------------------------------------------------------------------


def to_device(tensor, device):
    """Move without making the host wait for the device: by pinned memory when it is a GPU."""
    if device.type != "cuda" or tensor.device.type == "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def to_host(tensor):
    """A copy in host memory that shares nothing with the tensor."""
    return tensor.detach().to("cpu", copy=True)
