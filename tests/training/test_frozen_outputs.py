import os
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from tests.pipelines import embed
from utils.data import buckets, image_sets, transforms
from utils.training import frozen_outputs, steps
from utils.training import latents as lat


@pytest.fixture
def images(scenes_dir, tmp_path):
    folder = shutil.copytree(scenes_dir / "train", tmp_path / "train")
    # not compressed: one size for all, so that another content keeps it
    for path in folder.rglob("*.png"):
        Image.open(path).save(path, compress_level=0)
    return image_sets.list_images("--d", folder)


def shown(image, flipped=False):
    return transforms.centred(image.size, (16, 16), flipped=flipped).pixels(image)


def made(tmp_path, images, parts, flips=True):
    cached = frozen_outputs.CachedLatents(
        tmp_path / "cache", images, parts, resolution=16, flips=flips, dtype=torch.float32
    )
    count = len(list(cached.build(parts.vae, device=torch.device("cpu"))))
    cached.rows.open()
    return cached, count


def test_kept_moments_are_those_of_encoding_each_view(tmp_path, images, micro_parts):
    parts = micro_parts()
    cached, count = made(tmp_path, images, parts)
    assert count == 12
    for row, flipped in ((3, False), (3, True), (11, True)):
        pixels = shown(images.open(row), flipped)[None]
        expected = lat.moments(parts.vae, pixels)
        torch.testing.assert_close(cached.moments([row], [flipped]), expected, rtol=1e-4, atol=1e-5)
    assert not torch.equal(cached.moments([3], [False]), cached.moments([3], [True]))


def test_samples_of_kept_moments_have_the_distribution_of_encoding_each_time(
    tmp_path, images, micro_parts
):
    """Mean and standard deviation over many samples of one image's latents, against the posterior's
    own."""
    parts = micro_parts()
    with torch.no_grad():
        parts.vae.quant_conv.bias[4:] = 1.0  # log variances about 1: samples that spread
    cached, _ = made(tmp_path, images, parts, flips=False)
    mean, std = cached.moments([5], [False]).unbind(1)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(4000, *mean.shape[1:], generator=generator)
    kept = lat.posterior_sample(mean, std, noise, scaling_factor=parts.vae.config.scaling_factor)
    with torch.no_grad():
        pixels = shown(images.open(5))[None]
        posterior = parts.vae.encode(pixels).latent_dist
        anew = torch.cat([posterior.sample(generator=generator) for _ in range(4000)]) * 0.5
    torch.testing.assert_close(kept.mean(0), anew.mean(0), rtol=0, atol=0.08)
    torch.testing.assert_close(kept.std(0), anew.std(0), rtol=0.1, atol=0)
    assert kept.std(0).mean() > 0.3


def test_a_changed_image_is_encoded_again(tmp_path, images, micro_parts):
    parts = micro_parts()
    first, _ = made(tmp_path, images, parts)
    before = first.moments(range(12), [0] * 12)
    # the same size, so the same fingerprint
    images.path(4).write_bytes(images.path(5).read_bytes())
    os.utime(images.path(4), ns=(1, 1))
    changed, count = made(tmp_path, images, parts)
    assert count == 12  # one group of sixteen rows
    same = [
        torch.equal(a, b) for a, b in zip(before, changed.moments(range(12), [0] * 12), strict=True)
    ]
    assert same.index(False) == 4
    assert same.count(False) == 1
    assert made(tmp_path, images, parts)[1] == 0


def test_another_autoencoder_or_resolution_has_a_cache_of_its_own(tmp_path, images, micro_parts):
    parts, other = micro_parts(), micro_parts()
    with torch.no_grad():
        next(other.vae.parameters()).add_(1)
    folders = {
        frozen_outputs.CachedLatents(
            tmp_path, images, p, resolution=r, flips=f, dtype=d
        ).rows.folder
        for p, r, f, d in (
            (parts, 16, True, torch.float32),
            (other, 16, True, torch.float32),
            (parts, 24, True, torch.float32),
            (parts, 16, False, torch.float32),
            (parts, 16, True, torch.bfloat16),
        )
    }
    assert len(folders) == 5


def test_embeddings_come_back_by_prompt(tmp_path, micro_parts):
    parts = micro_parts()
    prompts = [f"a {c} thing" for c in "abcdefghijklmnopqrst"]
    cached = frozen_outputs.CachedTexts(
        tmp_path / "cache", prompts, parts, steps.of(parts), dtype=torch.float32
    )
    assert list(cached.build(parts.encoders, device="cpu")) == list(range(20))
    cached.rows.open()
    asked = ["a q thing", "a b thing", "a q thing"]
    with torch.no_grad():
        expected = embed(parts, asked)
    text = cached.text(asked)
    assert list(text) == ["tokens"]
    torch.testing.assert_close(text["tokens"], expected, rtol=1e-4, atol=1e-5)
    assert cached.rows.rows == 20
    assert np.prod(cached.rows.shape) == 32 * 16


def test_other_pictures_of_equal_size_and_time_are_encoded_again(tmp_path, images, micro_parts):
    parts = micro_parts()
    for i in range(12):
        Image.new("L", (40, 40), i).save(images.path(i), "BMP")
        os.utime(images.path(i), ns=(1, 1))
    listed = image_sets.list_images("--d", images.root)
    first, _ = made(tmp_path, listed, parts)
    before = first.moments([3], [0])
    for i in range(12):
        Image.new("L", (40, 40), 255 - i).save(images.path(i), "BMP")
        os.utime(images.path(i), ns=(1, 1))
    again = image_sets.list_images("--d", images.root)
    assert again.fingerprint == listed.fingerprint
    changed, count = made(tmp_path, again, parts)
    assert count == 12
    assert not torch.equal(before, changed.moments([3], [0]))


def test_each_bucket_has_a_cache_of_its_shape(tmp_path, images, micro_parts):
    parts, of = micro_parts(), np.array([0, 2, 1] * 4)
    found = buckets.Buckets(((16, 16), (16, 24), (8, 16), (32, 8)), of)
    cached = frozen_outputs.CachedLatents(
        tmp_path, images, parts, resolution=16, flips=True, dtype=torch.float32, buckets=found
    )
    # two processes take the caches in turns
    device, parted = torch.device("cpu"), []
    for process in (0, 1):
        assert cached.rows.count_missing(process, 2) > 0
        parted.append(list(cached.build(parts.vae, device=device, process=process, processes=2)))
    assert sorted(parted[0] + parted[1]) == list(range(12))
    cached.rows.open()
    assert (cached.rows.count_missing(), cached.rows.rows) == (0, 12)
    assert cached.rows.bytes == sum(2 * 2 * 4 * 4 * h * w // 4 * 4 for h, w in found.counts)
    for row, flipped in ((3, False), (10, True), (5, True)):
        image = images.open(row)
        view = transforms.centred(image.size, found.size(row), flipped=flipped)
        expected = lat.moments(parts.vae, view.pixels(image)[None])
        kept = cached.moments([row], [flipped])
        torch.testing.assert_close(kept, expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="too many values"):
        cached.moments([0, 1], [False, False])
