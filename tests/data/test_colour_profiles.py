import io

import numpy as np
import pytest
from PIL import Image, ImageCms

from tests import icc
from utils.data import colour_profiles, image_files

COLOURS = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
SPACES = {
    "display-p3": (icc.DISPLAY_P3, icc.srgb_to_linear),
    "adobe-rgb": (icc.ADOBE_RGB, lambda v: v ** (563 / 256)),
    "srgb-primaries-gamma-1.8": (icc.SRGB, lambda v: v**1.8),
}


def kept(image, form="PNG", **how):
    """The picture as it is read from a file."""
    file = io.BytesIO()
    image.save(file, form, **how)
    file.seek(0)
    return image_files.open_image(file, name="0")


def difference(shown, expected):
    return np.abs(np.asarray(shown).astype(float) - expected).max()


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("form", ["PNG", "WEBP"])
def test_a_profile_of_primaries_is_converted_as_the_formulas_say(space, form):
    how = {"lossless": True} if form == "WEBP" else {}
    profile = icc.profile(*SPACES[space])
    shown = kept(Image.fromarray(COLOURS), form, icc_profile=profile, **how)
    assert shown.mode == "RGB"
    assert difference(shown, icc.shown(COLOURS, *SPACES[space])) <= 1.6
    assert difference(COLOURS, icc.shown(COLOURS, *SPACES[space])) > 10
    # what is saved of it later carries no second conversion
    assert "icc_profile" not in shown.info


@pytest.mark.parametrize("how", ["written here", "of the library", "of another name", "rounded"])
def test_pictures_in_srgb_stay_as_they_are_to_the_bit(how):
    profile = {
        "written here": icc.profile(icc.SRGB, icc.srgb_to_linear),
        "of the library": ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(),
        # a conversion by it would move most colours by one level
        "rounded": icc.profile(icc.SRGB, lambda v: icc.srgb_to_linear(np.clip(v + 0.003, 0, 1))),
        "of another name": icc.profile(icc.SRGB, icc.srgb_to_linear, "Camera"),
    }[how]
    for mode in ("RGB", "RGBA", "P"):
        image = Image.fromarray(COLOURS).convert(mode)
        assert np.array_equal(kept(image, icc_profile=profile), kept(image))


def test_a_profile_is_known_by_what_it_does_not_by_its_name():
    profile = icc.profile(*SPACES["display-p3"], "sRGB IEC61966-2.1")
    shown = kept(Image.fromarray(COLOURS), icc_profile=profile)
    assert difference(shown, icc.shown(COLOURS, *SPACES["display-p3"])) <= 1.6


def test_greys_with_a_profile_are_converted():
    greys = np.arange(256, dtype=np.uint8).reshape(16, 16)
    profile = icc.grey_profile(lambda v: v**1.0)
    expected = 255 * icc.linear_to_srgb(greys / 255)
    for image in (Image.fromarray(greys), Image.fromarray(greys.astype(np.uint16) * 257)):
        shown = kept(image, icc_profile=profile)
        assert difference(shown, expected[..., None]) <= 1.6
    clear = Image.merge("LA", (Image.fromarray(greys), Image.new("L", (16, 16), 0)))
    assert np.asarray(kept(clear, icc_profile=profile)).min() == 255
    opaque = Image.merge("LA", (Image.fromarray(greys), Image.new("L", (16, 16), 255)))
    assert difference(kept(opaque, icc_profile=profile), expected[..., None]) <= 1.6
    flat = icc.grey_profile(icc.srgb_to_linear)
    assert np.array_equal(
        kept(Image.fromarray(greys), icc_profile=flat), kept(Image.fromarray(greys))
    )


def test_inks_are_shown_by_their_profile():
    corners = {
        (0, 0, 0, 0): (100, 0, 0),
        (0, 0, 0, 255): (0, 0, 0),
        (255, 0, 0, 0): (55, -30, -40),
    }
    profile = icc.ink_profile(corners)
    for ink, lab in corners.items():
        image = Image.new("CMYK", (16, 16), ink)
        for form, how in (("JPEG", {"quality": 100}),):
            shown = kept(image, form, icc_profile=profile, **how)
            assert shown.mode == "RGB"
            assert difference(shown, icc.lab_to_srgb(lab)) <= 3
    # without a profile: by Pillow's formula
    assert (
        difference(
            kept(Image.new("CMYK", (16, 16), (255, 0, 0, 0)), "JPEG", quality=100), (0, 255, 255)
        )
        <= 3
    )


def test_transparency_and_palettes_are_converted_before_they_lie_over_white():
    profile, space = icc.profile(*SPACES["adobe-rgb"]), SPACES["adobe-rgb"]
    colour = (30, 200, 40)
    expected = icc.shown([colour], *space)[0]
    for alpha in (255, 0, 128):
        image = Image.new("RGBA", (4, 4), (*colour, alpha))
        share = alpha / 255
        shown = np.asarray(kept(image, icc_profile=profile))[0, 0]
        assert np.abs(shown - (share * expected + (1 - share) * 255)).max() <= 2
    palette = Image.new("RGB", (4, 4), colour).convert("P", palette=Image.Palette.ADAPTIVE)
    assert difference(kept(palette, icc_profile=profile), expected) <= 1.6


@pytest.mark.parametrize("profile", [b"x", b"\0" * 200, icc.profile(icc.SRGB, np.sqrt)[:300]])
def test_a_broken_profile_is_ignored_as_viewers_do(profile):
    image = Image.fromarray(COLOURS)
    assert np.array_equal(kept(image, icc_profile=profile), COLOURS)


def test_a_profile_of_another_kind_than_the_pixels_is_ignored():
    grey = icc.grey_profile(lambda v: v**1.0)
    assert np.array_equal(kept(Image.fromarray(COLOURS), icc_profile=grey), COLOURS)
    rgb, greys = icc.profile(*SPACES["adobe-rgb"]), Image.new("L", (4, 4), 90)
    assert np.array_equal(kept(greys, icc_profile=rgb), kept(greys))
    image = Image.fromarray(COLOURS)
    too_long = icc.profile(*SPACES["adobe-rgb"]) + bytes(colour_profiles.MOST_BYTES)
    assert colour_profiles.to_srgb(image, too_long) is image
