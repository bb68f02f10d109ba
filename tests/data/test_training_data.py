import functools

import numpy as np
import pytest
import torch

from utils.data import captions, image_sets, training_data, transforms
from utils.diffusion import mitigation


@pytest.fixture
def make(scenes_dir, micro_parts):
    """make(**changes) -> Draws over the twelve scenes."""
    images = image_sets.list_images("--d", scenes_dir / "train")
    texts, _ = captions.read_captions(scenes_dir / "captions.json", images)
    tokenizer = micro_parts().tokenizer

    def draws(*, style="dup_both", special=None, seed=5, global_batch=4, mixup=0.0, random_flip=True):
        data, _ = training_data.captioned_images(images, texts, style=style, share=0.25, weight=5.0, seed=seed)
        hooks = mitigation.train_hooks(duplication=style, special=special, p=0.5, noise=0, mixup=mixup, tokenizer=tokenizer)
        transform = functools.partial(
            transforms.training_input, resolution=16, center_crop=False, random_flip=random_flip
        )  # fmt: skip
        return training_data.Draws(
            data, seed=seed, global_batch=global_batch, transform=transform, choose_caption=hooks.choose_caption,
            partners=bool(mixup),
        )  # fmt: skip

    return draws


def same(a, b):
    return a["index"] == b["index"] and a["prompt"] == b["prompt"] and torch.equal(a["pixels"], b["pixels"])


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
    halves = [list(training_data.loader(draws, steps=range(5), batch_size=2, process=p)) for p in (0, 1)]
    for one, first, second in zip(whole, *halves, strict=True):
        assert one["slot"] == first["slot"] + second["slot"] == [0, 1, 2, 3]
        assert one["prompt"] == first["prompt"] + second["prompt"]
        assert one["partner_prompt"] == first["partner_prompt"] + second["partner_prompt"]
        assert torch.equal(one["pixels"], torch.cat([first["pixels"], second["pixels"]]))


def test_workers_change_nothing(make):
    draws = make(special="wordrepeat")
    alone, helped = (list(training_data.loader(draws, steps=range(6), batch_size=4, num_workers=n)) for n in (0, 2))
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
    choose = functools.partial(training_data.captioned_images, images, prompts, share=0.25, weight=5.0, seed=5)
    plain, would_be = choose(style="nodup")
    weighted, chosen = choose(style="dup_both")
    assert plain.weights is None
    assert not plain.duplicated.any()
    assert would_be == chosen == [images.keys[i] for i in weighted.duplicated.nonzero()[:, 0]]
