import numpy as np
import pytest
import torch
from PIL import Image

from utils.data import transforms


def drawn(image, size, rng=None, *, center_crop=True, random_flip=False):
    views = transforms.Views(16, center_crop=center_crop, random_flip=random_flip)
    return views.draw(image.size, size, rng or np.random.default_rng(0)).pixels(image)


def noise(width, height, seed=0):
    return Image.fromarray(
        np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    )


@pytest.mark.parametrize("size", [(60, 40), (40, 60), (33, 77), (20, 20), (257, 101)])
def test_short_side_and_crop(size):
    resized = transforms.resize_short_side(noise(*size), 32)
    assert min(resized.size) == 32
    assert max(resized.size) / 32 == pytest.approx(max(size) / min(size), abs=1 / 32)
    assert transforms.crop(resized, 32).size == (32, 32)


def test_training_pixels_are_in_minus_one_to_one_and_exact_without_resizing():
    image = noise(16, 16)
    pixels = drawn(image, (16, 16))
    assert pixels.dtype == torch.float32
    expected = torch.from_numpy(np.asarray(image).transpose(2, 0, 1) / 127.5 - 1)
    torch.testing.assert_close(pixels.double(), expected, atol=1e-6, rtol=0)


def test_centre_crop_is_the_middle_and_random_crop_reaches_every_window():
    image = noise(24, 16)
    middle = drawn(image, (16, 16))
    torch.testing.assert_close(middle[0, 0, 0].item(), image.getpixel((4, 0))[0] / 127.5 - 1)
    rng = np.random.default_rng(0)
    firsts = {
        round(
            float(drawn(image, (16, 16), rng, center_crop=False)[0, 0, 0]),
            4,
        )
        for _ in range(200)
    }
    assert firsts == {round(image.getpixel((x, 0))[0] / 127.5 - 1, 4) for x in range(9)}


def test_flips_are_half_of_the_draws():
    image, rng = noise(16, 16), np.random.default_rng(0)
    plain = transforms.to_tensor(image, (0.5,) * 3, (0.5,) * 3)
    views = [drawn(image, (16, 16), rng, random_flip=True) for _ in range(200)]
    flipped = [torch.equal(v, plain.flip(2)) for v in views]
    assert all(f or torch.equal(v, plain) for f, v in zip(flipped, views, strict=True))
    assert 70 < sum(flipped) < 130


def test_resizing_is_antialiased():
    stripes = Image.fromarray(
        np.tile(np.array([[0, 255]], np.uint8), (64, 32))[:, :, None].repeat(3, 2)
    )
    reduced = np.asarray(transforms.resize_short_side(stripes, 16))
    assert np.abs(reduced[:, 1:-1].astype(int) - 127).max() <= 3


@pytest.mark.parametrize("side", [16, 64, 50, 7])
def test_pixel_input_is_the_exact_area_average(side):
    image = noise(side + 10, side)
    left = (image.width - side) // 2  # 10 spare columns
    square = np.asarray(image, float)[:, left : left + side].transpose(2, 0, 1)
    # naive: every pixel repeated 16 times is an integer number of subpixels a cell
    fine = square.repeat(16, 1).repeat(16, 2).reshape(3, 16, side, 16, side).mean((2, 4))
    found = transforms.pixel_input(image)
    assert found.shape == (3, 16, 16)
    torch.testing.assert_close(found.double(), torch.from_numpy(fine), atol=2e-4, rtol=0)


@pytest.mark.parametrize(
    ("preset", "size", "mean"),
    [
        ("dcr", (224, 224), 0.5),
        ("dcr-search", (224, 224), 0.485),
        ("sscd", (288, 576), 0.485),
        ("sscd-square", (320, 320), 0.485),
    ],
)
def test_sscd_presets(preset, size, mean):
    flat = Image.new("RGB", (400, 200), (51, 51, 51))
    found = transforms.sscd_input(preset)(flat)
    assert (tuple(found.shape), found.dtype) == ((*size, 3), torch.uint8)
    std = 0.5 if preset == "dcr" else 0.229
    scaled = transforms.scaled(found[None], *transforms.SSCD_PRESETS[preset][3:])
    assert scaled[0, 0].mean().item() == pytest.approx((0.2 - mean) / std, abs=1e-4)


@pytest.mark.parametrize("size", [(300, 260), (261, 407), (224, 225), (512, 512)])
def test_the_dcr_preset_agrees_with_torchvision(size):
    from torchvision.transforms import v2

    theirs = v2.Compose(
        [
            v2.Resize(256),
            v2.CenterCrop(224),
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize([0.5] * 3, [0.5] * 3),
        ]
    )
    ours = transforms.scaled(
        transforms.sscd_input("dcr")(noise(*size))[None], (0.5,) * 3, (0.5,) * 3
    )[0]
    torch.testing.assert_close(ours, theirs(noise(*size)), atol=1e-5, rtol=0)


def test_scaling_by_hand():
    pixels = torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 1, 1, 3)
    found = transforms.scaled(pixels, (0.5, 0.1, 0.2), (0.5, 0.1, 0.4)).flatten().tolist()
    assert found == pytest.approx([-1, 1, 2])


