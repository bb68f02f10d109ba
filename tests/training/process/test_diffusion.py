import pytest
import torch

from utils.training.process import diffusion


def test_velocity_target_by_hand(micro_parts):
    scheduler = diffusion.noise_scheduler(micro_parts("v_prediction").scheduler)
    clean, noise, t = (
        torch.full((1, 1, 1, 1), 3.0),
        torch.full((1, 1, 1, 1), 2.0),
        torch.tensor([400]),
    )
    a = scheduler.alphas_cumprod[400]
    expected = a.sqrt() * 2 - (1 - a).sqrt() * 3
    torch.testing.assert_close(diffusion.target(scheduler, clean, noise, t).squeeze(), expected)
    assert (
        diffusion.target(diffusion.noise_scheduler(micro_parts().scheduler), clean, noise, t)
        is noise
    )


def test_an_untrainable_prediction_type_is_an_error(micro_parts):
    scheduler = diffusion.noise_scheduler(micro_parts().scheduler)
    scheduler.register_to_config(prediction_type="sample")
    with pytest.raises(ValueError, match="prediction_type='sample' cannot be trained"):
        diffusion.target(scheduler, None, None, None)


@pytest.mark.parametrize(
    ("kind", "expected"), [("epsilon", [1.0, 0.5]), ("v_prediction", [0.8, 5 / 11])]
)
def test_snr_weights_by_hand(kind, expected):
    """alphas 0.8 and 10/11 give SNR 4 and 10; gamma 5."""
    from types import SimpleNamespace

    scheduler = SimpleNamespace(
        alphas_cumprod=torch.tensor([0.8, 10 / 11]), config=SimpleNamespace(prediction_type=kind)
    )
    found = diffusion.snr_weights(scheduler, torch.tensor([0, 1]), 5.0)
    assert found.tolist() == pytest.approx(expected, rel=1e-4)


def test_the_noise_scheduler_has_the_pipelines_betas_and_prediction(micro_parts):
    parts = micro_parts("v_prediction")
    scheduler = diffusion.noise_scheduler(parts.scheduler)
    assert scheduler.config.prediction_type == "v_prediction"
    torch.testing.assert_close(scheduler.alphas_cumprod, parts.scheduler.alphas_cumprod)


def test_a_step_of_diffusion_is_its_own_class_of_times(micro_parts):
    process = diffusion.Diffusion(micro_parts().scheduler)
    drawn = torch.stack([process.draw(torch.Generator().manual_seed(s)) for s in range(200)])
    assert drawn.dtype == torch.int64
    assert (drawn.min() < 50, drawn.max() > 950, drawn.max() < 1000) == (True, True, True)
    assert process.bins == 1000
    assert torch.equal(process.bin(drawn), drawn)
    assert torch.equal(process.network_time(drawn), drawn)
    assert process.weights(drawn) is None


def test_fewer_bins_hold_equal_shares_of_the_steps(micro_parts):
    scheduler = micro_parts().scheduler
    time = torch.arange(1000)
    assert torch.equal(diffusion.Diffusion(scheduler).bin(time), time)
    few = diffusion.Diffusion(scheduler, bins=8)
    assert few.bins == 8
    assert torch.bincount(few.bin(time)).tolist() == [125] * 8
    assert few.bin(torch.tensor([0, 124, 125, 999])).tolist() == [0, 0, 1, 7]
    generator = torch.Generator().manual_seed(0)
    assert max(int(few.draw(generator)) for _ in range(50)) > 100
