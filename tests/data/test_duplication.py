import json
from collections import Counter

import numpy as np
import pytest

from utils.data import duplication, image_sets
from utils.runtime.errors import UsageError


def test_the_duplicated_set_is_a_share_without_replacement_and_a_function_of_the_seed():
    chosen = duplication.duplicated_images(101, 0.05, 3)
    assert len(chosen) == len(set(chosen)) == 5  # floor(5.05)
    assert list(chosen) == sorted(chosen)
    assert np.array_equal(chosen, duplication.duplicated_images(101, 0.05, 3))
    assert not np.array_equal(chosen, duplication.duplicated_images(101, 0.05, 4))
    assert len(duplication.duplicated_images(10, 0.0, 0)) == 0
    assert [
        len(duplication.duplicated_images(n, p, 0))
        for n, p in ((100, 0.29), (100, 0.57), (50, 0.58))
    ] == [29, 57, 29]


def test_an_unweighted_epoch_is_a_shuffle():
    order = duplication.DrawOrder(50, seed=1)
    assert sorted(order.epoch(0)) == list(range(50))
    assert not np.array_equal(order.epoch(0), order.epoch(1))
    assert [order[p] for p in range(50, 53)] == list(order.epoch(1)[:3])
    assert [duplication.DrawOrder(50, seed=2)[p] for p in range(50)] != [
        order[p] for p in range(50)
    ]


def test_five_percent_of_weight_five_are_twenty_percent_of_draws():
    # by hand: 0.05 * 5 / (0.05 * 5 + 0.95) = 0.2083
    weights = np.ones(200)
    weights[:10] = 5
    order = duplication.DrawOrder(200, weights=weights, seed=0)
    drawn = np.concatenate([order.epoch(e) for e in range(200)])
    assert (drawn < 10).mean() == pytest.approx(0.2083, abs=0.008)
    counts = Counter(drawn[drawn >= 10].tolist())
    assert len(counts) == 190
    # with replacement: an image may come twice in an epoch
    assert len(set(order.epoch(0).tolist())) < 200


def test_draws_agree_with_a_naive_sampler():
    weights = np.array([1, 5, 1, 1, 5.0])
    drawn = np.concatenate(
        [duplication.DrawOrder(5, weights=weights, seed=9).epoch(e) for e in range(4000)]
    )
    naive = np.random.default_rng(0).choice(np.repeat(np.arange(5), weights.astype(int)), 20_000)
    ours, theirs = (np.bincount(d, minlength=5) / len(d) for d in (drawn, naive))
    assert np.abs(ours - theirs).max() < 0.015


def test_only_nodup_does_not_duplicate_and_only_dup_image_varies_captions():
    choices = duplication.DUPLICATIONS
    assert {name for name, choice in choices.items() if not choice.duplicates} == {"nodup"}
    assert {name for name, choice in choices.items() if choice.varies} == {"dup_image"}


def test_dup_image_draws_among_all_captions_of_a_duplicated_image_alone():
    rng = np.random.default_rng(0)
    captions = ["own", "x", "y"]
    assert {duplication.DUPLICATIONS["dup_image"](captions, False, rng) for _ in range(30)} == {
        "own"
    }
    drawn = Counter(duplication.DUPLICATIONS["dup_image"](captions, True, rng) for _ in range(3000))
    assert max(abs(drawn[c] - 1000) for c in captions) < 5 * np.sqrt(1000)
    for name in ("nodup", "dup_both"):
        assert {duplication.DUPLICATIONS[name](captions, True, rng) for _ in range(30)} == {"own"}


def test_a_subset_is_a_permutation_not_the_first_classes():
    kept = duplication.subset(100, 0.25, 0)
    assert len(kept) == 25
    assert list(kept) == sorted(set(kept))
    assert kept.max() > 50
    assert np.array_equal(duplication.subset(100, 1.0, 0), np.arange(100))
    with pytest.raises(
        UsageError, match="--trainsubset=0.001 keeps none of 100 images; use at least 0.01"
    ):
        duplication.subset(100, 0.001, 0)


def test_a_holdout_is_a_share_of_its_own_stream():
    held = duplication.held_out(120, 0.1, 5)
    assert len(held) == 12
    assert list(held) == sorted(set(held))
    assert np.array_equal(held, duplication.held_out(120, 0.1, 5))
    assert not np.array_equal(held, duplication.held_out(120, 0.1, 6))
    assert not np.array_equal(held, duplication.duplicated_images(120, 0.1, 5))
    assert not np.array_equal(held, duplication.subset(120, 0.1, 5))
    assert len(duplication.held_out(120, 0.0, 5)) == len(duplication.held_out(1, 0.0, 5)) == 0
    assert [len(duplication.held_out(n, p, 0)) for n, p in ((2, 0.5), (100, 0.29))] == [1, 29]


@pytest.mark.parametrize(
    ("count", "share", "message"),
    [
        (12, 0.05, "--holdout=0.05 of 12 images sets none aside; use at least 0.0834, or 0 for"),
        (1, 0.5, "--holdout=0.5 of 1 images needs an image on each side; use 0, or more images"),
        (9, 1 - 1e-12, "of 9 images leaves none to train on; use a smaller share"),
    ],
)
def test_a_holdout_without_an_image_on_each_side_is_refused(count, share, message):
    with pytest.raises(UsageError, match=message):
        duplication.held_out(count, share, 0)
    assert len(duplication.held_out(12, 0.0834, 0)) == 1  # what the first message accepts


def test_weights_of_a_file_by_path_and_one_where_nothing_is_said(scenes_dir, tmp_path):
    images = image_sets.list_images("--d", scenes_dir / "train")
    path = tmp_path / "w.json"
    path.write_text(
        json.dumps({images.keys[3]: 4, str(scenes_dir / "train" / images.keys[5]): 0.5})
    )
    weights, unnamed = duplication.read_weights("--weights_file", path, images)
    assert weights.tolist() == [1, 1, 1, 4, 1, 0.5, 1, 1, 1, 1, 1, 1]
    assert unnamed == 10


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "holds no weights"),
        ('{"a.png": -1}', "has -1; use a number, at least 0"),
        ('{"a.png": "2"}', "has '2'"),
        ('{"a.png": true}', "has True"),
        ('{"no/such.png": 2}', "names none of the images"),
    ],
)
def test_weights_that_are_none(scenes_dir, tmp_path, content, message):
    images = image_sets.list_images("--d", scenes_dir / "train")
    (tmp_path / "w.json").write_text(content)
    with pytest.raises(UsageError, match=f"--weights_file=.*{message}"):
        duplication.read_weights("--weights_file", tmp_path / "w.json", images)
