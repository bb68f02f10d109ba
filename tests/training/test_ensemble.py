import pytest
import torch

from tests.training.conftest import flat
from utils.runtime.errors import UsageError
from utils.training import ensemble


def test_positions_are_rounds_of_turns_of_steps():
    plan = ensemble.EnsemblePlan((4, 4, 3), rounds=2, steps=5, teams=2)
    assert (plan.splits, plan.turns, plan.total) == (3, 2, 20)
    assert [plan.locate(p) for p in (0, 4, 5, 9, 10, 19)] == [
        (0, 0, 0),
        (0, 0, 4),
        (0, 1, 0),
        (0, 1, 4),
        (1, 0, 0),
        (1, 1, 4),
    ]


def test_a_copy_reports_its_own_steps(start, finished):
    found, _ = finished(start(splits=2, rounds=2, steps=2))
    assert [(at.round, at.split, at.report.step) for at in found] == [
        (1, 0, 1),
        (1, 0, 2),
        (1, 1, 1),
        (1, 1, 2),
        (2, 0, 3),
        (2, 0, 4),
        (2, 1, 3),
        (2, 1, 4),
    ]
    assert [at.round_over for at in found] == [False, False, False, True] * 2


def test_one_split_in_rounds_is_ordinary_training_bit_for_bit(start, finished):
    rounds, _ = start(rounds=3, steps=2), None
    ordinary = start(rounds=1, steps=6)
    ours, theirs = finished(rounds), finished(ordinary)
    assert torch.equal(ours[1], theirs[1])
    assert [at.report.loss for at in ours[0]] == [at.report.loss for at in theirs[0]]


def alone(start, split, steps, **changes):
    """A split's copy trained without an ensemble: its draws, its noise, from the same start.
    Returns: (weights, state)."""
    copies = start(**{"splits": 5, "steps": steps} | changes)
    copies.model.load_copy(split, {})
    from utils.data import training_data

    batches = iter(training_data.loader(copies.draws[split], steps=range(steps), batch_size=2))
    for number in range(steps):
        copies.model.step(batches, number)
    return flat(copies.model), copies.model.copy_state()


def test_the_average_is_weighted_by_shard_size(start, finished):
    """Five splits of twelve images hold 3, 3, 2, 2, 2; the average of the copies is worked out from
    copies trained alone."""
    copies = start(splits=5, steps=2)
    assert copies.plan.sizes == (3, 3, 2, 2, 2)
    _, averaged = finished(copies)
    trained = [alone(start, k, 2)[0] for k in range(5)]
    expected = sum(n * w for n, w in zip(copies.plan.sizes, trained, strict=True)) / 12
    torch.testing.assert_close(averaged, expected, rtol=0, atol=1e-6)
    plain = sum(trained) / 5
    assert (averaged - plain).norm() > 20 * (averaged - expected).norm()


def test_moments_and_bank_stay_with_a_copy_and_are_not_averaged(start, finished):
    copies = start(splits=2, rounds=2, steps=2, ratio=1.25)
    seen = []
    load = copies.model.load_copy
    copies.model.load_copy = lambda split, state: seen.append((split, state)) or load(split, state)
    finished(copies, until=4)
    kept = {k: dict(v) for k, v in copies.waiting.items()}
    assert set(kept) == {0, 1}
    for split in (0, 1):  # to the bit those of a copy that trained alone
        _, own = alone(start, split, 2, splits=2, rounds=2, ratio=1.25)
        assert own.keys() == kept[split].keys()
        assert all(torch.equal(own[n], kept[split][n]) for n in own)
    name = next(n for n in kept[0] if n.endswith("exp_avg"))
    assert not torch.equal(kept[0][name], kept[1][name])
    assert not torch.equal(kept[0]["control/bank"], kept[1]["control/bank"])
    finished(copies, position=4)
    assert [(split, bool(state)) for split, state in seen] == [
        (0, False),
        (1, False),
        (0, True),
        (1, True),
    ]
    for split, state in seen[2:]:
        assert all(torch.equal(state[n], kept[split][n]) for n in kept[split])


