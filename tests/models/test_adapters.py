"""Adapters on every class of pipeline: what is written is read back whole by diffusers itself."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from tests import adapted, pipelines
from utils.files import adapter_folder
from utils.models import adapters, loading
from utils.models import lora as lora_weights
from utils.models.adapters import AdapterShape
from utils.runtime.errors import UsageError

SHAPE = adapted.SHAPE
DORA = AdapterShape(rank=4, alpha=2, dora=True)


def saved(pipeline, folder):
    """The adapters of a pipeline in a file within `folder`. Returns: the file."""
    folder.mkdir(exist_ok=True)
    path = folder / adapter_folder.WEIGHTS
    adapters.save(path, adapted.adapted_parts(pipeline))
    return path


def adapter_tensors(pipeline):
    return {
        f"{part}.{name}": tensor.detach()
        for part, network in adapted.adapted_parts(pipeline).items()
        for name, tensor in adapters.tensors_of(network).items()
    }


@pytest.fixture(scope="module")
def trained():
    """{miniature: pipeline with trained adapters of SHAPE}, made when asked for."""
    made = {}

    def of(name):
        if name not in made:
            made[name] = adapted.trained(name, SHAPE)
        return made[name]

    return of


@pytest.mark.parametrize("name", pipelines.MINIATURES)
def test_diffusers_reads_every_tensor_of_a_file_back(trained, tmp_path, name):
    """A fresh pipeline gives the same images, to the bit, alpha included."""
    pipeline = trained(name)
    path = saved(pipeline, tmp_path)
    fresh = pipelines.miniature(name)
    plain = adapted.images(fresh)
    fresh.load_lora_weights(tmp_path)
    here, there = adapter_tensors(pipeline), adapter_tensors(fresh)
    there = {key.replace("default_0", "default"): tensor for key, tensor in there.items()}
    assert set(here) == set(there)
    assert len(load_file(path)) == len(here)
    assert all(torch.equal(here[key], there[key]) for key in here)
    wanted = adapted.images(pipeline)
    assert torch.equal(adapted.images(fresh), wanted)
    assert (wanted - plain).abs().max() > 0.01


@pytest.mark.parametrize("name", pipelines.MINIATURES)
def test_adapters_are_fused_as_diffusers_applies_them(trained, tmp_path, name):
    pipeline = trained(name)
    fresh = pipelines.miniature(name)
    lora_weights.load_lora(fresh, str(saved(pipeline, tmp_path)), flag="--modelpath")
    assert adapter_tensors(fresh) == {}
    torch.testing.assert_close(adapted.images(fresh), adapted.images(pipeline), atol=2e-4, rtol=0)


@pytest.mark.parametrize("name", ["SD 1", "SD 3"])
def test_dora_comes_back_with_its_magnitudes(tmp_path, name):
    pipeline = adapted.trained(name, DORA)
    saved(pipeline, tmp_path)
    fresh = pipelines.miniature(name)
    fresh.load_lora_weights(tmp_path)
    there = {k.replace("default_0", "default"): t for k, t in adapter_tensors(fresh).items()}
    here = adapter_tensors(pipeline)
    assert sum("magnitude" in key for key in here) == len(here) / 3
    assert set(here) == set(there)
    assert all(torch.equal(here[key], there[key]) for key in here)
    assert torch.equal(adapted.images(fresh), adapted.images(pipeline))


def test_a_file_says_alpha_and_has_the_usual_names(trained, tmp_path):
    path = saved(trained("SDXL"), tmp_path)
    with safe_open(path, "pt") as file:
        metadata = json.loads(file.metadata()["lora_adapter_metadata"])
        names = list(file.keys())
    for part in ("unet", "text_encoder", "text_encoder_2"):
        assert metadata[f"{part}.r"] == 4
        assert metadata[f"{part}.lora_alpha"] == 8
    encoders = [name for name in names if not name.startswith("unet.")]
    assert encoders
    assert all(".text_model.encoder.layers." in name for name in encoders)
    assert all(name.endswith((".lora_A.weight", ".lora_B.weight")) for name in names)


@pytest.mark.parametrize("name", ["SD 1", "SDXL"])
def test_kohyas_names_give_the_same_images(trained, tmp_path, name):
    pipeline = trained(name)
    parts = adapted.adapted_parts(pipeline)
    path = tmp_path / adapter_folder.KOHYA_WEIGHTS
    adapters.save_kohya(path, parts, encoders=len(parts) - 1)
    state = load_file(path)
    first = next(key for key in state if key.endswith(".lora_down.weight"))
    assert state[first.replace(".lora_down.weight", ".alpha")] == 8
    assert any(key.startswith("lora_te1_" if name == "SDXL" else "lora_te_") for key in state)
    fresh = pipelines.miniature(name)
    lora_weights.load_lora(fresh, str(path))
    torch.testing.assert_close(adapted.images(fresh), adapted.images(pipeline), atol=2e-4, rtol=0)
    with pytest.raises(UsageError, match="--output_kohya_format: a FluxPipeline has a transformer"):
        adapters.require_kohya("--output_kohya_format", "FluxPipeline", ["transformer"])


def test_the_bytes_of_a_file_follow_from_the_adapters_alone(trained, tmp_path):
    networks = adapted.adapted_parts(trained("SD 1"))
    for number in range(6):
        adapters.save(tmp_path / f"{number}.safetensors", networks)
        adapters.save_kohya(tmp_path / f"{number}.kohya.safetensors", networks, encoders=1)
    for kind in ("", ".kohya"):
        paths = [tmp_path / f"{number}{kind}.safetensors" for number in range(6)]
        assert len({path.read_bytes() for path in paths}) == 1
        assert safe_open(paths[0], "pt").metadata()["format"] == "pt"


def test_a_folder_with_both_files_gives_diffusers_file(trained, tmp_path):
    pipeline = trained("SD 1")
    path = saved(pipeline, tmp_path)
    (tmp_path / "a.safetensors").write_bytes(b"not read")
    lora_weights.require_lora(str(tmp_path))
    fresh = pipelines.miniature("SD 1")
    lora_weights.load_lora(fresh, str(tmp_path))
    assert lora_weights.lora_id(str(tmp_path)) == lora_weights.lora_id(str(path))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_adapters_are_float32_on_a_half_precision_base_and_move_by_small_steps(dtype):
    """100 steps of 1e-4 on a weight of 0.05: bfloat16 would leave it where it is."""
    network = torch.nn.ModuleDict({"to_q": torch.nn.Linear(8, 8, dtype=dtype)})
    _add(network, SHAPE)
    weights = adapters.weights_of(network)
    assert {p.dtype for p in weights.values()} == {torch.float32}
    assert network["to_q"].get_base_layer().weight.dtype == dtype
    down = next(p for name, p in weights.items() if "lora_A" in name)
    down.data.fill_(0.05)
    optimizer = torch.optim.AdamW([down], lr=1e-4, weight_decay=0)
    for _ in range(100):
        down.grad = torch.ones_like(down)
        optimizer.step()
    torch.testing.assert_close(down.data, torch.full_like(down, 0.04))


def _add(network, shape, *, seed=0, part="unet", layers=("to_q",)):
    """`adapters.inject` for a network of plain torch, which has no method of its own for it."""
    from peft import inject_adapter_in_model

    network.add_adapter = lambda config, adapter_name: inject_adapter_in_model(
        config, network, adapter_name
    )
    adapters.inject(network, shape, layers, seed=seed, part=part)
    return network


def test_the_start_is_a_function_of_seed_and_name_and_changes_nothing():
    def started(seed, part="unet"):
        torch.manual_seed(3)
        pipeline = torch.nn.ModuleDict({n: torch.nn.Linear(64, 8) for n in ("to_q", "to_k")})
        state = torch.get_rng_state()
        _add(pipeline, SHAPE, seed=seed, part=part, layers=("to_q", "to_k"))
        assert torch.equal(torch.get_rng_state(), state)  # and takes no number from others
        return {name: p.detach() for name, p in adapters.tensors_of(pipeline).items()}

    one, same, other, part = started(1), started(1), started(2), started(1, "text_encoder")
    for name, tensor in one.items():
        assert torch.equal(tensor, same[name])
        down = "lora_A" in name
        assert torch.equal(tensor, other[name]) != down
        assert torch.equal(tensor, part[name]) != down
        assert down or not tensor.any()
        # N(0, 1 / rank^2)
        assert not down or 0.2 < tensor.std() < 0.3
    downs = [tensor for name, tensor in one.items() if "lora_A" in name]
    assert not torch.equal(*downs)


def test_doras_magnitudes_start_at_the_norms_of_the_weights():
    linear = torch.nn.Linear(6, 4).bfloat16()
    network = torch.nn.ModuleDict({"to_q": linear})
    weight = linear.weight.detach().float()
    _add(network, DORA)
    magnitude = next(p for n, p in adapters.tensors_of(network).items() if "magnitude" in n)
    assert magnitude.dtype == torch.float32
    torch.testing.assert_close(magnitude.data, weight.norm(dim=1))


def test_a_frozen_a_is_written_and_does_not_learn():
    network = torch.nn.ModuleDict({"to_q": torch.nn.Linear(4, 4)})
    _add(network, AdapterShape(rank=2, alpha=2, freeze_down=True))
    assert len(adapters.tensors_of(network)) == 2
    assert all("lora_B" in name for name in adapters.weights_of(network))


def test_names_that_stand_for_no_layer_are_refused(micro_sd):
    unet = loading.load_pipeline("--x", str(micro_sd)).unet
    adapters.require_layers("--lora_layers", unet, ["to_q", "to_out.0", "ff.net.2", "conv1"])
    with pytest.raises(UsageError, match=r"--lora_layers='to_foo': the UNet2D.* to_k, to_out.0"):
        adapters.require_layers("--lora_layers", unet, ["to_q", "to_foo"])
    with pytest.raises(UsageError, match="'attn1'"):  # a block is no layer
        adapters.require_layers("--lora_layers", unet, ["attn1"])
