"""LoRA within the loop: what learns, what resumes, what an ensemble averages."""

import pytest
import torch

from tests.training.conftest import flat
from utils.models import quantized
from utils.models.adapters import AdapterShape
from utils.runtime.errors import UsageError
from utils.training.methods.lora import Adapting, Lora
from utils.training.regularisation import OutputPreservation, PriorPreservation

SHAPE = AdapterShape(rank=2, alpha=4)


def lora(shape=SHAPE, **adapting):
    return Lora(Adapting(shape, **{"seed": 0} | adapting), "base", {})


def base_weights(model):
    """The weights that do not belong to an adapter, of all networks of the pipeline."""
    return {
        f"{part}.{name}": tensor.clone()
        for part, network in model.parts.networks.items()
        for name, tensor in network.state_dict().items()
        if "lora_" not in name
    }


def test_adapters_alone_learn_and_the_model_stays(start, finished):
    copies = start(method=lora(), text=True)
    before, adapted = base_weights(copies.model), flat(copies.model)
    assert all("lora_" in name for name in copies.model.weights)
    assert {name.split(".")[0] for name in copies.model.weights} == {"unet", "text_encoder"}
    finished(copies)
    after = base_weights(copies.model)
    assert all(torch.equal(before[name], after[name]) for name in before)
    moved = [
        not torch.equal(old, new)
        for old, new in zip(
            adapted.split([p.numel() for p in copies.model.weights.values()]),
            [p.detach().flatten() for p in copies.model.weights.values()],
            strict=True,
        )
    ]
    assert all(moved)


RESUMED = {
    "dropout": {"method": AdapterShape(2, 4, dropout=0.5)},
    "DoRA, text encoder, accumulation": {
        "method": AdapterShape(2, 4, dora=True),
        "text": True,
        "accumulation": 2,
        "encoder_factor": 0.25,
    },
    "ensemble, EMA, control, mixup": {
        "method": AdapterShape(2, 4, dropout=0.1),
        "splits": 2,
        "rounds": 2,
        "use_ema": True,
        "ratio": 1.05,
        "mixup": 0.4,
        "noise": 0.1,
    },
    "dropout, text encoder, extra losses": {
        "method": AdapterShape(2, 4, dropout=0.3),
        "text": True,
        "regularisations": (
            PriorPreservation("a dog", 0.7),
            OutputPreservation("circle", "shape", 5.0),
        ),
    },
    "frozen A": {"method": AdapterShape(2, 4, freeze_down=True), "splits": 2, "rounds": 2},
    "4 bits": {"method": AdapterShape(2, 4, dora=True), "format": "nf4"},
}


@pytest.mark.parametrize("changes", RESUMED.values(), ids=RESUMED)
def test_a_resumed_run_is_the_run_that_never_stopped_to_the_bit(start, finished, changes):
    changes = dict(changes)
    method, kept = changes.pop("method"), changes.pop("format", None)

    def started():
        return start(method=lora(method, base_format=kept), **changes)

    whole, wanted = finished(started())
    stop = len(whole) // 2  # of an ensemble in the middle of a round's turns
    half = started()
    finished(half, until=stop)
    state = half.state()
    torch.rand(3)  # whatever torch's own generator has drawn since
    again = started()
    again.load(state)
    rest, resumed = finished(again, position=stop)
    assert torch.equal(resumed, wanted)
    assert [at.average_error for at in rest] == [at.average_error for at in whole[stop:]]


@pytest.mark.parametrize("kept", quantized.FORMATS)
def test_adapters_on_few_bits_learn_what_they_learn_on_the_restored_weights(
    start, finished, micro_parts, kept
):
    """Only the denoiser's linear layers are kept so, and the model is identified by its own
    weights."""
    copies = start(method=lora(base_format=kept), text=True, lr=1e-2)
    unet = copies.model.parts.denoiser
    few = [m for m in unet.modules() if isinstance(m, quantized.QuantizedLinear)]
    restored = micro_parts()
    linear = [m for m in restored.denoiser.modules() if type(m) is torch.nn.Linear]
    assert len(few) == len(linear) > 0
    changed = 0.0
    for one, other in zip(few, linear, strict=True):
        changed += (one.weight - other.weight.data).norm().item()
        other.weight.data = one.weight.detach()
    assert changed > 0
    plain = start(method=lora(), parts=restored, text=True, lr=1e-2)
    _, own = finished(copies)
    _, wanted = finished(plain)
    # together, not one by one: where a gradient is nearly 0, Adam enlarges its rounding
    assert (own - wanted).norm() < 1e-3 * wanted.norm()
    taken = [each.model.method.base.fingerprints["unet"] for each in (copies, start(method=lora()))]
    assert taken[0] == taken[1]


