import functools

import numpy as np
import pytest
import torch
from PIL import Image

from tests.training.conftest import MITIGATIONS_OFF
from utils.data import caption_files, duplication, image_sets, training_data, transforms
from utils.training import train_mitigations


@pytest.fixture
def make(scenes_dir, micro_parts):
    """make(**changes) -> Draws over the twelve scenes."""
    images = image_sets.list_images("--d", scenes_dir / "train")
    texts, _ = caption_files.read_captions(scenes_dir / "captions.json", images)
    tokenizer = micro_parts().tokenizer

    def draws(
        *, style="dup_both", special=None, seed=5, global_batch=4, mixup=0.0, random_flip=True
    ):
        data, _ = training_data.captioned_images(
            images, texts, style=style, share=0.25, weight=5.0, seed=seed
        )
        values = MITIGATIONS_OFF | {
            "trainspecial": special,
            "trainspecial_prob": 0.5,
            "mixup_noise_lam": mixup,
        }
        hooks = train_mitigations.train_hooks(
            train_mitigations.chosen(values),
            choice=duplication.DUPLICATIONS[style],
            tokenizer=tokenizer,
        )
        return training_data.Draws(
            data,
            seed=seed,
            global_batch=global_batch,
            views=transforms.Views(16, center_crop=False, random_flip=random_flip),
            choose_caption=hooks.choose_caption,
            partners=hooks.partners,
        )

    return draws


def same(a, b):
    return (
        a["index"] == b["index"]
        and a["prompt"] == b["prompt"]
        and torch.equal(a["pixels"], b["pixels"])
    )


def test_a_draw_is_a_function_of_seed_step_and_slot(make):
    draws = make(special="randwordadd")
    assert same(draws[3, 1], make(special="randwordadd")[3, 1])
    others = [draws[3, 2], draws[4, 1], make(special="randwordadd", seed=6)[3, 1]]
    assert not any(same(draws[3, 1], other) for other in others)


def test_captions_are_those_of_the_image(make, scenes_dir):
    import json

    texts = json.loads((scenes_dir / "captions.json").read_text())
    draws = make()
    for step in range(6):
        item = draws[step, 0]
        assert item["prompt"] == texts["train/" + draws.data.images.keys[item["index"]]][0]


def test_two_processes_draw_what_one_of_twice_the_batch_draws(make):
    draws = make(special="allcaps", mixup=0.5)
    whole = list(training_data.loader(draws, steps=range(5), batch_size=4))
    halves = [
        list(training_data.loader(draws, steps=range(5), batch_size=2, process=p)) for p in (0, 1)
    ]
    for one, first, second in zip(whole, *halves, strict=True):
        assert one["slot"] == first["slot"] + second["slot"] == [0, 1, 2, 3]
        assert one["prompt"] == first["prompt"] + second["prompt"]
        assert one["partner_prompt"] == first["partner_prompt"] + second["partner_prompt"]
        assert torch.equal(one["pixels"], torch.cat([first["pixels"], second["pixels"]]))


def test_workers_change_nothing(make):
    draws = make(special="wordrepeat")
    alone, helped = (
        list(training_data.loader(draws, steps=range(6), batch_size=4, num_workers=n))
        for n in (0, 2)
    )
    for a, b in zip(alone, helped, strict=True):
        assert a["prompt"] == b["prompt"]
        assert torch.equal(a["pixels"], b["pixels"])


def test_mixup_partners_permute_the_global_batch(make):
    draws = make(mixup=0.5)
    batch = next(iter(training_data.loader(draws, steps=range(2, 3), batch_size=4)))
    permutation = training_data.mixup_partners(5, 0, 2, 4)
    assert sorted(permutation) == [0, 1, 2, 3]
    assert batch["partner_prompt"] == [batch["prompt"][p] for p in permutation]


def test_duplicated_images_come_five_times_as_often(make):
    draws = make()
    marked = draws.data.duplicated.numpy()
    assert marked.sum() == 3
    indices = np.array([draws.order[p] for p in range(12 * 400)])
    # by hand: 3 * 5 of 3 * 5 + 9
    assert marked[indices].mean() == pytest.approx(15 / 24, abs=0.03)


def test_without_duplication_the_set_is_only_recorded(make, scenes_dir):
    images = image_sets.list_images("--d", scenes_dir / "train")
    prompts = {k: ["x"] for k in images.keys}
    choose = functools.partial(
        training_data.captioned_images, images, prompts, share=0.25, weight=5.0, seed=5
    )
    plain, would_be = choose(style="nodup")
    weighted, chosen = choose(style="dup_both")
    assert plain.weights is None
    assert not plain.duplicated.any()
    assert would_be == chosen == [images.keys[i] for i in weighted.duplicated.nonzero()[:, 0]]


def test_splits_are_disjoint_cover_all_and_differ_by_one_at_most():
    parts = training_data.split_images(103, 4, seed=1)
    assert sorted(len(p) for p in parts) == [25, 26, 26, 26]
    assert sorted(np.concatenate(parts)) == list(range(103))
    assert all((np.diff(p) > 0).all() for p in parts)
    assert not np.array_equal(parts[0], np.arange(26))  # not contiguous blocks of sorted names
    assert all(
        np.array_equal(a, b)
        for a, b in zip(parts, training_data.split_images(103, 4, seed=1), strict=True)
    )
    assert not np.array_equal(parts[0], training_data.split_images(103, 4, seed=2)[0])
    assert np.array_equal(training_data.split_images(5, 1, seed=9)[0], np.arange(5))


