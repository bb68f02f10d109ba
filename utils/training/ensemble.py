"""Iterative ensemble training (Liu et al. 2024, section 3.2): rounds over splits, then the average
of the copies.

There is one set of modules on the device. Copies of one process take turns on it; while a copy
waits, its moments and its loss bank lie in host memory. One split and one round are ordinary
training, by the same loop."""

from dataclasses import dataclass

import torch

from utils.data import training_data
from utils.runtime import devices, parallel
from utils.runtime.errors import UsageError


@dataclass(frozen=True)
class EnsemblePlan:
    """sizes: images of every split; rounds; steps: optimizer steps of a copy in a round; teams:
    that train at once.

    A position counts the optimizer steps of a process, the idle ones of a team without a split in
    the last turn included."""

    sizes: tuple
    rounds: int
    steps: int
    teams: int = 1

    @property
    def splits(self):
        return len(self.sizes)

    @property
    def turns(self):
        """Copies that a team trains one after the other in a round."""
        return -(-self.splits // self.teams)

    @property
    def total(self):
        return self.rounds * self.turns * self.steps

    def locate(self, position):
        """(round, turn, step in the round), each from 0, of the step that follows `position`
        steps."""
        round_, rest = divmod(position, self.turns * self.steps)
        return round_, *divmod(rest, self.steps)


@dataclass(frozen=True)
class Progress:
    """After position `position` (from 1): the StepReport of this process's copy, or None when its
    team has no split left in this turn. round: from 1; round_over: the weights are the average of
    the copies."""

    position: int
    round: int
    split: int | None
    report: object
    round_over: bool


class Ensemble:
    """The copies of one process. model: training.Training; draws: {split: Draws} of the splits of
    this process's team."""

    def __init__(self, model, plan, draws):
        self.model, self.plan, self.draws = model, plan, draws
        self.current = None  # the split whose copy is on the device
        self.waiting = {}  # split -> state of a copy that waits, in host memory
        # of this round, in host memory: weights at its start, weighted sum so far
        self.start = self.total = None

    def split_of(self, turn):
        """The split that this process's team trains in a turn, or None."""
        split = self.model.team.number + turn * self.plan.teams
        return split if split < self.plan.splits else None

    def host_bytes(self):
        """Host memory in bytes that this process needs at most: moments of its copies, and of
        weights (and averages) the start of a round, the sum so far, and the copy of them that a
        state is written from."""
        if self.plan.turns == 1:
            return 0
        own = sum(self.split_of(t) is not None for t in range(self.plan.turns))
        weights = sum(p.numel() * 4 for p in self.model.weights.values())
        averaged = sum(t.numel() * 4 for t in self.model.averaged().values())
        return own * 2 * weights + 3 * averaged

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
        if turn == self.plan.turns - 1 and self.plan.splits > 1:
            self._average(split)

    def _average(self, split):
        """Load the mean of all copies, weighted by split size, in float32, into the weights."""
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

    def run(self, position=0, *, batch_size, num_workers=0):
        """Train from `position` to the end. Yields: Progress after each position; nothing waits for
        the device."""
        batches, team, accumulation = None, self.model.team, self.model.optimisation.accumulation
        while position < self.plan.total:
            round_, turn, step = self.plan.locate(position)
            split, report = self.split_of(turn), None
            if split is not None:
                if step == 0:
                    self._begin(turn, split)
                first = round_ * self.plan.steps
                if step == 0 or batches is None:
                    micro_steps = range(
                        (first + step) * accumulation, (first + self.plan.steps) * accumulation
                    )
                    batches = iter(
                        training_data.loader(
                            self.draws[split],
                            steps=micro_steps,
                            batch_size=batch_size,
                            process=team.rank,
                            num_workers=num_workers,
                        )
                    )
                report = self.model.step(batches, first + step)
            over = step == self.plan.steps - 1
            if over:
                self._end(turn, split)
                batches = None
            position += 1
            yield Progress(
                position, round_ + 1, split, report, over and turn == self.plan.turns - 1
            )

    # States ---------------------------------------------------------------------------------------

    def state(self):
        """Everything that this process's copies continue from, in host memory. Returns: {name:
        tensor}."""
        state = {n: devices.to_host(t) for n, t in self.model.averaged().items()}
        for name, tensors in (("start", self.start), ("total", self.total)):
            state |= {f"{name}/{n}": t for n, t in (tensors or {}).items()}
        copies = dict(self.waiting)
        if self.current is not None:
            copies["current"] = self.model.copy_state() | {"shard": torch.tensor(self.current)}
        for split, tensors in copies.items():
            state |= {f"copy_{split}/{n}": t for n, t in tensors.items()}
        if self.model.counts is not None:
            state["counts"] = devices.to_host(self.model.counts)
        return state

    @torch.no_grad()
    def load(self, state):
        """Continue from `state`; UsageError when it is another model's, before anything is
        changed."""
        own = self.model.averaged()
        for name, tensor in own.items():
            if name not in state or state[name].shape != tensor.shape:
                raise UsageError(
                    f"--resume_from_checkpoint: the state has no {name} of {tuple(tensor.shape)};"
                    " it is another model's"
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
        current = under("copy_current/")
        if current:
            self.current = int(current.pop("shard"))
            self.model.load_copy(self.current, current)
        if self.model.counts is not None:
            self.model.counts.copy_(state["counts"])