def test_dropout_is_in_training_and_of_the_step_alone(start, finished):
    _, plain = finished(start(method=lora()))
    _, dropped = finished(start(method=lora(AdapterShape(2, 4, dropout=0.5))))
    assert not torch.equal(plain, dropped)
    torch.rand(3)  # whatever torch's own generator has drawn before
    _, again = finished(start(method=lora(AdapterShape(2, 4, dropout=0.5))))
    assert torch.equal(again, dropped)


def test_factors_are_averaged_and_the_deviation_is_that_of_the_dense_means(
    start, finished, monkeypatch
):
    """Two splits of seven and five images: weights and deviation are worked out by hand, layer by
    layer, from the copies' factors."""
    method, seen = lora(), []
    own = method.average_error
    monkeypatch.setattr(method, "average_error", lambda *given: seen.append(given) or own(*given))
    copies = start(method=method, splits=5, steps=2, lr=1e-2)
    found, _ = finished(copies)
    (ends, shares, first) = seen[0]
    sizes = copies.plan.sizes
    assert shares == [size / sum(sizes) for size in sizes]
    assert len(set(shares)) > 1
    error = change = 0.0
    for name, tensor in copies.model.weights.items():
        mean = sum(s * end[name] for s, end in zip(shares, ends, strict=True))
        torch.testing.assert_close(tensor.detach(), mean)
        if "lora_A" not in name:
            continue
        up = name.replace("lora_A", "lora_B")
        products = [end[up].double() @ end[name].double() for end in ends]
        exact = sum(s * product for s, product in zip(shares, products, strict=True))
        averaged = copies.model.weights[up].detach().double() @ mean.double()
        error += (exact - averaged).square().sum()
        change += (exact - first[up].double() @ first[name].double()).square().sum()
    assert found[-1].average_error == pytest.approx(float((error / change).sqrt()), rel=1e-3)
    assert found[-1].average_error > 0
    assert all(at.average_error is None for at in found[:-1])


def test_with_a_frozen_a_the_average_is_exact(start, finished):
    method = lora(AdapterShape(2, 4, freeze_down=True))
    copies = start(method=method, splits=2, steps=2, lr=1e-2)
    downs = {n: t.clone() for n, t in base_and_adapters(copies.model).items() if "lora_A" in n}
    found, _ = finished(copies)
    assert found[-1].average_error == 0.0
    after = base_and_adapters(copies.model)
    assert downs
    assert all(torch.equal(after[name], tensor) for name, tensor in downs.items())


def base_and_adapters(model):
    return model.parts.denoiser.state_dict()


def test_full_weights_keep_no_copies_to_measure(start):
    copies = start(splits=2)
    assert not copies.measures
    assert start(method=lora(), splits=2).host_bytes() < copies.host_bytes() / 2


def test_the_text_encoder_has_a_learning_rate_of_its_own(start, finished):
    """One step of Adam moves each weight with a gradient by its learning rate."""
    copies = start(text=True, method=lora(), steps=1, lr=1e-3, encoder_factor=0.25)
    before = {n: p.detach().clone() for n, p in copies.model.weights.items() if "lora_B" in n}
    finished(copies)
    for name, old in before.items():
        moved = (copies.model.weights[name].detach() - old).abs().max()
        rate = 1e-3 if name.startswith("unet.") else 0.25e-3
        assert moved == pytest.approx(rate, rel=0.01), name


def test_checkpointed_networks_give_the_same_gradients(start, finished):
    plain = finished(start(method=lora(), text=True))[1]
    copies = start(method=lora(), text=True)
    trainer = copies.model
    trainer.parts.denoiser.enable_gradient_checkpointing()
    trainer.parts.encoders["text_encoder"].gradient_checkpointing_enable()
    torch.testing.assert_close(finished(copies)[1], plain)


def test_layers_that_a_network_does_not_have_are_refused(start):
    with pytest.raises(UsageError, match="--lora_layers='attn1.to_x': the UNet2DConditionModel"):
        start(method=lora(layers=("to_q", "attn1.to_x")))
    copies = start(method=lora(layers=("attn2.to_k", "conv1")))
    assert {name.split(".lora")[0].split(".")[-1] for name in copies.model.weights} == {
        "to_k",
        "conv1",
    }
