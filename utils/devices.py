"""Devices, precision and processes: the one place that makes an Accelerator and names a device or a dtype."""

import os
import resource
import secrets
import sys

import torch

from utils.errors import UsageError


def accelerator(*, mixed_precision, gradient_accumulation_steps=1):
    """The Accelerator of a script; UsageError when a launcher promised more processes than there are.

    Without an accelerator `cpu=True` is passed: else torchrun's processes do not find each other.
    """
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # workers fork after the tokenizer was used
    # accelerate keeps the precision of the first Accelerator of a process; a script may run more than once in one
    AcceleratorState._reset_state()
    made = Accelerator(
        cpu=not torch.cuda.is_available(),
        mixed_precision=mixed_precision,
        gradient_accumulation_steps=gradient_accumulation_steps,
    )
    promised = int(os.environ.get("WORLD_SIZE", 1))
    if promised != made.num_processes:
        raise UsageError(f"WORLD_SIZE={promised} but {made.num_processes} process(es) take part; start them with torchrun")
    return made


def shared_seed(given):
    """The seed given, or one that the main process draws; every process gets the same."""
    from accelerate.utils import broadcast_object_list

    return broadcast_object_list([secrets.randbits(31) if given is None else given])[0]


def threads():
    """Threads that torch computes with; bit-for-bit repetition on a CPU needs the same."""
    return torch.get_num_threads()


def one_process(script):
    """UsageError if a launcher started several processes of a script that works in one."""
    world = int(os.environ.get("WORLD_SIZE", 1))
    if world > 1:
        raise UsageError(f"WORLD_SIZE={world}: {script} works in one process in this version; start it with python")


def default_device():
    """cuda if there is one, else cpu."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def dtype_of(mixed_precision):
    """The dtype of frozen networks under --mixed_precision; UsageError for fp16 without a GPU, which cannot train in it."""
    if mixed_precision == "fp16" and not torch.cuda.is_available():
        raise UsageError("--mixed_precision='fp16' needs a GPU; without one it takes one of: no, bf16")
    return {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[mixed_precision]


def peak_memory(device):
    """Peak memory of this process in bytes: {"host": ..., "device": ...}; device is None on a CPU."""
    scale = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is in KiB on Linux
    host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale
    return {"host": host, "device": torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None}
