"""Start the processes of a script: by a launcher such as torchrun, by --world-size and --rank of
each process, or one process alone."""

from __future__ import annotations

import contextlib
import os
import secrets
import sys
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import torch

from utils.runtime import launcher_settings
from utils.runtime.devices import default_device
from utils.runtime.errors import UsageError, first_line
from utils.runtime.parallel import Alone, Processes

if TYPE_CHECKING:
    from accelerate import Accelerator

# How long a process waits in a collective operation for the others. The libraries' default is
# minutes, but the main process may take longer to save, and another one to encode more images.
PATIENCE = timedelta(hours=6)
# how long processes wait for each other at the start, when some may load from a slow network disk
MEETING_MINUTES = 10
DEFAULT_ADDRESS = "tcp://127.0.0.1:29500"  # torchrun's


def accelerator(*, mixed_precision: str, backend: str | None = None) -> Accelerator:
    """The Accelerator of a script, in each of its processes.

    UsageError if the launcher announced more processes than take part, or asks for what this
    toolkit does not do.
    mixed_precision: "no", "fp16" or "bf16";
    backend: of torch.distributed; by default nccl on GPUs and gloo on CPUs."""
    from accelerate import Accelerator, InitProcessGroupKwargs
    from accelerate.state import AcceleratorState

    launcher_settings.require_possible()
    # DataLoader workers are forked after the tokenizer was used, which its threads do not survive
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # accelerate keeps the precision of the first Accelerator of a process, but a process may run
    # several scripts one after the other
    AcceleratorState._reset_state()
    patience = InitProcessGroupKwargs(timeout=PATIENCE, **({"backend": backend} if backend else {}))
    with launcher_settings.without_counts():
        created = Accelerator(
            # without it, processes that torchrun starts on a machine without GPUs do not connect
            cpu=not torch.cuda.is_available(),
            mixed_precision=mixed_precision,
            kwargs_handlers=[patience],
        )
    announced = int(os.environ.get("WORLD_SIZE", 1))
    if announced != created.num_processes:
        raise UsageError(
            f"WORLD_SIZE={announced} but {created.num_processes} process(es) take part; start them"
            " with torchrun"
        )
    return created


def sharing() -> Processes:
    """The processes of a stage that shares images among them: this one alone, which needs no
    library for it, or those that a launcher started."""
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        on_cpu = os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes")
        return Processes(Alone(torch.device("cpu") if on_cpu else default_device()))
    return Processes(accelerator(mixed_precision="no"))


def process_number() -> int:
    """The launcher's number of this process, from 0; it is known before the processes connect."""
    return int(os.environ.get("RANK", 0))


def first_process() -> bool:
    """Whether this is the launcher's first process."""
    return process_number() == 0


@contextlib.contextmanager
def measuring(
    *, world_size: int, rank: int, dist_url: str | None, backend: str | None, gpu: int | None
) -> Iterator[Processes]:
    """Connect the processes of a measurement, and disconnect them at the end of the block.

    They come from a launcher, or each is started by hand as in the published script, with
    --world-size, --rank and --dist-url. A single process opens no connection.

    world_size: --world-size, number of processes; 1 or less is one process;
    rank: --rank, number of this process from 0;
    dist_url: --dist-url, tcp://host:port of process 0;
    backend: --dist-backend, "nccl" or "gloo"; by default nccl on GPUs and gloo on CPUs;
    gpu: --gpu, number of the GPU of a single process.
    UsageError if one of them cannot be used, or the processes do not meet. Yields: Processes."""
    if gpu is not None and gpu >= torch.cuda.device_count():
        raise UsageError(
            f"--gpu={gpu}: this machine has {torch.cuda.device_count()} GPUs; they are numbered"
            " from 0"
        )
    if backend == "nccl" and not torch.cuda.is_available():
        raise UsageError("--dist-backend='nccl' needs GPUs; without GPUs use gloo")
    launched = "RANK" in os.environ
    if not launched and world_size > 1:
        _meet_at(world_size, rank, dist_url, backend)
    if gpu is not None and int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise UsageError(
            f"--gpu={gpu} is for a single process; several processes use a GPU each, which"
            " CUDA_VISIBLE_DEVICES selects"
        )
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        yield Processes(Alone(default_device() if gpu is None else torch.device("cuda", gpu)))
        return
    try:
        yield Processes(accelerator(mixed_precision="no", backend=backend))
    finally:
        # the threads of an open process group abort a process that ends before the others
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def start_on_this_node(
    *, world_size: int, rank: int, dist_url: str | None, arguments: Sequence[str]
) -> bool:
    """Run this script on this node with torchrun, one process per GPU, or one process without GPUs.

    Returns: False, without doing anything, in a process that a launcher started. Exits with the
    status of the first process that fails.

    world_size: --world-size, which counts nodes here;
    rank: --rank, number of this node from 0;
    dist_url: --dist-url, tcp://host:port of node 0, by default a port of this machine;
    arguments: the script's."""
    if "RANK" in os.environ:
        return False
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    address = urlsplit(dist_url or DEFAULT_ADDRESS)
    launcher = [
        "--nnodes",
        str(max(1, world_size)),
        "--node_rank",
        str(max(0, rank)),
        "--nproc_per_node",
        str(max(1, torch.cuda.device_count())),
        "--master_addr",
        address.hostname or "",
        "--master_port",
        str(address.port or urlsplit(DEFAULT_ADDRESS).port),
    ]
    try:
        run.main([*launcher, sys.argv[0], *arguments])
    except ChildFailedError as error:
        raise SystemExit(error.get_first_failure()[1].exitcode) from None
    return True


def _meet_at(world_size: int, rank: int, dist_url: str | None, backend: str | None) -> None:
    """Connect to the other processes, and set the variables that torchrun sets for accelerate.

    UsageError for a malformed address, or if not all processes connect within MEETING_MINUTES: a
    process that was given a wrong flag never does."""
    try:
        address = urlsplit(dist_url or "")
        host, port = address.hostname, address.port
    except ValueError:
        host = port = None
    if not host or not port:
        raise UsageError(
            f"--dist-url={dist_url!r} is not accepted; use tcp://host:port, where all processes"
            " meet"
        )
    os.environ |= {
        "WORLD_SIZE": str(world_size),
        "RANK": str(rank),
        "LOCAL_RANK": str(rank % max(1, torch.cuda.device_count())),
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


def shared_seed(given: int | None) -> int:
    """The seed of a run, the same in every process: the given one, else one that the main process
    draws."""
    from accelerate.utils import broadcast_object_list

    return broadcast_object_list([secrets.randbits(31) if given is None else given])[0]
