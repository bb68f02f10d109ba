import pytest
import torch

from utils.training import latents


def test_posterior_sample_by_hand():
    found = latents.posterior_sample(
        torch.tensor(2.0), torch.tensor(0.5), torch.tensor(-1.0), scaling_factor=4.0
    )
    assert found.item() == 6.0  # (2 - 0.5) * 4


def test_encode_samples_the_posterior_and_scales(micro_parts):
    vae = micro_parts().vae
    pixels = torch.rand(2, 3, 16, 16) * 2 - 1
    noise = torch.randn(2, 4, 8, 8)
    with torch.no_grad():
        posterior = vae.encode(pixels).latent_dist
        found = latents.encode(vae, pixels, noise)
    torch.testing.assert_close(
        found, 0.5 * (posterior.mean + torch.exp(0.5 * posterior.logvar) * noise)
    )
    assert not torch.allclose(found, 0.5 * posterior.mean)


def test_squared_error_is_per_sample_in_float32():
    pred = torch.zeros(2, 1, 1, 2, dtype=torch.float16)
    wanted = torch.tensor([[[[1.0, 3.0]]], [[[0.0, 2.0]]]], dtype=torch.float16)
    found = latents.squared_error(pred, wanted)
    assert found.dtype == torch.float32
    assert found.tolist() == [5.0, 2.0]


def test_velocity_target_by_hand(micro_parts):
    scheduler = micro_parts("v_prediction").noise_scheduler
    clean, noise, t = (
        torch.full((1, 1, 1, 1), 3.0),
        torch.full((1, 1, 1, 1), 2.0),
        torch.tensor([400]),
    )
    a = scheduler.alphas_cumprod[400]
    expected = a.sqrt() * 2 - (1 - a).sqrt() * 3
    torch.testing.assert_close(latents.target(scheduler, clean, noise, t).squeeze(), expected)
    assert latents.target(micro_parts().noise_scheduler, clean, noise, t) is noise


def test_an_untrainable_prediction_type_is_an_error(micro_parts):
    scheduler = micro_parts().noise_scheduler
    scheduler.register_to_config(prediction_type="sample")
    with pytest.raises(ValueError, match="prediction_type='sample' cannot be trained"):
        latents.target(scheduler, None, None, None)


@pytest.mark.parametrize(
    ("kind", "expected"), [("epsilon", [1.0, 0.5]), ("v_prediction", [0.8, 5 / 11])]
)
def test_snr_weights_by_hand(kind, expected):
    """alphas 0.8 and 10/11 give SNR 4 and 10; gamma 5."""
    from types import SimpleNamespace

    scheduler = SimpleNamespace(
        alphas_cumprod=torch.tensor([0.8, 10 / 11]), config=SimpleNamespace(prediction_type=kind)
    )
    found = latents.snr_weights(scheduler, torch.tensor([0, 1]), 5.0)
    assert found.tolist() == pytest.approx(expected, rel=1e-4)
