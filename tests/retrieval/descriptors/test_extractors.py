import numpy as np
import pytest
import torch
from PIL import Image

from utils.retrieval.descriptors import extractors
from utils.retrieval.formulas.similarity import normalised
from utils.runtime.errors import UsageError


def described(extractor, *images):
    return normalised(extractor.network(torch.stack([extractor.transform(i) for i in images])))


def rough(seed, size=64):
    return Image.fromarray(
        np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    )


def test_pixel_is_the_normalised_cross_correlation(wanted):
    pixel = extractors.EXTRACTORS["pixel"](wanted())
    a, b = rough(0), rough(1)
    cells = [np.asarray(i, float).reshape(16, 4, 16, 4, 3).mean((1, 3)).ravel() for i in (a, b)]
    found = described(pixel, a, b)
    assert (found[0] @ found[1]).item() == pytest.approx(np.corrcoef(*cells)[0, 1], abs=1e-5)
    # brightness and contrast do not matter, colour does: one mean over all channels, not one a
    # channel
    brighter = Image.fromarray((np.asarray(a) * 0.5 + 60).astype(np.uint8))
    red = Image.fromarray((np.asarray(a) * [1, 0.2, 0.2]).astype(np.uint8))
    found = described(pixel, a, brighter, red)
    assert (found[0] @ found[1]).item() > 0.99
    assert (found[0] @ found[2]).item() < 0.6
    assert (pixel.copy_threshold, pixel.record) == (0.95, {"cells": 16})


def test_a_flat_image_has_descriptor_zero(wanted):
    pixel = extractors.EXTRACTORS["pixel"](wanted())
    flat = described(
        pixel, Image.new("RGB", (50, 50), (200, 10, 10)), Image.new("RGB", (50, 50), (9, 9, 9))
    )
    assert flat[1].abs().max() == 0
    # a red image is not flat: its channels differ
    assert flat[0].norm().item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    ("style", "given", "flag"),
    [
        ("pixel", {"weights": "w.pt"}, "--weights"),
        ("pixel", {"imsize": 64}, "--imsize"),
        ("pixel", {"multiscale": True}, "--multiscale"),
        ("pixel", {"layer": 1}, "--layer"),
        ("sscd", {"layer": 2, "arch": "resnet50"}, "--layer"),
        ("sscd", {"isvit": True, "arch": "resnet50"}, "--isvit"),
        ("sscd", {"imsize": 64, "arch": "resnet50"}, "--imsize"),
        ("clip", {"multiscale": True, "arch": "vit_base"}, "--multiscale"),
        ("clip", {"layer": 1, "arch": "vit_base"}, "--layer"),
    ],
)
def test_what_a_descriptor_cannot_do_is_refused_not_ignored(wanted, style, given, flag):
    with pytest.raises(
        UsageError, match=f"{flag} does not go with --pt_style {style}; leave it out"
    ):
        extractors.EXTRACTORS[style](wanted(**given))
