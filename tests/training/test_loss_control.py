import pytest
import torch

from utils.training.loss_control import AntiGradientControl


def naive(losses, timesteps, *, bank, visits, ratio, decay, corrected):
    """The rule and the bank one sample after the other, as the paper states them. Changes bank and
    visits."""
    kept = []
    for loss, t in zip(losses, timesteps, strict=True):
        usual = bank[t] / (1 - decay ** visits[t]) if corrected and visits[t] else bank[t]
        kept.append(ratio * loss >= usual)
    for loss, t in zip(losses, timesteps, strict=True):
        bank[t] = decay * bank[t] + (1 - decay) * loss
        visits[t] += 1
    return kept


@pytest.mark.parametrize("corrected", [False, True])
@pytest.mark.parametrize("ratio", [0.7, 1.25, 2.0])
def test_rule_and_bank_agree_with_a_loop_over_samples(ratio, corrected):
    generator = torch.Generator().manual_seed(0)
    control = AntiGradientControl(
        ratio=ratio, decay=0.8, num_timesteps=6, bias_correction=corrected
    )
    bank, visits = [0.0] * 6, [0] * 6
    dropped = 0
    for _ in range(30):
        losses, timesteps = (
            torch.rand(9, generator=generator),
            torch.randint(6, (9,), generator=generator),
        )
        kept = control.keep(losses, timesteps)
        control.update(losses, timesteps)
        expected = naive(
            losses.tolist(),
            timesteps.tolist(),
            bank=bank,
            visits=visits,
            ratio=ratio,
            decay=0.8,
            corrected=corrected,
        )
        assert kept.tolist() == expected
        dropped += expected.count(False)
        torch.testing.assert_close(control.bank, torch.tensor(bank), rtol=1e-5, atol=1e-6)
    # nine samples of six timesteps: every batch repeats some
    assert control.visits.tolist() == visits
    assert 20 < dropped < 250


def test_by_hand():
    """d = 0.8: losses 1 and 2 at timestep 3, then 0.2 there, with rho = 1.25 and b = 0.8 * 0.2 * 1
    + 0.2 * 2 = 0.56."""
    control = AntiGradientControl(ratio=1.25, decay=0.8, num_timesteps=4)
    first, t = torch.tensor([1.0, 2.0]), torch.tensor([3, 3])
    # zero at first: nothing is skipped before a first visit
    assert control.keep(first, t).tolist() == [True, True]
    control.update(first, t)
    assert control.bank.tolist() == pytest.approx([0, 0, 0, 0.56])
    low = torch.tensor([0.44, 0.45])  # 1.25 * 0.448 = 0.56
    assert control.keep(low, t).tolist() == [False, True]


def test_reset_forgets():
    control = AntiGradientControl(ratio=1.0, decay=0.5, num_timesteps=3)
    control.update(torch.tensor([4.0]), torch.tensor([1]))
    assert control.bank.tolist() == [0, 2, 0]
    control.reset()
    assert control.bank.tolist() == control.visits.tolist() == [0, 0, 0]


def test_a_loss_that_is_not_a_number_is_not_hidden_by_being_dropped():
    control = AntiGradientControl(ratio=1.25, decay=0.8, num_timesteps=2)
    losses = torch.tensor([float("nan"), 1.0])
    kept = control.keep(losses, torch.tensor([0, 1]))
    assert not torch.isfinite((losses * kept).sum())


def test_a_weight_of_the_time_alone_changes_no_decision():
    """Losses of noise, velocity, image or flow differ by such a weight, in the loss and in the
    bank."""
    generator = torch.Generator().manual_seed(0)
    weights = 2.0 ** torch.arange(-3, 5)  # of a bin; a power of two does not round
    plain, weighted = (
        AntiGradientControl(ratio=1.25, decay=0.8, num_timesteps=8, bias_correction=True)
        for _ in range(2)
    )
    dropped = 0
    for _ in range(40):
        losses = torch.rand(6, generator=generator) + 0.1
        times = torch.randint(8, (6,), generator=generator)
        kept = plain.keep(losses, times)
        assert torch.equal(kept, weighted.keep(losses * weights[times], times))
        plain.update(losses, times)
        weighted.update(losses * weights[times], times)
        dropped += int((~kept).sum())
    assert dropped > 20
