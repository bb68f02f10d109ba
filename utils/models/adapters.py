"""LoRA adapters that are trained: put into a network, named, and written to files that diffusers,
and programs that read kohya's names, load whole.

Hu et al. 2021: a layer computes W x + alpha / rank * B A x with A [rank, in] and B [out, rank]."""

from __future__ import annotations

import contextlib
import json
import warnings
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn import Module, Parameter

from utils.files import weight_files
from utils.runtime import seeding
from utils.runtime.errors import UsageError

NAME = "default"  # of the adapter within peft
DOWN, UP, MAGNITUDE = ".lora_A", ".lora_B", ".lora_magnitude_vector"
ADAPTED = (torch.nn.Linear, torch.nn.Conv2d)  # kinds of layers
# names of the networks in files with kohya's names, if a pipeline has one text encoder, and if two
KOHYA = (
    {"unet": "lora_unet", "text_encoder": "lora_te"},
    {"unet": "lora_unet", "text_encoder": "lora_te1", "text_encoder_2": "lora_te2"},
)


@dataclass(frozen=True)
class AdapterShape:
    """What is added to each adapted layer."""

    rank: int
    alpha: float  # the product of the factors is scaled by alpha / rank
    dropout: float = 0.0  # probability that an input of A is set to zero in training
    dora: bool = False  # also a magnitude for each output (DoRA, Liu et al. 2024)
    freeze_down: bool = False  # A keeps its random start (FFA-LoRA, Sun et al. 2024)


# In a network -------------------------------------------------------------------------------------


def matching(network: Module, layer: str) -> list[str]:
    """Names of the linear and convolutional layers of a network that a name such as `to_q` or
    `ff.net.2` stands for: those that are or end in it."""
    return [
        name
        for name, module in network.named_modules()
        if isinstance(module, ADAPTED) and (name == layer or name.endswith(f".{layer}"))
    ]


def require_layers(flag: str, network: Module, layers: Sequence[str]) -> None:
    """Raise UsageError if one of `layers` stands for no layer of a network. flag: that named it."""
    for layer in layers:
        if not matching(network, layer):
            raise UsageError(
                f"{flag}={layer!r}: the {type(network).__name__} has no such linear or"
                f" convolutional layer; it has: {', '.join(_endings(network))}"
            )


def _endings(network: Module) -> list[str]:
    """The ends of the names of the layers that can be adapted, with what stands before a number."""
    names = (name for name, each in network.named_modules() if isinstance(each, ADAPTED))
    return sorted({".".join(n.split(".")[-2 if n[-1].isdigit() else -1 :]) for n in names})


@contextlib.contextmanager
def off(network: Module) -> Iterator[Module]:
    """A block in which the adapters of a network are off. Yields: the network."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = [layer for layer in network.modules() if isinstance(layer, BaseTunerLayer)]
    # turning adapters off and on sets what learns
    learns = {name: weight.requires_grad for name, weight in network.named_parameters()}
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield network
    finally:
        for layer in layers:
            layer.enable_adapters(True)
        for name, weight in network.named_parameters():
            weight.requires_grad_(learns[name])


def inject(
    network: Module, shape: AdapterShape, layers: Sequence[str], *, seed: int, part: str
) -> None:
    """Put adapters into the layers of a network, which must be on the CPU, and let them alone
    learn.

    The adapters are float32 whatever the network's dtype: peft gives them that of the layer, and in
    half precision they would not move. A starts at random, N(0, 1 / rank^2), each a function of the
    seed and its name; B at 0, so that nothing changes before the first step.

    layers: as `require_layers` accepts; part: name of the network within its pipeline."""
    from peft import LoraConfig

    targets = sorted({name for layer in layers for name in matching(network, layer)})
    config = LoraConfig(
        r=shape.rank,
        lora_alpha=shape.alpha,  # type: ignore[arg-type]  # peft divides it by r
        lora_dropout=shape.dropout,
        use_dora=shape.dora,
        init_lora_weights="gaussian",
        target_modules=targets,
    )
    network.requires_grad_(False)
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        # peft warns of use_dora together with dropout, which is slower and no less right
        warnings.simplefilter("ignore")
        network.add_adapter(config, adapter_name=NAME)  # type: ignore[operator]
    for name, parameter in tensors_of(network).items():
        parameter.data = parameter.data.float()
        parameter.requires_grad_(not (shape.freeze_down and DOWN in name))
        if DOWN in name:
            key = zlib.crc32(f"{part}.{name}".encode())
            generator = seeding.torch_generator(seed, "adapter", key)
            parameter.data.copy_(torch.randn(parameter.shape, generator=generator) / shape.rank)
    if shape.dora:
        _set_magnitudes(network)


def _set_magnitudes(network: Module) -> None:
    """Start DoRA's magnitudes at the norms of the weights, in float32 (peft computes them in the
    layer's dtype)."""
    for module in network.modules():
        magnitudes = getattr(module, "lora_magnitude_vector", None)
        if magnitudes is not None and NAME in magnitudes:
            weight = module.get_base_layer().weight.detach().float()  # type: ignore[operator]
            norm = torch.linalg.vector_norm(weight.flatten(1), dim=1)
            parameter = magnitudes[NAME].weight
            parameter.data.copy_(norm.reshape(parameter.shape))


