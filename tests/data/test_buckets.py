from collections import Counter, deque

import numpy as np
import pytest
from PIL import Image

from utils.data import buckets, image_sets, training_data, transforms

# (number of images of each bucket, images of a micro-batch)
SETS = [((10, 3, 7), 4), ((12,), 4), ((1, 1, 1), 4), ((5, 0, 40), 8), ((9, 2), 1)]


def numbers(counts):
    """The bucket of each image, in no order of the buckets."""
    return np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))


@pytest.mark.parametrize(("counts", "batch"), SETS)
def test_every_micro_batch_holds_one_bucket(counts, batch):
    of = numbers(counts)
    weights = np.arange(1.0, len(of) + 1)
    for weighted in (None, weights):
        order = buckets.BucketOrder(of, batch=batch, weights=weighted, seed=3)
        for number in range(60):
            drawn = [order[number * batch + slot] for slot in range(batch)]
            assert len(set(of[drawn])) == 1


def decks(counts, batch, epochs):
    """Micro-batches of each bucket in each epoch, counted naively: in every epoch each bucket puts
    all its images behind what it has left, and deals full micro-batches."""
    left, found = [deque() for _ in counts], []
    for _ in range(epochs):
        dealt = Counter()
        for bucket, count in enumerate(counts):
            left[bucket].extend(range(count))
            while len(left[bucket]) >= batch:
                for _ in range(batch):
                    left[bucket].popleft()
                dealt[bucket] += 1
        found.append(dealt)
    return found


@pytest.mark.parametrize(("counts", "batch"), SETS)
def test_an_epoch_deals_what_full_micro_batches_allow(counts, batch):
    of, epochs = numbers(counts), 9
    order, number = buckets.BucketOrder(of, batch=batch, seed=3), 0
    drawn, images = Counter(), len(of)
    for epoch, dealt in enumerate(decks(counts, batch, epochs), 1):
        seen = Counter()
        for _ in range(dealt.total()):
            batch_drawn = order.micro_batch(number)
            drawn.update(batch_drawn.tolist())
            seen[int(of[batch_drawn[0]])] += 1
            number += 1
        assert seen == dealt
        assert max(drawn.values(), default=0) <= epoch
        for bucket, count in enumerate(counts):
            missing = epoch * count - sum(drawn[i] for i in range(images) if of[i] == bucket)
            assert 0 <= missing < batch


def test_with_one_bucket_that_batches_divide_an_epoch_draws_each_image_once():
    order = buckets.BucketOrder(np.zeros(12, int), batch=4, seed=1)
    epochs = [[order[p] for p in range(12 * e, 12 * e + 12)] for e in range(3)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(12))] * 3
    assert epochs[0] != epochs[1] != epochs[2]


def test_over_many_epochs_all_images_are_drawn_equally_often():
    of = numbers((10, 3, 7))
    order = buckets.BucketOrder(of, batch=4, seed=3)
    drawn = Counter(order[p] for p in range(20 * 400))
    assert max(drawn.values()) - min(drawn.values()) <= 2  # of 400; a batch is not yet full


