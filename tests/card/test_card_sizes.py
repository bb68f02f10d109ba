import pytest

from utils.card.card_sizes import (
    SECONDS_AN_EVALUATION,
    ArmSize,
    Progress,
    images_of,
    seconds_of,
    seconds_to_measure,
    within,
)

FULL = {"training": ArmSize(64, 4), "base": ArmSize(64, 4), "worst": ArmSize(32, 4)}


NOTHING = Progress({}, frozenset(), 0.2)


def test_what_exists_is_neither_made_nor_measured_again():
    measuring = 640 * 0.2 + 3 * SECONDS_AN_EVALUATION
    assert seconds_of(FULL, NOTHING, 2.0) == pytest.approx(1280 + measuring)
    some = Progress({"training": 256, "base": 6}, frozenset(), 0.2)
    assert seconds_of(FULL, some, 2.0) == pytest.approx(756 + measuring)
    measured = Progress({}, frozenset({"worst"}), 0.2)
    less = 128 * 0.2 + SECONDS_AN_EVALUATION
    assert seconds_of(FULL, measured, 2.0) == pytest.approx(1280 + measuring - less)


def test_a_budget_reduces_prompts_and_images_by_one_share():
    budget = seconds_of(FULL, NOTHING, 2.0) / 4
    sizes = within(FULL, NOTHING, 2.0, budget=budget)
    assert seconds_of(sizes, NOTHING, 2.0) <= budget
    assert sizes["training"] == sizes["base"]
    assert sizes["training"].prompts == pytest.approx(2 * sizes["worst"].prompts, abs=1)
    assert sizes["training"].per_prompt == sizes["worst"].per_prompt == 2
    assert within(FULL, NOTHING, 2.0, budget=1e9) == FULL


def test_an_arm_that_exists_keeps_its_size():
    sizes = within(FULL, Progress({"training": 256}, frozenset(), 0.2), 2.0, budget=200)
    assert sizes["training"] == FULL["training"]
    assert sizes["base"].images < 64


def test_the_least_is_an_image_of_eight_prompts():
    sizes = within(FULL | {"heldout": ArmSize(3, 4)}, NOTHING, 100.0, budget=1)
    assert images_of(sizes) == 8 + 8 + 8 + 3


def test_aligning_takes_most_of_the_time_to_measure():
    slow, fast = (seconds_to_measure(candidates=10, on_gpu=gpu) for gpu in (False, True))
    assert slow > 4 * fast > 4 * seconds_to_measure(candidates=0, on_gpu=False) > 0