def count(network: Module, shape: AdapterShape, layers: Sequence[str]) -> tuple[int, int]:
    """Numbers of the adapters that `inject` would put into a network, which may be on the device
    "meta". Returns: (those that learn, those that do not)."""
    learns = rests = 0
    for name in {name for layer in layers for name in matching(network, layer)}:
        layer = network.get_submodule(name)
        weight = layer.weight  # [out, in] or [out, in, height, width]
        down, up = shape.rank * weight[0].numel(), shape.rank * weight.shape[0]
        learns += up + (weight.shape[0] if shape.dora else 0)
        if shape.freeze_down:
            rests += down
        else:
            learns += down
    return learns, rests


def tensors_of(network: Module) -> dict[str, Parameter]:
    """The tensors of a network's adapters by name, those that do not learn too."""
    return {name: p for name, p in network.named_parameters() if "lora_" in name}


def weights_of(network: Module) -> dict[str, Parameter]:
    """The tensors of a network's adapters that learn, by name."""
    return {name: p for name, p in tensors_of(network).items() if p.requires_grad}


def factors_of(
    tensors: Mapping[str, torch.Tensor],
) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """{layer: (A [rank, in], B [out, rank])} of an adapter's tensors by name; of convolutions `in`
    are the values of a window."""
    return {
        name.split(DOWN)[0]: (down.flatten(1), tensors[name.replace(DOWN, UP)].flatten(1))
        for name, down in tensors.items()
        if DOWN in name
    }


# In files -----------------------------------------------------------------------------------------


def _named(part: str, name: str) -> str:
    """The name of a tensor in a file of diffusers."""
    name = name.replace(f".{NAME}", "")
    if not part.startswith("text_encoder"):
        # peft writes magnitudes so; of text encoders transformers wants the whole name back
        return f"{part}.{name.removesuffix('.weight') if MAGNITUDE in name else name}"
    # files name the encoder's inner model, which not every version of transformers does
    return f"{part}.text_model.{name.removeprefix('text_model.')}"


def _metadata(networks: Mapping[str, Module]) -> dict[str, str]:
    """What a file of diffusers says of its adapters: without it alpha would be lost, since loaders
    take the rank for it."""
    configs: dict[str, Any] = {}
    for part, network in networks.items():
        config = network.peft_config[NAME].to_dict()  # type: ignore[index, union-attr]
        for key, value in config.items():
            configs[f"{part}.{key}"] = sorted(value) if isinstance(value, set) else value
    return {"format": "pt", "lora_adapter_metadata": json.dumps(configs, indent=2, sort_keys=True)}


def _on_host(parameter: Parameter) -> torch.Tensor:
    return parameter.detach().float().cpu().contiguous()


def save(path: Path, networks: Mapping[str, Module]) -> None:
    """Write the adapters of networks to a .safetensors file that `load_lora_weights` of diffusers
    reads. networks: {part of the pipeline: network}."""
    state = {
        _named(part, name): _on_host(parameter)
        for part, network in networks.items()
        for name, parameter in tensors_of(network).items()
    }
    weight_files.write(path, state, _metadata(networks))


def require_kohya(flag: str, class_name: str, networks: Sequence[str]) -> None:
    """Raise UsageError if kohya's names for the adapted networks of a pipeline are not known.

    flag: that asked for them; class_name: of the pipeline."""
    unknown = sorted(set(networks) - set(KOHYA[1]))
    if unknown:
        raise UsageError(
            f"{flag}: a {class_name} has a {unknown[0]}, for which no names of kohya are written;"
            " leave the flag out: ComfyUI and others read diffusers' names of these models"
        )


def save_kohya(path: Path, networks: Mapping[str, Module], *, encoders: int) -> None:
    """Write the adapters of networks to a .safetensors file with the names of kohya's trainer, and
    with alpha beside each layer. Without DoRA, whose magnitudes have no one name there.

    networks: as for `save`, of a pipeline with a U-Net; encoders: how many text encoders the
    pipeline has, adapted or not."""
    prefixes = KOHYA[min(encoders, 2) - 1]
    state: dict[str, torch.Tensor] = {}
    metadata = {"format": "pt", "ss_network_module": "networks.lora"}
    for part, network in networks.items():
        config = network.peft_config[NAME]  # type: ignore[index, union-attr]
        metadata["ss_network_dim"] = str(config.r)
        metadata["ss_network_alpha"] = str(config.lora_alpha)
        for name, parameter in tensors_of(network).items():
            layer = _named(part, name).removeprefix(f"{part}.").split(".lora_")[0]
            key = f"{prefixes[part]}_{layer.replace('.', '_')}"
            half = "lora_down" if DOWN in name else "lora_up"
            state[f"{key}.{half}.weight"] = _on_host(parameter)
            state[f"{key}.alpha"] = torch.tensor(float(config.lora_alpha))
    weight_files.write(path, state, metadata)