@pytest.mark.parametrize(("side", "cells"), [(64, 16), (50, 16), (33, 7), (8, 8)])
def test_area_average_of_any_number_of_cells(side, cells):
    image = noise(side, side)
    fine = np.asarray(image, float).transpose(2, 0, 1).repeat(cells, 1).repeat(cells, 2)
    expected = fine.reshape(3, cells, side, cells, side).mean((2, 4))
    torch.testing.assert_close(
        transforms.area_averaged(image, cells).double(),
        torch.from_numpy(expected),
        atol=2e-4,
        rtol=0,
    )


def test_a_centre_square_agrees_with_torchvision():
    from torchvision.transforms import v2

    theirs = v2.Compose([v2.Resize(299), v2.CenterCrop(299), v2.PILToTensor()])
    assert torch.equal(
        transforms.centre_square(noise(80, 61), 299), theirs(noise(80, 61)).permute(1, 2, 0)
    )


def test_as_generated_is_a_square_of_8_bits():
    made = transforms.as_generated(noise(90, 60), 48)
    assert (made.size, made.mode) == ((48, 48), "RGB")


def whole_then_cropped(image, short, side, rng=None):
    """As the published scripts do."""
    return transforms.crop(transforms.resize_short_side(image, short), side, rng)


@pytest.mark.parametrize("size", [(40, 33), (33, 130), (31, 17), (64, 64), (16, 64)])
@pytest.mark.parametrize("random", [False, True])
def test_the_square_of_a_picture_is_cropped_from_its_whole_to_the_bit(size, random):
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    for short, side in ((16, 16), (20, 16), (31, 24)):
        one, other = (np.random.default_rng(5) if random else None for _ in range(2))
        expected = np.asarray(whole_then_cropped(image, short, side, one))
        assert np.array_equal(transforms.scaled_crop(image, short, side, other), expected)


@pytest.mark.parametrize("size", [(33, 400), (1000, 21), (16, 800), (1, 50)])
@pytest.mark.parametrize("random", [False, True])
def test_of_a_long_picture_the_square_alone_is_scaled(size, random, monkeypatch):
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    for short, side in ((16, 16), (20, 16), (40, 33)):
        one, other = (np.random.default_rng(5) if random else None for _ in range(2))
        expected = np.asarray(whole_then_cropped(image, short, side, one)).astype(int)
        scaled, resize = [], Image.Image.resize

        def noted(self, shape, *rest, scaled=scaled, resize=resize, **named):
            scaled.append(shape)
            return resize(self, shape, *rest, **named)

        with monkeypatch.context() as patch:
            patch.setattr(Image.Image, "resize", noted)
            shown = np.asarray(transforms.scaled_crop(image, short, side, other)).astype(int)
        assert scaled == ([(side, side)] if short != min(size) else [])
        # Pillow rounds the box to single precision and each of its two passes to whole levels: sums
        # that end in .5, frequent where the scale is a simple fraction, fall to either side
        assert np.abs(shown - expected).max() <= 2
        assert np.abs(shown - expected).mean() < 0.4


def naive_shown(image, size, top, left):
    """A window of an image that is scaled to cover `size` = (height, width), with plain numbers."""
    height, width = size
    scale = max(width / image.width, height / image.height)
    scaled = (int(image.width * scale + 1e-9), int(image.height * scale + 1e-9))
    whole = np.asarray(image.resize(scaled, Image.Resampling.BILINEAR))
    return whole[top : top + height, left : left + width].transpose(2, 0, 1) / 127.5 - 1


@pytest.mark.parametrize("shape", [(60, 40), (40, 60), (33, 77), (48, 80), (20, 20)])
@pytest.mark.parametrize("size", [(16, 16), (48, 80), (80, 40)])
def test_a_view_scales_an_image_to_cover_its_size_and_says_what_it_crops(shape, size):
    image = noise(*shape)
    for seed in range(8):
        rng = np.random.default_rng(seed)
        view = transforms.Views(16, center_crop=False, random_flip=True).draw(shape, size, rng)
        (height, width), (top, left) = size, view.crop
        assert min(view.window.scaled[0] - width, view.window.scaled[1] - height) == 0
        # the crop is that of the picture as it is shown: mirrored first
        mirrored = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if view.flipped else image
        shown = view.pixels(image)
        assert shown.shape == (3, *size)
        expected = naive_shown(mirrored, size, top, left)
        assert np.abs(shown.numpy() - expected).max() <= 1 / 127.5 + 1e-6  # a level of rounding


def test_a_random_window_reaches_every_place_of_the_longer_side_alone():
    views, rng = (
        transforms.Views(16, center_crop=False, random_flip=False),
        np.random.default_rng(0),
    )
    crops = {views.draw((60, 40), (16, 16), rng).crop for _ in range(300)}
    assert crops == {(0, left) for left in range(9)}  # 24 x 16 pixels
    assert transforms.centred((60, 40), (16, 16)).crop == (0, 4)
