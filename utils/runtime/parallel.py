"""Processes that work together: who each one is, and how they exchange values.

`Processes` is all processes of a run; `Team` is those that train one copy of a model."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, cast

import torch

from utils.runtime.errors import ToolkitError, UsageError

Value = TypeVar("Value")
Say = Callable[[str], None]  # prints a line for the user


class Ranked(Protocol):
    """What `Processes` reads of an accelerate.Accelerator."""

    process_index: int
    num_processes: int
    is_main_process: bool
    device: torch.device


class Alone:
    """Stands for an Accelerator in a script that runs in one process."""

    process_index = 0
    num_processes = 1
    is_main_process = True

    def __init__(self, device: torch.device) -> None:
        self.device = device


class Processes:
    """All processes of a run. Every method but `say` must be called by all of them, in the same
    order.

    index: number of this process, from 0;
    count: number of processes;
    device: the device of this process;
    main: whether this is process 0, the only one that prints and writes shared files;
    planning: whether only a plan is made (--dry_run), as the stage sets it: lines then go to
        stderr, so that stdout holds the plan alone."""

    ROWS = 16384  # rows that `gather_rows` sends at a time

    def __init__(self, accelerator: Ranked) -> None:
        self.index = accelerator.process_index
        self.count = accelerator.num_processes
        self.device = accelerator.device
        self.main = accelerator.is_main_process
        self.planning = False

    def say(self, line: str) -> None:
        """Print a line, in the main process only, above any progress bar."""
        if not self.main:
            return
        out = sys.stderr if self.planning else sys.stdout
        bars = sys.modules.get("tqdm")  # loaded where a bar may be on the terminal
        if bars is None:
            print(line, file=out)
        else:
            bars.tqdm.write(line, file=out)
        out.flush()

    def show(self, plan: Mapping[str, Any]) -> None:
        """Print a plan as JSON on stdout, in the main process only."""
        if self.main:
            print(json.dumps(plan, indent=1), flush=True)

    def wait(self) -> None:
        """Wait until every process has called this."""
        if self.count > 1:
            torch.distributed.barrier()

    def any(self, flag: bool) -> bool:
        """Whether `flag` is true in any process. Returns: the same answer in every process."""
        if self.count == 1:
            return bool(flag)
        return sum_over_processes(torch.tensor(float(flag)), self.device).item() > 0

    def rows(self, values: torch.Tensor) -> torch.Tensor:
        """A row of numbers from every process. This waits for the device.

        values: [n]. Returns: [P, n] on the CPU, in every process."""
        if self.count == 1:
            return values[None].cpu()
        table = torch.zeros(self.count, len(values), dtype=values.dtype, device=self.device)
        table[self.index] = values
        return sum_over_processes(table, self.device)

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """End all processes when a user's error ends one of them, so that none waits for it.

        A ToolkitError that one process raises in the block is raised with the same message in all
        processes, at the end of the block. Nothing in the block may wait for other processes."""
        own = None
        try:
            yield
        except ToolkitError as error:
            own = error
        messages = self.gather(None if own is None else str(own))
        if own is not None:
            raise own
        for message in messages:
            if message:
                raise UsageError(message)

    def share(self, value: Value | None) -> Value:
        """The main process's value, in every process. value: of picklable types, None on other
        processes; it is unpickled only from our own processes."""
        if self.count == 1:
            return cast("Value", value)
        box: list[Any] = [value]
        torch.distributed.broadcast_object_list(box, device=self.device)
        return box[0]

    def gather(self, value: Value) -> list[Value]:
        """The values of all processes, in the order of the processes, in every process. value: of
        picklable types."""
        if self.count == 1:
            return [value]
        values: list[Any] = [None] * self.count
        torch.distributed.all_gather_object(values, value)
        return values

    def gather_rows(self, values: torch.Tensor) -> torch.Tensor | None:
        """Concatenate the rows of all processes, in the order of the processes.

        Rows are sent in blocks of ROWS, so that no device holds all of them.
        values: [n_p, D], where n_p may differ between processes and be 0. Returns: [sum of n_p, D]
        on the CPU; None in other processes than the main one."""
        if self.count == 1:
            return values
        shapes = self.gather((len(values), values.shape[1], values.dtype))
        # width and type of a process without rows are arbitrary
        most, width, dtype = max(shapes, key=lambda shape: shape[0])
        # gloo sends from host memory
        device = self.device if torch.distributed.get_backend() == "nccl" else torch.device("cpu")
        parts: list[list[torch.Tensor]] = [[] for _ in range(self.count)]
        for start in range(0, most, self.ROWS):
            block = torch.zeros(min(self.ROWS, most - start), width, dtype=dtype, device=device)
            own = values[start : start + self.ROWS]
            if len(own):
                block[: len(own)] = own.to(device)
            received = [torch.empty_like(block) for _ in range(self.count)]
            torch.distributed.all_gather(received, block)
            if self.main:
                for part, rows, (count, *_) in zip(parts, received, shapes, strict=True):
                    part.append(rows[: max(0, count - start)].cpu())
        if not self.main:
            return None
        return torch.cat([rows for part in parts for rows in part]) if parts[0] else values


def sum_over_processes(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """The sum of a tensor over all processes.

    device: where the sum is computed. Returns: a tensor on the CPU, in every process; the tensor
    itself in a run of one process."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return tensor
    moved = tensor.to(device, copy=True)
    torch.distributed.all_reduce(moved)
    return moved.cpu()


# Teams --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Team:
    """The processes that train one copy of a model together, each on its share of a batch."""

    number: int = 0  # of this team, from 0
    count: int = 1  # of all teams
    rank: int = 0  # of this process in its team, from 0
    size: int = 1  # processes in the team
    group: torch.distributed.ProcessGroup | None = None  # None: all processes of the run

    def wrap(
        self, module: torch.nn.Module, device: torch.device, *, unused_weights: bool = False
    ) -> torch.nn.Module:
        """The module, wrapped so that its gradients are averaged over the team.

        A team of one process gets the module as it is. unused_weights: whether some weights that
        learn have no part in its output."""
        if self.size == 1:
            return module
        ids = [device.index] if device.type == "cuda" else None
        return torch.nn.parallel.DistributedDataParallel(
            module,
            device_ids=ids,
            process_group=self.group,
            gradient_as_bucket_view=True,
            find_unused_parameters=unused_weights,
        )

    def gather(self, values: torch.Tensor) -> torch.Tensor:
        """The values of all processes of the team, in the order of the global batch.

        values: [B]. Returns: [size * B], in every process of the team."""
        if self.size == 1:
            return values
        parts = [torch.empty_like(values) for _ in range(self.size)]
        torch.distributed.all_gather(parts, values.contiguous(), group=self.group)
        return torch.cat(parts)


def team(accelerator: Ranked, splits: int) -> Team:
    """The team of this process when P processes train a copy of the model on each split.

    With P <= splits, process i trains splits i, i + P, ... alone. With P a multiple of splits,
    P / splits processes train each split together. UsageError for other P."""
    processes, index = accelerator.num_processes, accelerator.process_index
    if processes <= splits:
        return Team(index, processes) if splits > 1 else Team()
    if processes % splits:
        raise UsageError(
            f"--clients_num={splits} with {processes} processes: use at most {splits} processes,"
            f" or a multiple of {splits}"
        )
    size = processes // splits
    groups = [None]
    if splits > 1:
        groups = [
            torch.distributed.new_group(range(t * size, (t + 1) * size)) for t in range(splits)
        ]
    return Team(index // size, splits, index % size, size, groups[index // size])
