import pytest

from utils.card.card_sizes import (
    SECONDS_AN_EVALUATION,
    SECONDS_TO_MEASURE,
    ArmSize,
    images_of,
    seconds_of,
    within,
)

FULL = {"training": ArmSize(64, 4), "base": ArmSize(64, 4), "worst": ArmSize(32, 4)}


def test_what_exists_is_measured_but_not_made():
    measuring = 640 * SECONDS_TO_MEASURE + 3 * SECONDS_AN_EVALUATION
    assert seconds_of(FULL, {}, 2.0) == pytest.approx(1280 + measuring)
    assert seconds_of(FULL, {"training": 256, "base": 6}, 2.0) == pytest.approx(756 + measuring)


def test_a_budget_reduces_prompts_and_images_by_one_share():
    budget = seconds_of(FULL, {}, 2.0) / 4
    sizes = within(FULL, {}, 2.0, budget=budget)
    assert seconds_of(sizes, {}, 2.0) <= budget
    assert sizes["training"] == sizes["base"]
    assert sizes["training"].prompts == pytest.approx(2 * sizes["worst"].prompts, abs=1)
    assert sizes["training"].per_prompt == sizes["worst"].per_prompt == 2
    assert within(FULL, {}, 2.0, budget=1e9) == FULL


def test_an_arm_that_exists_keeps_its_size():
    sizes = within(FULL, {"training": 256}, 2.0, budget=200)
    assert sizes["training"] == FULL["training"]
    assert sizes["base"].images < 64


def test_the_least_is_an_image_of_each_arm():
    assert images_of(within(FULL, {}, 100.0, budget=1)) == 3
