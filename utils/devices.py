"""Devices, precision and processes: the one place that makes an Accelerator and names a device or a dtype."""

import os
import resource
import secrets
import sys
from dataclasses import dataclass
from datetime import timedelta

import torch

from utils.errors import UsageError


def accelerator(*, mixed_precision):
    """The Accelerator of a script; UsageError when a launcher promised more processes than there are.

    Without an accelerator `cpu=True` is passed: else torchrun's processes do not find each other.
    """
    from accelerate import Accelerator, InitProcessGroupKwargs
    from accelerate.state import AcceleratorState

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # workers fork after the tokenizer was used
    # accelerate keeps the precision of the first Accelerator of a process; a script may run more than once in one
    AcceleratorState._reset_state()
    # others wait while the main process saves, or one encodes more images than they: minutes, which is the libraries' limit
    patience = InitProcessGroupKwargs(timeout=timedelta(hours=6))
    made = Accelerator(cpu=not torch.cuda.is_available(), mixed_precision=mixed_precision, kwargs_handlers=[patience])
    promised = int(os.environ.get("WORLD_SIZE", 1))
    if promised != made.num_processes:
        raise UsageError(f"WORLD_SIZE={promised} but {made.num_processes} process(es) take part; start them with torchrun")
    return made


def first_process():
    """Whether this is the first of all processes, before they have met: as the launcher says."""
    return int(os.environ.get("RANK", 0)) == 0


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


# Processes that train together ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Team:
    """The processes that train one copy of a model, data-parallel. number: of this team; count: teams there are.

    rank: of this process in its team; size: processes of a team; group: torch's process group, None for all processes.
    """

    number: int = 0
    count: int = 1
    rank: int = 0
    size: int = 1
    group: object = None

    def wrap(self, module, device):
        """The module, whose gradients are averaged over the team when it has several processes."""
        if self.size == 1:
            return module
        ids = [device.index] if device.type == "cuda" else None
        return torch.nn.parallel.DistributedDataParallel(
            module, device_ids=ids, process_group=self.group, gradient_as_bucket_view=True
        )

    def gather(self, values):
        """[B] of every process of the team, in the order of the global batch. Returns: [size * B]."""
        if self.size == 1:
            return values
        parts = [torch.empty_like(values) for _ in range(self.size)]
        torch.distributed.all_gather(parts, values.contiguous(), group=self.group)
        return torch.cat(parts)


def team(accelerator, shards):
    """The team of this process among P: process i trains shards i, i + P, ...; when shards divides P, P / shards
    processes share each. UsageError for any other P above the number of shards."""
    processes, index = accelerator.num_processes, accelerator.process_index
    if processes <= shards:
        return Team(index, processes) if shards > 1 else Team()
    if processes % shards:
        raise UsageError(
            f"--clients_num={shards} with {processes} processes: takes at most {shards} processes, or a multiple of it"
        )
    size = processes // shards
    groups = [torch.distributed.new_group(range(t * size, (t + 1) * size)) for t in range(shards)] if shards > 1 else [None]
    return Team(index // size, shards, index % size, size, groups[index // size])


class Processes:
    """All processes of a run: who this is, and what they agree on."""

    def __init__(self, accelerator):
        self.index, self.count, self.device = accelerator.process_index, accelerator.num_processes, accelerator.device
        self.main = accelerator.is_main_process

    def wait(self):
        """Return when every process has come here."""
        if self.count > 1:
            torch.distributed.barrier()

    def any(self, flag):
        """Whether the flag is set in some process; every process gets the same answer."""
        if self.count == 1:
            return bool(flag)
        return sum_over_processes(torch.tensor(float(flag)), self.device).item() > 0

    def rows(self, values):
        """[n] of every process. Returns: [P, n], on the CPU. This waits for the device."""
        if self.count == 1:
            return values[None].cpu()
        table = torch.zeros(self.count, len(values), dtype=values.dtype, device=self.device)
        table[self.index] = values
        return sum_over_processes(table, self.device)


def sum_over_processes(tensor, device):
    """Sum of a tensor over all processes. Returns: a tensor on the CPU; nothing is sent with one process."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return tensor
    moved = tensor.to(device, copy=True)
    torch.distributed.all_reduce(moved)
    return moved.cpu()


def to_device(tensor, device):
    """Move without making the host wait for the device: by pinned memory when it is a GPU."""
    if device.type != "cuda" or tensor.device.type == "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def to_host(tensor):
    """A copy in host memory that shares nothing with the tensor."""
    return tensor.detach().to("cpu", copy=True)
