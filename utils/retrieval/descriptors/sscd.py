"""SSCD (Pizzi et al. 2022): a descriptor that was trained to recognise copies, published as
TorchScript."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from utils.data import transforms
from utils.files import whole_files
from utils.retrieval.descriptors import weights
from utils.retrieval.descriptors.network import (
    Extractor,
    Network,
    Wanted,
    on_scaled_input,
    ready,
)
from utils.runtime.errors import DataError, UsageError, choose, first_line

# --arch -> published file; `resnet50_disc` is a ResNeXt-101 despite its name
FILES = {
    "resnet50_disc": "sscd_disc_large",
    "resnet50": "sscd_disc_mixup",
    "resnet50_im": "sscd_imagenet_mixup",
}
ADDRESS = "https://dl.fbaipublicfiles.com/sscd-copy-detection/{}.torchscript.pt"
COPY_THRESHOLD = 0.5


def build(wanted: Wanted) -> Extractor:
    """Build the extractor of a published SSCD file, with the transform of wanted.choice.preset."""
    wanted.refuse("sscd", "layer", "isvit", "imsize")
    name, preset = choose("--arch", wanted.choice.arch, FILES), wanted.choice.preset or "dcr"
    path = weights.find(
        "--weights",
        wanted.choice.weights,
        name=f"{name}.torchscript.pt",
        address=ADDRESS.format(name),
        what=f"--pt_style='sscd' --arch={wanted.choice.arch!r}",
        otherwise="on drawn scenes use --pt_style pixel",
    )
    model = _load(path, wanted)
    _short, side, _crop, mean, std = transforms.SSCD_PRESETS[preset]
    network = on_scaled_input(model, mean, std, wanted)
    _require_descriptor(path, network, side)
    record = {
        "arch": wanted.choice.arch,
        "preset": preset,
        "multiscale": wanted.choice.multiscale,
        "dtype": str(wanted.dtype),
        "weights": path.name,
        "weights_sha256": whole_files.file_sha256(path),
    }
    return Extractor(transforms.sscd_input(preset), network, record, copy_threshold=COPY_THRESHOLD)


def _load(path: Path, wanted: Wanted) -> Any:
    """The network of a TorchScript file, on its device; DataError if it is of another kind or
    holds values that are not finite."""
    import torch

    with warnings.catch_warnings():
        # SSCD is published as TorchScript; torch deprecates the loader, not the file
        warnings.filterwarnings("ignore", message=".*torch.jit.load.*")
        try:
            network = torch.jit.load(str(path), map_location=wanted.device).eval()
        except RuntimeError as error:
            raise DataError(
                f"--weights={str(path)!r} is not a TorchScript file ({first_line(error, 120)})"
            ) from None
    weights.require_finite(network.state_dict(), path)
    return ready(network, wanted)


def _require_descriptor(path: Path, network: Network, side: int) -> None:
    """Raise UsageError unless the network maps images to vectors. Two black images test this before
    any image is read. side: of the input in pixels."""
    import torch

    try:
        with torch.no_grad():
            vectors = network(torch.zeros(2, side, side, 3, dtype=torch.uint8))
    except (RuntimeError, AttributeError, TypeError) as error:
        raise UsageError(
            f"--weights={str(path)!r} does not accept images ({first_line(error, 120)}); give an"
            " SSCD model"
        ) from None
    if vectors.ndim != 2 or len(vectors) != 2:
        raise UsageError(
            f"--weights={str(path)!r} gives {tuple(vectors.shape)} for two images; give a model"
            " that returns [2, D]"
        )
