import torch

from utils.training import latents


def test_posterior_sample_by_hand():
    found = latents.posterior_sample(
        torch.tensor(2.0), torch.tensor(0.5), torch.tensor(-1.0), scaling_factor=4.0
    )
    assert found.item() == 6.0  # (2 - 0.5) * 4


def test_a_shift_is_taken_off_before_scaling(micro_parts):
    vae = micro_parts().vae
    assert latents.scaling(vae) == {"scaling_factor": 0.5, "shift_factor": 0.0}
    vae.register_to_config(shift_factor=0.5)
    found = latents.posterior_sample(
        torch.tensor(2.0), torch.tensor(0.5), torch.tensor(1.0), **latents.scaling(vae)
    )
    assert found.item() == 1.0  # (2 + 0.5 - 0.5) * 0.5


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
