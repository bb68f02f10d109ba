"""The optimizers of --optimizer: the step of each, and the state that belongs to a copy. A package
that is not installed takes its tests with it."""

import importlib.util

import pytest
import torch

from tests.training.conftest import flat, needs_prodigy
from utils.cli import flags
from utils.cli.train_options import TrainOptions
from utils.runtime.errors import UsageError
from utils.training import optimizers
from utils.training.optimisation import Adam

LEAST = ("--pretrained_model_name_or_path", "m", "--instance_data_dir", "d")


def first_step(name, adam):
    """The weights 1, -2 and 0.5 after the first step of an optimizer, gradients 3, -0.1 and 7."""
    weight = torch.nn.Parameter(torch.tensor([1.0, -2.0, 0.5]))
    weight.grad = torch.tensor([3.0, -0.1, 7.0])
    optimizers.OPTIMIZERS[name].make([weight], adam).step()
    return weight.detach()


def test_the_first_step_of_adamw_is_the_sign_of_the_gradient():
    found = first_step("adamw", Adam(0.1, weight_decay=0.2))
    expected = torch.tensor([1.0, -2.0, 0.5]) * (1 - 0.1 * 0.2) - 0.1 * torch.tensor([1, -1, 1])
    torch.testing.assert_close(found, expected)


@needs_prodigy
def test_the_first_step_of_prodigy_is_a_millionth_of_the_sign_times_the_factor(capsys):
    """Its first estimate of the rate is 1e-6; the bias correction scales the weight decay, too."""
    settings = Adam(3e4, betas=(0.9, 0.99), weight_decay=0.2)
    found, rate = first_step("prodigy", settings), 3e4 * 1e-6
    decay = rate * 0.2 * (1 - 0.99) ** 0.5 / (1 - 0.9)
    expected = torch.tensor([1.0, -2.0, 0.5]) * (1 - decay) - rate * torch.tensor([1, -1, 1])
    torch.testing.assert_close(found, expected)
    assert capsys.readouterr().out == ""


@needs_prodigy
@pytest.mark.parametrize("until", [2, 3, 5])
def test_prodigy_continues_bit_for_bit_with_the_rate_that_it_had_found(start, finished, until):
    def fresh():
        return start(
            splits=2, rounds=2, steps=3, lr=10.0, schedule="constant_with_warmup", warmup=1,
            optimizer="prodigy",
        )  # fmt: skip

    reports, whole = finished(fresh())
    stopped, continued = fresh(), fresh()
    finished(stopped, until=until)
    continued.load({n: t.clone() for n, t in stopped.state().items()})
    rest, found = finished(continued, position=until)
    assert torch.equal(found, whole)
    assert [at.report.lr for at in rest] == [at.report.lr for at in reports][until:]
    # each copy begins at ten times 1e-6 after its step of warm-up, and finds more
    assert [at.report.lr for at in reports if at.report.step == 2] == pytest.approx([1e-5, 1e-5])
    assert reports[-1].report.lr > 2e-5


@needs_prodigy
def test_a_copy_that_has_not_trained_begins_with_the_first_rate(start, finished):
    model = start(splits=2, rounds=1, steps=3, lr=1.0, optimizer="prodigy").model
    name, group = model.optimizer_name, model.optimizer.param_groups[0]
    group |= {"d": 0.5, "d_max": 0.75, "d_numerator": 0.125, "k": 7}
    state = optimizers.state_of(model.optimizer, name, model.weights)
    model.load_copy(1, {})
    assert [group[key] for key in ("d", "d_max", "d_numerator", "k")] == [1e-6, 1e-6, 0, 0]
    model.load_copy(0, state)
    assert [group[key] for key in ("d", "d_max", "d_numerator", "k")] == [0.5, 0.75, 0.125, 7]
    assert isinstance(group["k"], int)


def test_host_memory_of_copies_that_wait_counts_all_that_an_optimizer_keeps(start):
    copies = start(splits=2)
    size = 4 * flat(copies.model).numel()
    assert copies.host_bytes() == 2 * 2 * size + 3 * size
    copies.model.optimizer_name = "prodigy"
    assert copies.host_bytes() == 2 * 4 * size + 3 * size


def test_moments_of_eight_bits_come_back_as_they_were(start):
    """bitsandbytes keeps byte tensors and counts in Python."""
    model = start().model
    model.optimizer_name = "adamw8bit"
    name, parameter = next(iter(model.weights.items()))
    moments = {"step": 7, "state1": torch.arange(3, dtype=torch.uint8), "absmax1": torch.ones(1)}
    model.optimizer.state[parameter] = moments
    state = model.copy_state()
    model.load_copy(0, state)
    found = model.optimizer.state[parameter]
    assert (found["step"], type(found["step"])) == (7, int)
    assert found["state1"].tolist() == [0, 1, 2]
    assert found["state1"].dtype == torch.uint8
    assert f"moments/{name}/absmax1" in state


def options(*given):
    return flags.parse(TrainOptions, [*LEAST, *given], description="")


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ((), "adamw"),
        (("--use_8bit_adam",), "adamw8bit"),
        (("--optimizer", "adamw8bit", "--use_8bit_adam"), "adamw8bit"),
        (("--optimizer", "prodigy"), "prodigy"),
    ],
)
def test_the_optimizer_of_a_run_has_one_name_however_it_is_asked_for(given, name):
    assert options(*given).optimizer_name == name


@pytest.mark.parametrize("other", ["adamw", "prodigy"])
def test_two_optimizers_are_refused(other):
    with pytest.raises(UsageError, match=f"--optimizer='{other}' and --use_8bit_adam name two"):
        options("--optimizer", other, "--use_8bit_adam")


@pytest.mark.parametrize(
    ("name", "package"), [("adamw8bit", "bitsandbytes"), ("prodigy", "prodigyopt")]
)
def test_a_missing_package_is_one_line_that_says_what_to_install(monkeypatch, name, package):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    message = f"--optimizer {name} needs the package {package}.*: pip install {package}"
    with pytest.raises(UsageError, match=message):
        optimizers.require(name)
    optimizers.require("adamw")