def test_splits_have_their_share_of_every_class():
    groups = ["b"] * 23 + ["a"] * 50 + ["c"] * 31
    parts = training_data.split_images(104, 4, seed=1, groups=groups)
    assert sorted(np.concatenate(parts)) == list(range(104))
    assert [len(part) for part in parts] == [26] * 4
    for name in "abc":
        counts = [sum(groups[i] == name for i in part) for part in parts]
        assert max(counts) - min(counts) <= 1
    other = training_data.split_images(104, 4, seed=2, groups=groups)
    assert not np.array_equal(parts[0], other[0])
    # random splits have no such shares
    plain = training_data.split_images(104, 4, seed=1)
    assert any(abs(sum(groups[i] == "b" for i in part) - 23 / 4) > 1 for part in plain)


def test_what_belongs_to_an_image_goes_with_it_into_its_shard(make):
    data = make().data
    part = data.take(np.array([9, 2, 5]))
    assert part.images.keys == tuple(data.images.keys[i] for i in (9, 2, 5))
    assert part.weights.tolist() == [data.weights[i] for i in (9, 2, 5)]
    assert part.duplicated.tolist() == [bool(data.duplicated[i]) for i in (9, 2, 5)]
    assert part.take(np.array([2, 0])).rows.tolist() == [5, 9]


def test_a_draw_without_pixels_says_which_view_the_other_shows(make):
    draws, bare = make(style="nodup"), make(style="nodup")
    bare.pixels = False
    mirrored = 0
    for step in range(8):
        for slot in range(2):
            item, told = draws[step, slot], bare[step, slot]
            pixels = item.pop("pixels")
            assert told == item
            shown = draws.data.images.open(item["index"]).resize((16, 16), Image.BILINEAR)
            view = transforms.to_tensor(shown, transforms.HALF, transforms.HALF)
            assert torch.equal(view.flip(2) if told["flipped"] else view, pixels)
            mirrored += told["flipped"]
    assert 0 < mirrored < 16


def test_dropped_captions_are_a_share_of_the_draws_and_nothing_else_changes(make):
    plain, dropping = make(special="randwordadd", mixup=0.5), make(special="randwordadd", mixup=0.5)
    dropping.dropout = 0.1
    prompts = [dropping.prompt(step, slot) for step in range(1000) for slot in range(4)]
    share = prompts.count("") / len(prompts)
    assert abs(share - 0.1) < 4 * (0.1 * 0.9 / 4000) ** 0.5  # four standard errors
    kept = [(i, prompt) for i, prompt in enumerate(prompts[:200]) if prompt]
    assert all(prompt == plain.prompt(*divmod(i, 4)) for i, prompt in kept)
    step, slot = divmod(prompts.index(""), 4)
    dropped, own = dropping[step, slot], plain[step, slot]
    assert (dropped["prompt"], dropped["index"]) == ("", own["index"])
    assert torch.equal(dropped["pixels"], own["pixels"])


def test_whether_a_caption_is_dropped_does_not_depend_on_its_edit(make):
    draws = make(special="randwordadd")  # edits half of the captions
    draws.dropout = 0.5
    own = {texts[0] for texts in draws.data.prompts.values()}
    kept = [p for step in range(300) for slot in range(4) if (p := draws.prompt(step, slot))]
    assert abs(sum(p not in own for p in kept) / len(kept) - 0.5) < 0.1


def test_a_partner_brings_the_prompt_of_its_own_draw_dropped_or_not(make):
    draws = make(mixup=0.5)
    draws.dropout = 0.5
    for step in range(8):
        partners = training_data.mixup_partners(draws.seed, 0, step, 4)
        batch = [draws[step, slot] for slot in range(4)]
        for item, partner in zip(batch, partners, strict=True):
            assert item["partner_prompt"] == batch[partner]["prompt"]


def test_splits_draw_streams_of_their_own(make, scenes_dir):
    draws = make()
    other = training_data.Draws(
        draws.data,
        seed=5,
        split=1,
        global_batch=4,
        views=draws.views,
        choose_caption=draws.choose_caption,
    )
    assert [draws.order[i] for i in range(24)] != [other.order[i] for i in range(24)]


def test_workers_outlive_a_signal_to_the_group(make):
    """A launcher signals every process; the loop saves a state first, and until then needs its
    batches."""
    import os
    import signal

    draws = make()
    batches = iter(training_data.loader(draws, steps=range(12), batch_size=4, num_workers=1))
    first = next(batches)
    for worker in batches._workers:
        os.kill(worker.pid, signal.SIGTERM)
        os.kill(worker.pid, signal.SIGINT)
    assert len(list(batches)) == 11
    assert first["slot"] == [0, 1, 2, 3]


def test_no_more_workers_than_cores(make, monkeypatch):
    import os

    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})
    assert [training_data.usable_workers(n) for n in (0, 1, 2, 4)] == [0, 1, 2, 2]
    assert (
        training_data.loader(make(), steps=range(1), batch_size=2, num_workers=4).num_workers == 2
    )


@pytest.mark.parametrize("style", ["dup_both", "dup_image"])
def test_weights_of_images_and_of_duplication_are_multiplied(scenes_dir, style):
    images = image_sets.list_images("--d", scenes_dir / "train")
    repeats = np.arange(1.0, 13.0)
    data, keys = training_data.captioned_images(
        images, {}, style=style, share=0.25, weight=5.0, seed=5, weights=repeats
    )
    duplicated = np.isin(images.keys, keys)
    assert duplicated.sum() == 3
    assert data.weights.tolist() == (repeats * np.where(duplicated, 5.0, 1.0)).tolist()
