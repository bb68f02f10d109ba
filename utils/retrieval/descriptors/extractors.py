"""The descriptors by name. A new one is a function, a line in the registry and a test; networks and
torch are imported by the builder that needs them, because the options read this registry and --help
must answer at once."""

from utils.data import transforms
from utils.retrieval.descriptors import clip, sscd, timm_models
from utils.retrieval.descriptors.network import Extractor


def pixel_network(pixels):
    """[B, 3, 16, 16] -> [B, 768]: minus one mean over all 768 values, so the dot product is the
    normalised cross-correlation; a flat image becomes 0, not noise."""
    import torch

    flat = pixels.flatten(1).double()
    centred = flat - flat.mean(1, keepdim=True)
    # of 255; averaging in float32 leaves some 1e-5
    flat_image = centred.abs().amax(1, keepdim=True) < 1e-3
    return torch.where(flat_image, 0.0, centred).float()


def build_pixel(wanted):
    """Extractor of the `pixel` descriptor, which has no weights."""
    wanted.refuse("pixel", "weights", "layer", "isvit", "imsize", "multiscale")
    return Extractor(
        transforms.pixel_input, pixel_network, {"cells": transforms.PIXEL_SIDE}, copy_threshold=0.95
    )


# --pt_style -> builder(Wanted) -> Extractor
EXTRACTORS = {
    "pixel": build_pixel,
    "sscd": sscd.build,
    "clip": clip.build,
    "dino": timm_models.build_dino,
    "timm": timm_models.build,
}
# entries of a descriptor's record -> the flag that chooses them, where they have not the same name
FLAGS = {
    "model": "arch",
    "patch_tokens": "layer",
    "pretrained": "weights",
    "weights_sha256": "weights",
    "state_sha256": "weights",
}
# what of --arch and --preset names an evaluation
USES_ARCH, USES_PRESET = ("sscd", "clip", "dino", "timm"), ("sscd",)
