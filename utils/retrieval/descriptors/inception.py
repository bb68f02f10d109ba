"""The Inception network of the Frechet distance, torch-fidelity's `inception-v3-compat`, and the
published misuse of it."""

import functools
import io

from utils.data import transforms
from utils.files import whole_files
from utils.retrieval.descriptors import weights
from utils.retrieval.descriptors.network import Extractor
from utils.runtime.errors import DataError, first_line

FILE = "weights-inception-2015-12-05-6726825d.pth"
ADDRESS = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{FILE}"
SIDE = 299


def build(given, *, device):
    """The 2,048 features before the classifier of images of 8 bits. given: --fid_weights, or None
    to find them.

    Always in float32: the distance is a small difference of large numbers. Returns: (Extractor, the
    module for `published`)."""
    path = weights.find(
        "--fid_weights", given, name=FILE, address=ADDRESS, what="FID", otherwise="use --metrics fd"
    )
    module = _module(path).to(device)

    def network(pixels):
        return module(transforms.channels_first(pixels.to(device)))[0]

    record = {
        "weights": path.name,
        "weights_sha256": whole_files.file_sha256(path),
        "protocol": "standard",
    }
    return Extractor(transforms.to_bytes, network, record, as_generated=True), module


def published(extractor, module, *, device):
    """The same network as the first project's script feeds it: short side 299, centre crop, scaled
    to [-1, 1] by the transform and once more, by 2 x - 1, by the network: inputs in [-3, 1].
    Training images keep their size. -> Extractor."""

    def network(pixels):
        twice = 2 * transforms.scaled(pixels.to(device), (0.5,) * 3, (0.5,) * 3) - 1
        return _body(module)(twice)

    transform = functools.partial(transforms.centre_square, side=SIDE)
    return Extractor(transform, network, extractor.record | {"protocol": "dcr"})


def _module(path):
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    state = weights.read(path)
    try:
        # torch-fidelity unpickles what it is given: it gets bytes of our own making, of tensors
        # read without unpickling
        return FeatureExtractorInceptionV3(
            "inception-v3-compat", ["2048"], feature_extractor_weights_path=_as_file(state)
        )
    except (RuntimeError, KeyError) as error:
        raise DataError(
            f"{path}: is not of the Inception network of FID ({first_line(error, 120)})"
        ) from None


def _as_file(state):
    import torch

    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return buffer


def _body(module):
    """The layers between torch-fidelity's own resizing and its classifier, in their order:
    pytorch-fid's network, from which it descends. Returns: [B, 3, 299, 299] float -> [B, 2048]."""
    import torch

    return torch.nn.Sequential(
        *(layer for name, layer in module.named_children() if name != "fc"), torch.nn.Flatten(1)
    )