def test_ema_is_averaged_the_same_way(start, finished):
    copies = start(splits=2, steps=1, use_ema=True)
    first = flat(copies.model)
    _, averaged = finished(copies)
    found = torch.cat([t.flatten() for t in copies.model.ema.averages.values()])
    # one step each from the same start: average <- 0.1 * start + 0.9 * weight in every copy
    torch.testing.assert_close(found, 0.1 * first + 0.9 * averaged, rtol=0, atol=1e-6)


def test_only_one_copy_s_tensors_are_with_the_model(start):
    """Of four copies, in the middle of each turn: moments of one with the model, those of the
    copies that have trained and wait in host memory, sharing nothing with it."""
    copies = start(splits=4, rounds=2, steps=2)
    size, waited = sum(p.numel() for p in copies.model.weights.values()), []
    for at in copies.run(batch_size=2):
        held = [
            t
            for s in copies.model.optimizer.state.values()
            for k, t in s.items()
            if k.startswith("exp_avg")
        ]
        waiting = [t for s in copies.waiting.values() for n, t in s.items() if "exp_avg" in n]
        if at.report.step % 2:
            assert sum(t.numel() for t in held) == 2 * size
            assert at.split not in copies.waiting
            assert not {t.data_ptr() for t in waiting} & {t.data_ptr() for t in held}
            waited.append(sum(t.numel() for t in waiting) // (2 * size))
    assert waited == [0, 1, 2, 3, 3, 3, 3, 3]
    assert copies.host_bytes() == 4 * (4 * 2 * size + 3 * size)
    assert start(splits=1).host_bytes() == 0


def test_the_loss_scale_stays_with_a_copy(start):
    """A GPU's gradient scaler, worked on the CPU: its scale goes into a copy's state and comes
    back."""
    copies = start(splits=2)
    model = copies.model
    model.scaler, model.first_scale = torch.amp.GradScaler("cpu", enabled=True, init_scale=8.0), 8.0
    model.load_copy(0, {"scaler": torch.tensor([4.0, 3.0], dtype=torch.float64)})
    assert model.scaler.get_scale() == 4
    state = model.copy_state()
    assert state["scaler"].tolist() == [4, 3]
    model.load_copy(1, {})
    assert model.scaler.get_scale() == 8


@pytest.mark.parametrize("until", [1, 3, 4, 6, 7])
def test_a_state_continues_bit_for_bit(start, finished, until):
    def fresh():
        return start(splits=3, rounds=2, steps=2, ratio=1.25, use_ema=True, mixup=0.3, noise=0.1)

    _, whole = finished(fresh())
    stopped, continued = fresh(), fresh()
    finished(stopped, until=until)
    state = {n: t.clone() for n, t in stopped.state().items()}
    assert all(t.device.type == "cpu" for t in state.values())
    continued.load(state)
    _, found = finished(continued, position=until)
    assert torch.equal(found, whole)
    again = fresh()
    finished(again)
    assert torch.equal(again.model.counts, continued.model.counts)
    averages = [
        torch.cat([t.flatten() for t in c.model.ema.averages.values()]) for c in (again, continued)
    ]
    assert torch.equal(*averages)


def test_a_state_of_another_model_is_refused_before_anything_changes(start, finished):
    copies, other = start(), start(text=True)
    finished(other)
    before = flat(copies.model)
    broken = copies.state()
    name = next(n for n in broken if n.startswith("weights/"))
    broken[name] = broken[name][..., :1]
    with pytest.raises(
        UsageError,
        match="--resume_from_checkpoint: the state has no weights/unet.* belongs to another model",
    ):
        copies.load(broken)
    assert torch.equal(flat(copies.model), before)


def test_weights_travel_with_their_images(start):
    weights = torch.arange(1.0, 13.0).numpy()
    copies = start(splits=5, weights=weights)
    for draws in copies.draws.values():
        assert draws.data.weights.tolist() == [weights[i] for i in draws.data.rows]
        expected = draws.data.weights / draws.data.weights.sum()
        assert draws.order.probabilities.tolist() == pytest.approx(expected.tolist())
