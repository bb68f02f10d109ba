import pytest
import torch
from torch.nn.functional import interpolate

from utils.retrieval.descriptors import network


def test_input_is_scaled_once_on_the_way_in(wanted):
    seen = []
    made = network.on_scaled_input(
        lambda x: seen.append(x) or x.mean((2, 3)), (0.5, 0.4, 0.3), (0.5, 0.2, 0.1), wanted()
    )
    found = made(torch.full((2, 4, 4, 3), 51, dtype=torch.uint8))
    assert found[0].tolist() == pytest.approx(
        [(0.2 - 0.5) / 0.5, (0.2 - 0.4) / 0.2, (0.2 - 0.3) / 0.1], abs=1e-6
    )
    assert (seen[0].dtype, found.dtype) == (torch.float32, torch.float32)


def test_several_scales_are_averaged_before_an_images_own_norm(wanted):
    pixels = torch.randint(
        0, 256, (3, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )

    def forward(x):
        return torch.cat([x.std((2, 3)), x.amax((2, 3)) * x.shape[-1]], 1)

    made = network.on_scaled_input(forward, (0.5,) * 3, (0.5,) * 3, wanted(multiscale=True))
    x = pixels.permute(0, 3, 1, 2).float() / 127.5 - 1
    sides = (32, 22, 16)  # 32 / sqrt 2 = 22.6
    expected = (
        sum(forward(interpolate(x, scale_factor=s, mode="bilinear")) for s in (1, 2**-0.5, 0.5)) / 3
    )
    torch.testing.assert_close(made(pixels), expected, atol=1e-4, rtol=1e-5)
    assert [
        interpolate(x, scale_factor=s, mode="bilinear").shape[-1] for s in network.SCALES
    ] == list(sides)
    # an image's descriptor does not hang on the others of its batch
    torch.testing.assert_close(made(pixels[:1]), made(pixels)[:1])


@pytest.fixture
def convolutions():
    """Two convolutions with random weights."""
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Conv2d(3, 5, 3), torch.nn.ReLU(), torch.nn.Conv2d(5, 2, 3))


def test_pictures_and_weights_are_computed_with_channels_side_by_side(wanted, convolutions):
    """The order in memory is another one, the features are not."""
    pixels = torch.randint(
        0, 256, (3, 9, 12, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    with torch.no_grad():
        expected = convolutions(pixels.permute(0, 3, 1, 2).contiguous() / 127.5 - 1).flatten(1)
        seen, module = [], network.ready(convolutions, wanted())
        made = network.on_scaled_input(
            lambda x: seen.append(x) or module(x).flatten(1), (0.5,) * 3, (0.5,) * 3, wanted()
        )
        torch.testing.assert_close(made(pixels), expected, atol=1e-5, rtol=1e-5)
    order = {"memory_format": torch.channels_last}
    assert seen[0].is_contiguous(**order)
    assert module[0].weight.is_contiguous(**order)
    assert not module.training


def test_a_cpu_computes_a_few_pictures_at_a_time(wanted):
    sizes = []
    made = network.on_device(lambda x: sizes.append(len(x)) or x, wanted().device)
    pixels = torch.arange(2 * network.CPU_BATCH + 1)
    assert torch.equal(made(pixels), pixels)
    assert sizes == [network.CPU_BATCH, network.CPU_BATCH, 1]
