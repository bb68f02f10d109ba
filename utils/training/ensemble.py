"""Iterative ensemble training (Liu et al. 2024, section 3.2): in each round every copy of the model
trains on its split of the images, and then the copies are averaged.

There is one set of modules on the device. The copies of one process take turns on it; while a copy
waits, its moments and the state of its loss rule lie in host memory. One split and one round are
ordinary training, by the same loop."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from utils.data import training_data
from utils.runtime import devices, parallel
from utils.runtime.errors import UsageError
from utils.training import optimizers

if TYPE_CHECKING:
    from utils.data.training_data import Draws
    from utils.training.resharding import Resharding
    from utils.training.step_reports import StepReport
    from utils.training.trainer import Trainer


@dataclass(frozen=True)
class EnsemblePlan:
    """How long each copy trains, and when.

    A position counts the optimizer steps of a process, including the idle steps of a team that has
    no split left in the last turn of a round."""

    sizes: tuple[int, ...]  # images of every split
    rounds: int
    steps: int  # optimizer steps of a copy in a round
    teams: int = 1  # teams of processes that train at the same time

    @property
    def splits(self) -> int:
        """Number of splits, and of copies."""
        return len(self.sizes)

    @property
    def turns(self) -> int:
        """Copies that a team trains one after the other in a round."""
        return -(-self.splits // self.teams)

    @property
    def total(self) -> int:
        """The last position."""
        return self.rounds * self.turns * self.steps

    def locate(self, position: int) -> tuple[int, int, int]:
        """(round, turn, step in the round), each from 0, of the step that follows `position`
        steps."""
        round_, rest = divmod(position, self.turns * self.steps)
        turn, step = divmod(rest, self.steps)
        return round_, turn, step


@dataclass(frozen=True)
class Progress:
    """What is known after each position."""

    position: int  # from 1
    round: int  # from 1
    split: int | None  # of this process's copy; None when its team has no split left in this turn
    report: StepReport | None  # of this process's copy; None without a split
    round_over: bool  # whether the weights are now the average of the copies
    # where the round is over and the method measures it: how far the averaged weights are from the
    # average of what the copies' weights do
    average_error: float | None = None


def waiting_bytes(
    own: int, splits: int, *, weights: int, averaged: int, moments: int, measures: bool
) -> int:
    """The most bytes of host memory that a process needs whose copies take turns.

    own: copies of the process, of `splits` in all; weights: bytes of the weights of a copy, in
    float32; averaged: the same with their averages; moments: numbers that the optimizer keeps for
    each weight; measures: whether averages are measured."""
    ends = (own + splits) * weights if measures else 0
    return own * moments * weights + 3 * averaged + ends


class Ensemble:
    """The copies of one process."""

    def __init__(
        self,
        model: Trainer,
        plan: EnsemblePlan,
        draws: Mapping[int, Draws],
        resharding: Resharding | None = None,
    ):
        """draws: {split: its Draws}, of the splits of this process's team; resharding: which images
        change their split after a round, None: none does."""
        self.model, self.plan, self.draws = model, plan, draws
        self.current: int | None = None  # the split whose copy is on the device
        # split -> state of a copy that waits, in host memory
        self.waiting: dict[int, dict[str, torch.Tensor]] = {}
        # of this round, in host memory: weights at its start, weighted sum so far
        self.start: dict[str, torch.Tensor] | None = None
        self.total: dict[str, torch.Tensor] | None = None
        # whether averages are measured; then also of this round, in host memory: split -> weights
        # of a copy of this process at its end
        self.measures = model.method.measures_average and plan.splits > 1
        self.ends: dict[int, dict[str, torch.Tensor]] = {}
        self.average_error: float | None = None  # of the last round that ended
        self.resharding = resharding

    def split_of(self, turn: int) -> int | None:
        """The split that this process's team trains in a turn, or None."""
        split = self.model.team.number + turn * self.plan.teams
        return split if split < self.plan.splits else None

    def host_bytes(self) -> int:
        """The most bytes of host memory that this process needs: the moments of its copies and,
        for the weights (and their averages), the start of a round, the sum so far, and the copy
        that a state is written from."""
        if self.plan.turns == 1:
            return 0
        return waiting_bytes(
            sum(self.split_of(t) is not None for t in range(self.plan.turns)),
            self.plan.splits,
            weights=sum(p.numel() * 4 for p in self.model.weights.values()),
            averaged=sum(t.numel() * 4 for t in self.model.averaged().values()),
            moments=optimizers.OPTIMIZERS[self.model.optimizer_name].moments,
            measures=self.measures,
        )

    # Turns ----------------------------------------------------------------------------------------

    @torch.no_grad()
    def _begin(self, turn, split):
        if self.plan.turns > 1:
            tensors = self.model.averaged()
            if turn == 0:
                self.start = {n: devices.to_host(t) for n, t in tensors.items()}
                self.total = {n: torch.zeros_like(t) for n, t in self.start.items()}
            else:
                for name, tensor in tensors.items():
                    tensor.copy_(self.start[name])
        elif self.measures:
            self.start = {n: devices.to_host(t) for n, t in self.model.averaged().items()}
        if self.current != split:
            self.model.load_copy(split, self.waiting.pop(split, {}))
            self.current = split

    @torch.no_grad()
    def _end(self, turn, split):
        if self.plan.turns > 1 and split is not None:
            for name, tensor in self.model.averaged().items():
                self.total[name].add_(devices.to_host(tensor), alpha=self.plan.sizes[split])
            self.waiting[split] = self.model.copy_state()
            self.current = None
        if self.measures and split is not None:
            self.ends[split] = {n: devices.to_host(p) for n, p in self.model.weights.items()}
        if turn == self.plan.turns - 1 and self.plan.splits > 1:
            self._average(split)

    def _average(self, split):
        """Load the mean of all copies, weighted by split size, in float32, into the weights."""
        if self.measures:
            self.average_error = self._average_error()
        team, images = self.model.team, sum(self.plan.sizes)
        for name, tensor in self.model.averaged().items():
            own = (
                self.total[name]
                if self.plan.turns > 1
                else devices.to_host(tensor) * self.plan.sizes[split]
            )
            summed = parallel.sum_over_processes(own / team.size, self.model.device)
            tensor.copy_(summed / images)
        self.start = self.total = None
        self.ends = {}

    def _average_error(self):
        """What the method says of the average of all copies, which every process computes."""
        team, sizes = self.model.team, self.plan.sizes
        copies = [
            {
                name: parallel.sum_over_processes(
                    self.ends[split][name] / team.size
                    if split in self.ends
                    else torch.zeros(parameter.shape),
                    self.model.device,
                )
                for name, parameter in self.model.weights.items()
            }
            for split in range(self.plan.splits)
        ]
        start = {name: self.start[f"weights/{name}"] for name in self.model.weights}
        shares = [size / sum(sizes) for size in sizes]
        return self.model.method.average_error(copies, shares, start)

    def _reshard(self, number):
        """Let images change their split. number: of the round that is over, from 1."""
        of_round = self.model.over_copies(self.resharding.of_round(self.model.counts))
        moved = self.resharding.end_round(number, of_round.numpy())
        if self.model.augmentation is not None:
            self.model.augmentation.forget(moved)
        self._draw_from_splits()

    def _draw_from_splits(self):
        for split, draws in self.draws.items():
            draws.take_over(self.resharding.data_of(split))

    def _batches(self, split, first, last, *, batch_size, num_workers):
        """The micro-batches of this process for optimizer steps first ... last - 1 of a copy."""
        accumulation = self.model.optimisation.accumulation
        batches = training_data.loader(
            self.draws[split],
            steps=range(first * accumulation, last * accumulation),
            batch_size=batch_size,
            process=self.model.team.rank,
            num_workers=num_workers,
        )
        return iter(batches)

    def run(
        self, position: int = 0, *, batch_size: int, num_workers: int = 0
    ) -> Iterator[Progress]:
        """Train from `position` to the end. batch_size: images of a micro-batch of this process.
        Yields: Progress after each position; nothing waits for the device."""
        batches: Iterator[Mapping[str, Any]] | None = None
        while position < self.plan.total:
            round_, turn, step = self.plan.locate(position)
            split, report = self.split_of(turn), None
            if split is not None:
                first = round_ * self.plan.steps  # of the copy's steps, in this round
                if step == 0:
                    self._begin(turn, split)
                if step == 0 or batches is None:
                    batches = self._batches(
                        split,
                        first + step,
                        first + self.plan.steps,
                        batch_size=batch_size,
                        num_workers=num_workers,
                    )
                report = self.model.step(batches, first + step)
            turn_over = step == self.plan.steps - 1
            round_over = turn_over and turn == self.plan.turns - 1
            if turn_over:
                self._end(turn, split)
                batches = None
            if round_over and self.resharding is not None and round_ < self.plan.rounds - 1:
                self._reshard(round_ + 1)
            position += 1
            yield Progress(
                position,
                round_ + 1,
                split,
                report,
                round_over=round_over,
                average_error=self.average_error if round_over else None,
            )

    def _beside_copies(self):
        """{name: what has a state beside that of the copies}, where it is in use."""
        found = {"augmentation": self.model.augmentation, "resharding": self.resharding}
        return {name: each for name, each in found.items() if each is not None}

    # States ---------------------------------------------------------------------------------------

    def state(self) -> dict[str, torch.Tensor]:
        """{name: tensor in host memory} from which this process's copies continue."""
        state = {n: devices.to_host(t) for n, t in self.model.averaged().items()}
        for name, tensors in (("start", self.start), ("total", self.total)):
            state |= {f"{name}/{n}": t for n, t in (tensors or {}).items()}
        for split, tensors in self.waiting.items():
            state |= {f"copy_{split}/{n}": t for n, t in tensors.items()}
        for split, tensors in self.ends.items():
            state |= {f"end_{split}/{n}": t for n, t in tensors.items()}
        if self.current is not None:
            # files of every version call the split "shard"
            current = self.model.copy_state() | {"shard": torch.tensor(self.current)}
            state |= {f"copy_current/{n}": t for n, t in current.items()}
        if self.model.counts is not None:
            state["counts"] = devices.to_host(self.model.counts)
        for name, each in self._beside_copies().items():
            state |= {f"{name}/{n}": t for n, t in each.state().items()}
        return state

    @torch.no_grad()
    def load(self, state: Mapping[str, torch.Tensor]) -> None:
        """Continue from `state`; UsageError, before anything is changed, when it belongs to another
        model."""
        own = self.model.averaged()
        for name, tensor in own.items():
            if name not in state or state[name].shape != tensor.shape:
                raise UsageError(
                    f"--resume_from_checkpoint: the state has no {name} of {tuple(tensor.shape)};"
                    " it belongs to another model"
                )
        for name, tensor in own.items():
            tensor.copy_(state[name])

        def under(prefix):
            return {n.removeprefix(prefix): t for n, t in state.items() if n.startswith(prefix)}

        self.start, self.total = under("start/") or None, under("total/") or None
        copies = {n.split("/")[0] for n in state if n.startswith("copy_")}
        self.waiting = {
            int(c.removeprefix("copy_")): under(f"{c}/") for c in copies if c != "copy_current"
        }
        ends = {n.split("/")[0] for n in state if n.startswith("end_")}
        self.ends = {int(e.removeprefix("end_")): under(f"{e}/") for e in ends}
        current = under("copy_current/")
        if current:
            self.current = int(current.pop("shard"))
            self.model.load_copy(self.current, current)
        if self.model.counts is not None:
            self.model.counts.copy_(state["counts"])
        for name, each in self._beside_copies().items():
            each.load(under(f"{name}/"))
        if self.resharding is not None:
            self._draw_from_splits()
