"""Weights in 8 and 4 bits against their definition, and layers that compute with them."""

import pytest
import torch

from utils.cli.train_options import TrainOptions
from utils.models import quantized


def weight(rows=6, columns=32, dtype=torch.float32):
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(0)).to(dtype)


def restored(given, name):
    return quantized.decoded(*quantized.encoded(given, name), name, given.shape, given.dtype)


def by_hand(given, name):
    """Every value becomes the nearest of the format's values times the largest of its block."""
    values = {
        "int8": torch.arange(-127, 128) / 127,
        "nf4": torch.tensor(quantized.NF4),
    }[name]
    flat = given.float().flatten()
    found = []
    for start in range(0, len(flat), 64):
        block = flat[start : start + 64]
        largest = block.abs().max()
        levels = values * largest
        found.append(levels[(block[:, None] - levels).abs().argmin(1)])
    return torch.cat(found).view(given.shape)


@pytest.mark.parametrize("name", quantized.FORMATS)
@pytest.mark.parametrize("shape", [(6, 32), (5, 13), (1, 1)])
def test_values_are_the_nearest_ones_of_their_block(name, shape):
    given = weight(*shape)
    torch.testing.assert_close(restored(given, name), by_hand(given, name), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", quantized.FORMATS)
def test_zeros_stay_zeros_and_the_largest_of_a_block_is_kept(name):
    assert torch.equal(restored(torch.zeros(2, 64), name), torch.zeros(2, 64))
    given = weight(1, 64).abs()
    kept = restored(given, name)
    assert kept.max() == given.max()
    assert kept.argmax() == given.argmax()


def test_nf4_are_the_means_of_equal_shares_of_normal_data_around_zero():
    """Its definition: 8 quantiles below zero and 9 above, zero twice, scaled to 1."""
    # the offset of the paper's implementation, which leaves the outermost quantiles finite
    offset = 0.9677083
    normal = torch.distributions.Normal(0.0, 1.0)
    above = normal.icdf(torch.linspace(offset, 0.5, 9, dtype=torch.float64)[:-1])
    below = -normal.icdf(torch.linspace(offset, 0.5, 8, dtype=torch.float64)[:-1])
    values = torch.cat([below, torch.zeros(1), above.flip(0)])
    values = (values / values.max()).float()
    torch.testing.assert_close(torch.tensor(quantized.NF4), values, rtol=0, atol=1e-4)


@pytest.mark.parametrize(("name", "bits"), [("int8", 8.5), ("nf4", 4.5)])
def test_the_bytes_of_a_layer_are_those_of_its_format(name, bits):
    layer = quantized.QuantizedLinear(torch.nn.Linear(128, 64, bias=False), name)
    held = sum(each.numel() * each.element_size() for each in layer.parameters())
    assert held == 128 * 64 * bits / 8 == 128 * 64 * quantized.FORMATS[name].weight_bytes


@pytest.mark.parametrize("name", quantized.FORMATS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_layer_computes_as_one_with_the_restored_weight(name, dtype):
    plain = torch.nn.Linear(32, 6).to(dtype)
    layer = quantized.QuantizedLinear(plain, name)
    plain.weight.data = restored(plain.weight, name)
    outputs, gradients = [], []
    for each in (plain, layer):
        x = weight(3, 32, dtype).requires_grad_()
        y = each(x)
        (y * weight(3, 6, dtype)).sum().backward()
        outputs.append(y)
        gradients.append(x.grad)
    assert torch.equal(*outputs)
    assert outputs[1].dtype == dtype
    torch.testing.assert_close(*gradients)
    assert not any(each.requires_grad for each in (layer.codes, layer.largest))


def test_no_restored_weight_waits_for_the_backward_pass():
    layers = torch.nn.Sequential(*(torch.nn.Linear(256, 256) for _ in range(4)))
    quantized.quantize(layers, "nf4")
    assert all(type(layer) is quantized.QuantizedLinear for layer in layers)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        layers(weight(2, 256).requires_grad_())
    assert max(each.numel() * each.element_size() for each in kept) < 256 * 256


def test_the_flag_names_the_formats():
    parse = next(f for f in TrainOptions.__dataclass_fields__.values() if f.name == "quantize_base")
    assert all(parse.metadata["kind"].parse(name) for name in (*quantized.FORMATS, "none"))
    assert parse.metadata["kind"].parse("fp4") is None
