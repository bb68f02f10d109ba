"""Augmentation of images near the threshold of anti-gradient control."""

import numpy as np
import pytest
import torch

from utils.training import augmentation
from utils.training.loss_control import AntiGradientControl
from utils.training.process.base import ProcessSettings


def test_the_probability_falls_from_the_threshold_to_the_reach():
    near = augmentation.NearThreshold(reach=1.5, decay=0.5, images=6)
    near.update(torch.arange(5), torch.tensor([0.9, 1.0, 1.25, 1.5, 4.0]))
    # below the threshold, at it, half way, at the reach, beyond; and an image not seen yet
    assert near.probability(torch.arange(6)).tolist() == [0, 1, 0.5, 0, 0, 0]


def test_the_nearness_of_an_image_is_a_moving_average():
    near = augmentation.NearThreshold(reach=2, decay=0.75, images=3)
    near.update(torch.tensor([2, 0, 2]), torch.tensor([1.0, torch.inf, 3.0]))
    assert near.nearness.tolist() == [torch.inf, torch.inf, 2]  # the mean of a batch
    near.update(torch.tensor([2, 1]), torch.tensor([6.0, 1.5]))
    assert near.nearness.tolist() == [torch.inf, 1.5, 3]  # 0.75 * 2 + 0.25 * 6
    near.update(torch.tensor([2]), torch.tensor([torch.inf]))
    near.forget([1])
    assert near.nearness.tolist() == [torch.inf, torch.inf, 3]


def test_nearness_is_one_where_a_sample_is_just_kept():
    control = AntiGradientControl(ratio=2.0, decay=0.5, num_timesteps=3, bias_correction=True)
    control.update(torch.tensor([4.0]), torch.tensor([1]))
    losses, times = torch.tensor([2.0, 1.0, 3.0, 9.0]), torch.tensor([1, 1, 1, 0])
    assert control.nearness(losses, times).tolist() == [1, 0.5, 1.5, torch.inf]
    assert control.keep(losses, times).tolist() == [True, False, True, True]


def picture():
    """[1, 1, 8, 8]: column numbers."""
    return torch.arange(8.0).expand(1, 1, 8, 8)


def drawn(area, across=0.5, down=0.5, mirrored=0.9, chosen=0.0):
    return augmentation.Drawn(*(torch.tensor([v]) for v in (chosen, area, across, down, mirrored)))


def test_crops_by_hand():
    """The whole picture; its mirror image; and sides of sqrt(0.8) of it at the middle and left
    edge, where a column x of the crop lies at (x + 0.5) * side + left - 0.5."""
    whole = augmentation.cropped(picture(), drawn(1.0))
    torch.testing.assert_close(whole, picture(), rtol=0, atol=1e-5)
    mirrored = augmentation.cropped(picture(), drawn(1.0, mirrored=0.1))
    torch.testing.assert_close(mirrored, picture().flip(-1), rtol=0, atol=1e-5)
    side = 0.8**0.5
    for across, left in ((0.5, 4 * (1 - side)), (0.0, 0.0), (1.0, 8 * (1 - side))):
        found = augmentation.cropped(picture(), drawn(0.0, across=across))[0, 0, 3]
        columns = ((torch.arange(8) + 0.5) * side + left - 0.5).clamp(0, 7)
        torch.testing.assert_close(found, columns, rtol=0, atol=1e-5)
    rows = augmentation.cropped(picture().mT, drawn(0.0, down=0.0))[0, 0, :, 3]
    torch.testing.assert_close(
        rows, ((torch.arange(8) + 0.5) * side - 0.5).clamp(0, 7), rtol=0, atol=1e-5
    )


def test_pictures_that_are_not_chosen_keep_their_bits():
    near = augmentation.NearThreshold(reach=2, decay=0.5, images=2)
    near.update(torch.tensor([0, 1]), torch.tensor([1.0, 1.5]))
    pixels = torch.rand(2, 3, 8, 8)
    numbers = augmentation.draw([torch.Generator().manual_seed(i) for i in range(2)])
    numbers = numbers._replace(chosen=torch.tensor([0.6, 0.6]))
    shown, chosen = near.shown(pixels, torch.tensor([0, 1]), numbers)
    assert chosen.tolist() == [True, False]  # of probabilities 1 and 0.5
    assert torch.equal(shown[1], pixels[1])
    assert not torch.equal(shown[0], pixels[0])


@pytest.mark.parametrize("reach", [1.5, None])
def test_images_are_augmented_at_the_draw_after_they_came_near(start, finished, reach):
    """What the network is shown, against the nearness that the image had before."""
    copies = start(steps=18, ratio=1.2, augment=reach, process=ProcessSettings(bins=2))
    model, seen = copies.model, []
    encoded = model.frozen.encoded

    def watched(pixels, noise):
        seen.append(pixels.clone())
        return encoded(pixels, noise)

    model.frozen.encoded = watched
    near = model.augmentation
    changed = 0
    for at, plain in zip(copies.run(batch_size=2), _pixels(start, 18), strict=True):
        changed += sum(not torch.equal(a, b) for a, b in zip(seen[-1], plain, strict=True))
        assert near is None or changed == near.augmented.sum(), at.position
    assert (changed > 0) == (reach is not None)


def _pixels(start, steps):
    """The pictures of each step as they are drawn."""
    from utils.data import training_data

    draws = start(steps=steps).draws[0]
    return [b["pixels"] for b in training_data.loader(draws, steps=range(steps), batch_size=2)]


def test_nearness_is_that_before_the_bank_learns(start, finished):
    """One step of one image in one bin: the bank is empty before it, so nothing is known; after the
    second R = ratio * l2 / l1, of a corrected bank with one visit."""
    copies = start(
        steps=2,
        batch=1,
        ratio=1.2,
        bias_correction=True,
        augment=9.0,
        weights=np.array([1.0] + [0.0] * 11),
        process=ProcessSettings(bins=1),
    )
    found, _ = finished(copies, batch=1)
    first, second = (float(at.report.loss) for at in found)
    near = copies.model.augmentation.nearness
    assert near[0].item() == pytest.approx(1.2 * second / first, rel=1e-5)
    assert near[1:].isinf().all()
