"""The flags by which diff_retrieval.py itself is one of several processes, as published."""

from dataclasses import dataclass

from utils.cli.flags import Options, flag, switch
from utils.cli.kinds import count, one_of
from utils.runtime.errors import UsageError

PROCESSES = "several processes"  # title of --help


@dataclass(frozen=True, kw_only=True)
class LaunchOptions(Options):
    """Flags of several processes."""

    world_size: int = flag(
        -1,
        "--world-size",
        kind=count(-1),
        group=PROCESSES,
        help=(
            "number of processes, or of nodes with --multiprocessing-distributed; -1: that of the"
            " launcher"
        ),
    )
    rank: int = flag(
        -1,
        "--rank",
        kind=count(-1),
        group=PROCESSES,
        help="number of this process or node, from 0; -1: that of the launcher",
    )
    dist_url: str | None = flag(
        None,
        "--dist-url",
        group=PROCESSES,
        help=(
            "address where the processes meet: tcp://host:port; required with --world-size above 1,"
            " not opened with one process"
        ),
        unset="tcp://127.0.0.1:29500 with --multiprocessing-distributed, otherwise none",
    )
    dist_backend: str | None = flag(
        None,
        "--dist-backend",
        kind=one_of(("nccl", "gloo")),
        group=PROCESSES,
        help="backend through which the processes communicate",
        unset="nccl on GPUs, otherwise gloo",
    )
    multiprocessing_distributed: bool = switch(
        "--multiprocessing-distributed",
        group=PROCESSES,
        help="start of one process per GPU on this node",
    )

    def _check_processes(self) -> None:
        if self.world_size == 0:
            raise UsageError(
                "--world-size=0 is not accepted; use a number of processes, or -1 for that of the"
                " launcher"
            )
        if self.rank > 0 and self.rank >= max(self.world_size, 1):
            raise UsageError(
                f"--rank={self.rank} does not fit --world-size={self.world_size}; use 0 to one less"
                " than the number of processes"
            )
        if self.world_size > 1:
            self._check_meeting()

    def _check_meeting(self) -> None:
        if self.rank < 0:
            raise UsageError(
                f"--world-size={self.world_size} needs --rank, the number of this process, from 0"
            )
        if not (self.dist_url or "").startswith("tcp://"):
            raise UsageError(
                f"--dist-url={self.dist_url!r} is not accepted; use tcp://host:port, where all"
                " processes meet"
            )
