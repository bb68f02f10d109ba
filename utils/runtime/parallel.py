"""Processes that work together: how they start, meet, share work and agree."""

import contextlib
import os
import secrets
import sys
from dataclasses import dataclass
from datetime import timedelta
from urllib.parse import urlsplit

import torch

from utils.runtime.devices import default_device
from utils.runtime.errors import ToolkitError, UsageError, first_line

# others wait while the main process saves, or one encodes more images than they: minutes, which is
# the libraries' limit
PATIENCE = timedelta(hours=6)


def accelerator(*, mixed_precision, backend=None):
    """The Accelerator of a script; UsageError when a launcher promised more processes than there
    are.

    Without an accelerator `cpu=True` is passed: else torchrun's processes do not find each other.
    backend: of their talk, else nccl on GPUs and gloo without."""
    from accelerate import Accelerator, InitProcessGroupKwargs
    from accelerate.state import AcceleratorState

    # workers fork after the tokenizer was used
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # accelerate keeps the precision of the first Accelerator of a process; a script may run more
    # than once in one
    AcceleratorState._reset_state()
    patience = InitProcessGroupKwargs(timeout=PATIENCE, **({"backend": backend} if backend else {}))
    made = Accelerator(
        cpu=not torch.cuda.is_available(),
        mixed_precision=mixed_precision,
        kwargs_handlers=[patience],
    )
    promised = int(os.environ.get("WORLD_SIZE", 1))
    if promised != made.num_processes:
        raise UsageError(
            f"WORLD_SIZE={promised} but {made.num_processes} process(es) take part; start them with"
            " torchrun"
        )
    return made


def first_process():
    """Whether this is the first of all processes, before they have met: as the launcher says."""
    return int(os.environ.get("RANK", 0)) == 0


MEETING_MINUTES = 10  # the slowest start of an image from a network disk that we would wait for


class Alone:
    """What `Processes` asks of an accelerator, of a script that runs in one process without one."""

    process_index, num_processes, is_main_process = 0, 1, True

    def __init__(self, device):
        self.device = device


@contextlib.contextmanager
def measuring(*, world_size, rank, dist_url, backend, gpu):
    """The processes of a measurement: those of a launcher, or those that start themselves as
    published (--world-size W --rank R --dist-url tcp://host:port); with one, nothing is opened.
    Yields: Processes; what was opened is closed after."""
    if gpu is not None and gpu >= torch.cuda.device_count():
        raise UsageError(
            f"--gpu={gpu}: this machine has {torch.cuda.device_count()} GPUs; takes a number from 0"
            " below that"
        )
    if backend == "nccl" and not torch.cuda.is_available():
        raise UsageError("--dist-backend='nccl' needs GPUs; without takes gloo")
    launched = "RANK" in os.environ
    if not launched and world_size > 1:
        _meet_at(world_size, rank, dist_url, backend)
    if gpu is not None and int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise UsageError(
            f"--gpu={gpu} is of one process; several take a GPU each, CUDA_VISIBLE_DEVICES says"
            " which"
        )
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        yield Processes(Alone(default_device() if gpu is None else torch.device("cuda", gpu)))
        return
    try:
        yield Processes(accelerator(mixed_precision="no", backend=backend))
    finally:
        # left open, its threads abort a process that ends before the others
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def start_on_this_node(opts, argv):
    """Start a process a GPU (one without GPUs) of this script on this node, by torchrun;
    --world-size and --rank then count nodes. argv: of the script. Returns: False, having done
    nothing, in a process that a launcher started."""
    if "RANK" in os.environ:
        return False
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    where = urlsplit(opts.dist_url or "tcp://127.0.0.1:29500")
    launcher = [
        "--nnodes",
        str(max(1, opts.world_size)),
        "--node_rank",
        str(max(0, opts.rank)),
        "--nproc_per_node",
        str(max(1, torch.cuda.device_count())),
        "--master_addr",
        where.hostname or "",
        "--master_port",
        str(where.port or 29500),
    ]
    try:
        run.main([*launcher, sys.argv[0], *argv])
    except ChildFailedError as error:
        raise SystemExit(error.get_first_failure()[1].exitcode) from None
    return True


def _meet_at(world_size, rank, dist_url, backend):
    """Meet the other processes, and say to accelerate what torchrun would. UsageError for what is
    no address, or when not all have come after MEETING_MINUTES: one that was given a wrong flag
    never does."""
    try:
        address = urlsplit(dist_url)
        host, port = address.hostname, address.port
    except ValueError:
        host = port = None
    if not host or not port:
        raise UsageError(
            f"--dist-url={dist_url!r} is not accepted; takes tcp://host:port, where all processes"
            " meet"
        )
    local = rank % max(1, torch.cuda.device_count())
    os.environ |= {
        "WORLD_SIZE": str(world_size),
        "RANK": str(rank),
        "LOCAL_RANK": str(local),
        "MASTER_ADDR": host,
        "MASTER_PORT": str(port),
    }
    try:
        store = torch.distributed.TCPStore(
            host, port, world_size, rank == 0, timedelta(minutes=MEETING_MINUTES)
        )
    except (RuntimeError, torch.distributed.DistError) as error:
        raise UsageError(
            f"--dist-url={dist_url!r}: {world_size} processes did not meet there within"
            f" {MEETING_MINUTES} minutes ({first_line(error)})"
        ) from None
    backend = backend or ("nccl" if torch.cuda.is_available() else "gloo")
    torch.distributed.init_process_group(
        backend, store=store, rank=rank, world_size=world_size, timeout=PATIENCE
    )


