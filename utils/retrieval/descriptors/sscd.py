"""SSCD (Pizzi et al. 2022): a descriptor made to tell copies, published as TorchScript."""

import warnings

from utils.data import transforms
from utils.files import whole_files
from utils.retrieval.descriptors import weights
from utils.retrieval.descriptors.network import Extractor, on_scaled_input
from utils.runtime.errors import DataError, UsageError, choose, first_line

# --arch -> published file; `resnet50_disc` is a ResNeXt-101 despite its name
FILES = {
    "resnet50_disc": "sscd_disc_large",
    "resnet50": "sscd_disc_mixup",
    "resnet50_im": "sscd_imagenet_mixup",
}
ADDRESS = "https://dl.fbaipublicfiles.com/sscd-copy-detection/{}.torchscript.pt"
COPY_THRESHOLD = 0.5


def build(wanted):
    """Extractor of a published SSCD file, under the transform of wanted.preset."""
    wanted.refuse("sscd", "layer", "isvit", "imsize")
    name = choose("--arch", wanted.arch, FILES)
    path = weights.find(
        "--weights",
        wanted.weights,
        name=f"{name}.torchscript.pt",
        address=ADDRESS.format(name),
        what=f"--pt_style='sscd' --arch={wanted.arch!r}",
        otherwise="on drawn scenes use --pt_style pixel",
    )
    model = _load(path, wanted)
    _short, side, _crop, mean, std = transforms.SSCD_PRESETS[wanted.preset]
    network = on_scaled_input(model, mean, std, wanted)
    _require_descriptor(path, network, side)
    record = {
        "arch": wanted.arch,
        "preset": wanted.preset,
        "multiscale": wanted.multiscale,
        "dtype": str(wanted.dtype),
        "weights": path.name,
        "weights_sha256": whole_files.file_sha256(path),
    }
    return Extractor(
        transforms.sscd_input(wanted.preset), network, record, copy_threshold=COPY_THRESHOLD
    )


def _load(path, wanted):
    import torch

    with warnings.catch_warnings():
        # SSCD is published as TorchScript; torch deprecates the loader, not the file
        warnings.filterwarnings("ignore", message=".*torch.jit.load.*")
        try:
            return torch.jit.load(str(path), map_location=wanted.device).eval().to(wanted.dtype)
        except RuntimeError as error:
            raise DataError(
                f"--weights={str(path)!r} is not a TorchScript file ({first_line(error, 120)})"
            ) from None


def _require_descriptor(path, network, side):
    """UsageError unless the file maps images to vectors: found out with two black images, not after
    a minute of reading."""
    import torch

    try:
        with torch.no_grad():
            found = network(torch.zeros(2, side, side, 3, dtype=torch.uint8))
    except (RuntimeError, AttributeError, TypeError) as error:
        raise UsageError(
            f"--weights={str(path)!r} takes no images ({first_line(error, 120)}); takes an SSCD"
            " model"
        ) from None
    if found.ndim != 2 or len(found) != 2:
        raise UsageError(
            f"--weights={str(path)!r} gives {tuple(found.shape)} for two images; takes a model that"
            " gives [2, D]"
        )