@pytest.mark.parametrize(("counts", "batch"), [((10, 3, 7), 4), ((1, 6), 8)])
def test_the_probability_of_an_image_is_its_weight(counts, batch):
    of, draws = numbers(counts), 40_000
    weights = np.arange(len(of), dtype=float)  # the first is never drawn
    order = buckets.BucketOrder(of, batch=batch, weights=weights, seed=2)
    drawn = Counter(int(i) for n in range(draws // batch) for i in order.micro_batch(n))
    share = weights / weights.sum()
    # draws of one micro-batch share their bucket: the variance is at most `batch` times as large
    error = np.sqrt(share * (1 - share) * batch / draws)
    found = np.array([drawn[i] for i in range(len(of))]) / draws
    assert drawn[0] == 0
    assert (np.abs(found - share) <= 4 * error).all()


@pytest.mark.parametrize("weighted", [False, True])
def test_a_draw_depends_on_seed_split_and_position_alone(weighted):
    of = numbers((10, 3, 7))
    weights = np.arange(1.0, 21.0) if weighted else None

    def order(**changes):
        return buckets.BucketOrder(of, **{"batch": 4, "weights": weights, "seed": 3} | changes)

    forward, other = order(), order()
    drawn = [forward[p] for p in range(200)]
    places = np.random.default_rng(1).permutation(200)
    assert [other[int(p)] for p in places] == [drawn[p] for p in places]
    for changed in ({"seed": 4}, {"split": 1}):
        assert [order(**changed)[p] for p in range(200)] != drawn


# Sizes --------------------------------------------------------------------------------------------


def test_automatic_sizes_at_512_by_hand():
    # multiples of 64; 448 * 576 = 258,048 and 384 * 640 = 245,760 of 262,144 pixels, 320 * 640 is
    # 2:1 with 78 %; 256 * 512 would have half of the pixels
    sides = [(320, 640), (384, 640), (448, 576), (576, 448), (640, 320), (640, 384)]
    assert buckets.automatic(512, 8) == [(512, 512), *sides]


@pytest.mark.parametrize(
    ("resolution", "multiple", "unit"), [(1024, 8, 64), (64, 8, 8), (256, 16, 32), (96, 8, 16)]
)
def test_automatic_sizes_have_about_the_area_of_the_square(resolution, multiple, unit):
    sizes = buckets.automatic(resolution, multiple)
    assert sizes[0] == (resolution, resolution)
    assert len(sizes) > 4

    def accepted(height, width):
        area = height * width / resolution**2
        return 0.75 <= area <= 1 and 0.5 <= height / width <= 2

    for height, width in sizes[1:]:
        assert height % unit == width % unit == 0
        assert accepted(height, width)
        assert (width, height) in sizes
        assert not (accepted(height, width + unit) and accepted(height + unit, width))


def test_the_nearest_size_is_that_of_the_least_crop():
    sizes = [(64, 64), (48, 80), (80, 48)]
    of = [buckets.nearest(shape, sizes) for shape in ((10, 10), (1000, 600), (3, 5), (13, 10))]
    # 13:10 lies nearer to 5:3 than to 1:1, in logarithms: log 1.3 = 0.262, log (5/3 / 1.3) = 0.248
    assert of == [0, 1, 2, 1]
    assert buckets.nearest((129, 100), sizes) == 0  # 0.2546 and 0.2562
    assert buckets.nearest((7, 7), [(64, 64), (32, 32)]) == 0


# In draws -----------------------------------------------------------------------------------------


@pytest.fixture
def pictures(tmp_path):
    """Twelve pictures, of three shapes."""
    rng, shapes = np.random.default_rng(0), [(40, 40), (60, 40), (30, 50)]
    for number in range(12):
        width, height = shapes[number % 3 if number < 9 else 0]
        pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number:02d}.png")
    images = image_sets.list_images("--d", tmp_path)
    return image_sets.readable("--d", images, max_bad=0, workers=1)


def draws_of(images, **changes):
    found = buckets.assigned(images, [(16, 16), (16, 24), (24, 16)])
    data, _ = training_data.captioned_images(
        images,
        {key: [key] for key in images.keys},
        style="nodup",
        share=0,
        weight=1,
        seed=0,
        in_buckets=found,
    )
    settings = {
        "seed": 7,
        "global_batch": 4,
        "views": transforms.Views(16, center_crop=True, random_flip=True),
        "choose_caption": lambda captions, duplicated, rng: captions[0],
    }
    return training_data.Draws(data, **settings | changes)


def test_images_go_to_the_bucket_of_their_shape_and_batches_have_its_size(pictures):
    draws = draws_of(pictures)
    assert draws.data.buckets.counts == {(16, 16): 6, (16, 24): 3, (24, 16): 3}
    shapes = {(40, 40): (16, 16), (60, 40): (16, 24), (30, 50): (24, 16)}
    seen = set()
    for batch in training_data.loader(draws, steps=range(12), batch_size=4):
        (size,) = set(batch["target_size"])
        seen.add(size)
        assert batch["pixels"].shape == (4, 3, *size)
        for key, original in zip(batch["prompt"], batch["original_size"], strict=True):
            height, width = original
            assert Image.open(pictures.root / key).size == (width, height)
            assert shapes[width, height] == size
    assert seen == set(shapes.values())


def test_two_processes_draw_the_same_bucket_and_without_pixels_the_same_views(pictures):
    whole = list(training_data.loader(draws_of(pictures), steps=range(8), batch_size=4))
    bare = draws_of(pictures, pixels=False)
    halves = [
        list(training_data.loader(bare, steps=range(8), batch_size=2, process=p)) for p in (0, 1)
    ]
    for one, first, second in zip(whole, *halves, strict=True):
        one.pop("pixels")
        assert {name: first[name] + second[name] for name in first} == one


def test_a_split_has_the_buckets_of_its_images(pictures):
    data = draws_of(pictures).data
    part = data.take(np.array([11, 1, 4]))
    assert part.buckets.counts == {(16, 16): 1, (16, 24): 2}
    line = buckets.small_line([data.buckets, part.buckets], 3)
    assert line.endswith("more than once: 16,16 (1 in split 1), 16,24 (2 in split 1)")
    assert buckets.small_line([data.buckets], 3) is None
    assert buckets.small_line([data.buckets], 4).endswith(": 16,24 (3), 24,16 (3)")


def test_the_record_names_the_bucket_of_every_image(pictures):
    found = buckets.assigned(pictures, [(16, 24), (24, 16), (8, 8), (16, 16)])
    record = found.record(pictures.keys)
    assert record["counts"] == {"16,24": 3, "24,16": 3, "8,8": 6}  # of equal shapes the first
    assert record["images"]["01.png"] == "16,24"
    assert list(record["images"]) == list(pictures.keys)
    line = buckets.counts_line(found)
    assert line == "aspect-ratio buckets (height,width: images): 16,24: 3; 24,16: 3; 8,8: 6"
