"""What is due after the positions of a loop, by hand."""

from utils.training.due import Intervals, due_at
from utils.training.ensemble import EnsemblePlan, Progress

EVERY = Intervals(rows=3, previews=4, checkpoints=5, ensemble_checkpoints=2, states=6)


def found(plan, *, is_ensemble):
    """{what: the positions at which it is due} over a whole plan."""
    positions = {}
    for position in range(1, plan.total + 1):
        round_over = position % (plan.turns * plan.steps) == 0
        round_ = -(-position // (plan.turns * plan.steps))
        at = Progress(position, round_, 0, None, round_over)
        due = due_at(at, plan, EVERY, is_ensemble=is_ensemble, copies=False)
        for what in ("log", "show", "checkpoint", "final", "state"):
            if getattr(due, what):
                positions.setdefault(what, []).append(position)
    return positions


def test_one_model_is_written_every_so_many_steps_and_at_the_end():
    assert found(EnsemblePlan(sizes=(8,), rounds=1, steps=11), is_ensemble=False) == {
        "log": [3, 6, 9, 11],
        "show": [4, 8, 11],
        "checkpoint": [5, 10],
        "final": [11],
        "state": [6, 11],
    }


def test_an_ensemble_is_written_when_a_round_is_over():
    """Two copies of three steps take turns: a round has six positions. A preview is due where a
    copy's step 4, 8 or 12 was passed."""
    assert found(EnsemblePlan(sizes=(8, 8), rounds=4, steps=3), is_ensemble=True) == {
        "log": [3, 6, 9, 12, 15, 18, 21, 24],
        "show": [12, 18, 24],
        "checkpoint": [12, 24],
        "final": [24],
        "state": [6, 12, 18, 24],
    }