def shared_seed(given):
    """The seed given, or one that the main process draws; every process gets the same."""
    from accelerate.utils import broadcast_object_list

    return broadcast_object_list([secrets.randbits(31) if given is None else given])[0]


@dataclass(frozen=True)
class Team:
    """The processes that train one copy of a model, data-parallel. number: of this team; count:
    teams there are.

    rank: of this process in its team; size: processes of a team; group: torch's process group, None
    for all processes."""

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
        """[B] of every process of the team, in the order of the global batch. Returns: [size *
        B]."""
        if self.size == 1:
            return values
        parts = [torch.empty_like(values) for _ in range(self.size)]
        torch.distributed.all_gather(parts, values.contiguous(), group=self.group)
        return torch.cat(parts)


def team(accelerator, shards):
    """The team of this process among P: process i trains shards i, i + P, ...; when shards divides
    P, P / shards processes share each. UsageError for any other P above the number of shards."""
    processes, index = accelerator.num_processes, accelerator.process_index
    if processes <= shards:
        return Team(index, processes) if shards > 1 else Team()
    if processes % shards:
        raise UsageError(
            f"--clients_num={shards} with {processes} processes: takes at most {shards} processes,"
            " or a multiple of it"
        )
    size = processes // shards
    groups = (
        [torch.distributed.new_group(range(t * size, (t + 1) * size)) for t in range(shards)]
        if shards > 1
        else [None]
    )
    return Team(index // size, shards, index % size, size, groups[index // size])


class Processes:
    """All processes of a run: who this is, and what they agree on."""

    ROWS = 16384

    def __init__(self, accelerator):
        self.index, self.count, self.device = (
            accelerator.process_index,
            accelerator.num_processes,
            accelerator.device,
        )
        self.main = accelerator.is_main_process

    def say(self, line):
        """Print a line, on the main process alone."""
        if self.main:
            print(line, flush=True)

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

    @contextlib.contextmanager
    def together(self):
        """An error of the user's that ends one process in this block ends all of them with its
        message, at the end of the block: none is left waiting for one that is gone. Nothing in it
        may wait for the others."""
        error = None
        try:
            yield
        except ToolkitError as found:
            error = found
        told = self.gather(error and str(error))
        if error is not None:
            raise error
        for message in filter(None, told):
            raise UsageError(message)

    def share(self, value):
        """What the main process holds, on every process. value: of picklable types; our own
        processes alone are heard."""
        if self.count == 1:
            return value
        box = [value]
        torch.distributed.broadcast_object_list(box, device=self.device)
        return box[0]

    def gather(self, value):
        """The value of every process, in their order, on every process. value: of picklable
        types."""
        if self.count == 1:
            return [value]
        found = [None] * self.count
        torch.distributed.all_gather_object(found, value)
        return found

    def gather_rows(self, values):
        """[n_p, D] of every process, where n_p may differ and be 0. Returns: [sum of n_p, D] on the
        CPU, in the order of the processes; None on others than the main one. Sent in blocks of ROWS
        rows, so that no device holds them all."""
        if self.count == 1:
            return values
        told = self.gather((len(values), values.shape[1], values.dtype))
        # of a process that has no rows, width and type say nothing
        sizes, (most, width, dtype) = [size for size, *_ in told], max(told, key=lambda one: one[0])
        # gloo talks from host memory
        where = self.device if torch.distributed.get_backend() == "nccl" else torch.device("cpu")
        parts = [[] for _ in range(self.count)]
        for start in range(0, most, self.ROWS):
            block = torch.zeros(min(self.ROWS, most - start), width, dtype=dtype, device=where)
            own = values[start : start + self.ROWS]
            if len(own):
                block[: len(own)] = own.to(where)
            received = [torch.empty_like(block) for _ in range(self.count)]
            torch.distributed.all_gather(received, block)
            for part, rows, size in zip(parts, received, sizes, strict=True):
                part.append(rows[: max(0, size - start)].cpu() if self.main else None)
        if not self.main:
            return None
        return torch.cat([rows for part in parts for rows in part]) if parts[0] else values


def sum_over_processes(tensor, device):
    """Sum of a tensor over all processes. Returns: a tensor on the CPU; nothing is sent with one
    process."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return tensor
    moved = tensor.to(device, copy=True)
    torch.distributed.all_reduce(moved)
    return moved.cpu()
