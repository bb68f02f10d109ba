"""What of a run has to be written or checked after a position of its loop."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from utils.training.ensemble import EnsemblePlan, Progress


@dataclass(frozen=True)
class Intervals:
    """How often something is written."""

    rows: int  # optimizer steps between rows of metrics.jsonl
    previews: int  # optimizer steps between preview grids
    checkpoints: int  # optimizer steps between checkpoints of a single model
    ensemble_checkpoints: int  # rounds between checkpoints of an ensemble
    states: int  # optimizer steps between states to resume from


@dataclass(frozen=True)
class Due:
    """What has to be done after a position."""

    log: bool  # append rows to metrics.jsonl
    show: bool  # write a preview grid
    checkpoint: int | None  # number of the checkpoint to write: a step, or a round of an ensemble
    final: bool  # write the final checkpoint
    state: bool  # save a state to resume from
    copies: bool = False  # check how much the model copies

    @property
    def writes(self) -> bool:
        """Whether something of the model is written."""
        return self.show or self.state or self.copies or self.checkpoint is not None


def due_at(
    at: Progress, plan: EnsemblePlan, every: Intervals, *, is_ensemble: bool, copies: bool
) -> Due:
    """What is due at a position. is_ensemble: whether there are several copies or rounds; copies:
    whether a check of copies is due."""
    last = at.position == plan.total
    turn_over = at.position % plan.steps == 0
    log = last or at.position % every.rows == 0 or (turn_over and plan.splits > 1)
    state = last or at.round_over or at.position % every.states == 0
    if is_ensemble:
        show = _shows_round(at, plan, every, last=last)
        return Due(log, show, _checkpoint_of_round(at, every), last, state, copies)
    show = last or at.position % every.previews == 0
    checkpoint = at.position if at.position % every.checkpoints == 0 else None
    return Due(log, show, checkpoint, last, state, copies)


def _shows_round(at: Progress, plan: EnsemblePlan, every: Intervals, *, last: bool) -> bool:
    """Whether a step of a preview grid was passed in the round that is over."""
    if not at.round_over:
        return False
    step = at.round * plan.steps
    return last or step // every.previews > (step - plan.steps) // every.previews


def _checkpoint_of_round(at: Progress, every: Intervals) -> int | None:
    saves = at.round_over and at.round % every.ensemble_checkpoints == 0
    return at.round if saves else None
