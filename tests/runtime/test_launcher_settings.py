import os

import pytest

from utils.runtime import launcher_settings, launching

# what accelerate launch sets where nobody configured anything
NOBODY_CHOSE = {
    "ACCELERATE_USE_CPU": "False",
    "ACCELERATE_MIXED_PRECISION": "no",
    "ACCELERATE_DYNAMO_BACKEND": "no",
    "ACCELERATE_DYNAMO_MODE": "default",
    "ACCELERATE_DYNAMO_USE_FULLGRAPH": "False",
    "ACCELERATE_DYNAMO_USE_DYNAMIC": "False",
    "ACCELERATE_DYNAMO_USE_REGIONAL_COMPILATION": "False",
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "1",
}


@pytest.fixture
def launched(monkeypatch):
    """launched(VARIABLE=value) sets variables as accelerate launch does, without the prefix."""
    for name, value in NOBODY_CHOSE.items():
        monkeypatch.setenv(name, value)

    def with_settings(**settings):
        for name, value in settings.items():
            monkeypatch.setenv(f"ACCELERATE_{name}", value)

    return with_settings


def used(precision="no", steps=1):
    return [
        ("mixed_precision", "ACCELERATE_MIXED_PRECISION", precision),
        ("gradient_accumulation_steps", "ACCELERATE_GRADIENT_ACCUMULATION_STEPS", steps),
    ]


@pytest.mark.usefixtures("launched")
def test_a_launcher_that_nobody_configured_is_not_mentioned():
    assert launcher_settings.notes(used()) == []
    assert launcher_settings.notes(used("bf16", 4)) == []
    assert launcher_settings.notes([]) == []


def test_a_setting_that_is_taken_is_said(launched):
    launched(MIXED_PRECISION="bf16", GRADIENT_ACCUMULATION_STEPS="4")
    assert launcher_settings.notes(used("bf16", 4)) == [
        "--mixed_precision=bf16, as accelerate launch says (ACCELERATE_MIXED_PRECISION)",
        "--gradient_accumulation_steps=4, as accelerate launch says"
        " (ACCELERATE_GRADIENT_ACCUMULATION_STEPS)",
    ]


def test_a_contradiction_is_said_and_the_flag_wins(launched):
    launched(MIXED_PRECISION="bf16")
    assert launcher_settings.notes(used("fp16")) == [
        "--mixed_precision=fp16 is used; accelerate launch says bf16 (ACCELERATE_MIXED_PRECISION)"
    ]


def test_settings_that_are_not_used_are_one_line(launched):
    launched(DYNAMO_BACKEND="INDUCTOR", USE_FSDP="true", MIXED_PRECISION="fp16")
    assert launcher_settings.notes(used("fp16")[1:]) == [
        "settings of accelerate launch that are not used: ACCELERATE_DYNAMO_BACKEND=INDUCTOR,"
        " ACCELERATE_MIXED_PRECISION=fp16, ACCELERATE_USE_FSDP=true; flags of this script decide"
        " (--help)"
    ]


def test_accelerate_does_not_see_the_switches_that_are_not_used(launched):
    launched(USE_FSDP="true", USE_DEEPSPEED="true", GRADIENT_ACCUMULATION_STEPS="4")
    created = launching.accelerator(mixed_precision="no")  # would need the package deepspeed
    assert created.gradient_accumulation_steps == 1
    assert created.mixed_precision == "no"
    assert os.environ["ACCELERATE_USE_FSDP"] == "true"
