"""The Inception network of the Frechet distance: torch-fidelity's `inception-v3-compat`, and the
double-scaled variant that the published script computes (fid_dcr)."""

from __future__ import annotations

import functools
import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from utils.data import transforms
from utils.files import whole_files
from utils.retrieval.descriptors import weights
from utils.retrieval.descriptors.network import Extractor, Wanted, on_device, ready
from utils.runtime.errors import DataError, first_line

if TYPE_CHECKING:
    import torch

FILE = "weights-inception-2015-12-05-6726825d.pth"
ADDRESS = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{FILE}"
SIDE = 299


def build(given: str | None, *, device: torch.device) -> tuple[Extractor, torch.nn.Module]:
    """Build the extractor of the 2,048 features before the classifier, of images of 8 bits.

    It computes in float32 always: the distance is a small difference of large numbers.

    given: file of --fid_weights; None: the published one, which is downloaded

    Returns: the extractor, and its module for `published`."""
    import torch

    path = weights.find(
        "--fid_weights", given, name=FILE, address=ADDRESS, what="FID", otherwise="use --metrics fd"
    )
    module = ready(_module(path), Wanted(device=device, dtype=torch.float32))

    def forward(pixels: torch.Tensor) -> torch.Tensor:
        return module(transforms.channels_first(pixels.to(device)))[0]

    record = {
        "weights": path.name,
        "weights_sha256": whole_files.file_sha256(path),
        "protocol": "standard",
    }
    network = on_device(forward, device)
    return Extractor(transforms.to_bytes, network, record, as_generated=True), module


def published(extractor: Extractor, module: torch.nn.Module, *, device: torch.device) -> Extractor:
    """Build the extractor of `fid_dcr`: the same network, with its input scaled as in the published
    script.

    Short side 299, centre crop, scaled to [-1, 1] by the transform and once more, by 2 x - 1, by
    the network: inputs in [-3, 1]. Training images keep their size.

    extractor, module: as `build` returns them"""

    def forward(pixels: torch.Tensor) -> torch.Tensor:
        twice = 2 * transforms.scaled(pixels.to(device), (0.5,) * 3, (0.5,) * 3) - 1
        return _body(module)(twice)

    transform = functools.partial(transforms.centre_square, side=SIDE)
    return Extractor(transform, on_device(forward, device), extractor.record | {"protocol": "dcr"})


def _module(path: Path) -> torch.nn.Module:
    """The network with the weights of a file; DataError if they are not of this network."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    state = weights.read(path)
    try:
        # torch-fidelity unpickles the file it is given: it gets a file that we write, of tensors
        # that were read without unpickling
        return FeatureExtractorInceptionV3(
            "inception-v3-compat", ["2048"], feature_extractor_weights_path=_as_file(state)
        )
    except (RuntimeError, KeyError) as error:
        raise DataError(
            f"{path}: does not hold weights of the Inception network of FID"
            f" ({first_line(error, 120)})"
        ) from None


def _as_file(state: Mapping[str, torch.Tensor]) -> io.BytesIO:
    """Tensors by name as a file in memory, in torch's format."""
    import torch

    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return buffer


def _body(module: torch.nn.Module) -> torch.nn.Sequential:
    """The layers between torch-fidelity's own resizing and its classifier, in their order, which
    are the network of pytorch-fid. [B, 3, 299, 299] float -> [B, 2048]."""
    import torch

    return torch.nn.Sequential(
        *(layer for name, layer in module.named_children() if name != "fc"), torch.nn.Flatten(1)
    )
