import os

import pytest
from accelerate.commands import launch
from accelerate.utils.launch import prepare_multi_gpu_env

from utils.runtime import launcher_settings, launching
from utils.runtime.errors import UsageError

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


def test_settings_that_a_script_has_no_use_for_are_one_line(launched):
    launched(GRADIENT_ACCUMULATION_STEPS="4", LOG_LEVEL="debug", MIXED_PRECISION="fp16")
    assert launcher_settings.notes(used("fp16")[:1]) == [
        "--mixed_precision=fp16, as accelerate launch says (ACCELERATE_MIXED_PRECISION)",
        "settings of accelerate launch that are not used: ACCELERATE_GRADIENT_ACCUMULATION_STEPS=4,"
        " ACCELERATE_LOG_LEVEL=debug; flags of this script decide (--help)",
    ]


def test_accelerate_does_not_count_micro_batches(launched):
    launched(GRADIENT_ACCUMULATION_STEPS="4")
    created = launching.accelerator(mixed_precision="no")
    assert created.gradient_accumulation_steps == 1
    assert os.environ["ACCELERATE_GRADIENT_ACCUMULATION_STEPS"] == "4"


FSDP = "distributed_type: FSDP\nfsdp_config: {fsdp_version: 2, fsdp_offload_params: true}\n"
DYNAMO = "dynamo_config: {dynamo_backend: INDUCTOR, dynamo_mode: max-autotune}\n"
REFUSED = {
    "FSDP2": (FSDP, "ACCELERATE_USE_FSDP='true', FSDP_VERSION='2', FSDP_OFFLOAD_PARAMS='true':"),
    "Megatron-LM": ("distributed_type: MEGATRON_LM\n", "ACCELERATE_USE_MEGATRON_LM='true':"),
    "dynamo": (
        "distributed_type: MULTI_GPU\n" + DYNAMO,
        "ACCELERATE_DYNAMO_BACKEND='INDUCTOR', ACCELERATE_DYNAMO_MODE='max-autotune': give",
    ),
}


@pytest.fixture
def configured(tmp_path, monkeypatch):
    """configured(text of a configuration file) sets the variables that accelerate launch sets."""

    def with_file(text):
        file = tmp_path / "accelerate.yaml"
        always = "compute_environment: LOCAL_MACHINE\nnum_machines: 1\nnum_processes: 2\n"
        file.write_text(f"{always}machine_rank: 0\nuse_cpu: false\ndebug: false\n{text}")
        words = ["--config_file", str(file), "diff_train.py"]
        arguments = launch.launch_command_parser().parse_args(words)
        arguments = launch._validate_launch_command(arguments)[0]
        arguments.main_process_port = 0
        for name, value in prepare_multi_gpu_env(arguments).items():
            if name.startswith(("ACCELERATE_", "FSDP_", "PARALLELISM_CONFIG_")):
                monkeypatch.setenv(name, value)

    return with_file


@pytest.mark.parametrize(("text", "named"), REFUSED.values(), ids=REFUSED)
def test_what_a_configuration_file_says_and_is_not_done_is_refused_by_name(configured, text, named):
    configured(text)
    for refuses in (
        lambda: launcher_settings.notes(used()),
        lambda: launching.accelerator(mixed_precision="no"),
    ):
        with pytest.raises(UsageError) as error:
            refuses()
        assert str(error.value).startswith(f"accelerate launch says {named}")
        assert "--config_file with another file" in str(error.value)


def test_the_precision_of_a_configuration_file_is_taken_and_said(configured):
    configured("distributed_type: MULTI_GPU\nmixed_precision: bf16\n")
    assert launcher_settings.notes(used("bf16")) == [
        "--mixed_precision=bf16, as accelerate launch says (ACCELERATE_MIXED_PRECISION)"
    ]


def test_deepspeed_and_parallelism_are_refused_with_what_was_chosen(launched, monkeypatch):
    launched(USE_DEEPSPEED="true", DEEPSPEED_ZERO_STAGE="3")
    with pytest.raises(UsageError, match="DEEPSPEED='true', ACCELERATE_DEEPSPEED_ZERO_STAGE='3':"):
        launcher_settings.notes(used())
    monkeypatch.delenv("ACCELERATE_USE_DEEPSPEED")
    launched(USE_PARALLELISM_CONFIG="true")
    monkeypatch.setenv("PARALLELISM_CONFIG_TP_SIZE", "2")
    with pytest.raises(UsageError, match="CONFIG='true', PARALLELISM_CONFIG_TP_SIZE='2': parallel"):
        launcher_settings.notes(used())
