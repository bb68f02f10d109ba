import ast
import dataclasses
import subprocess
import sys

import pytest

from tests.conftest import ROOT
from utils.cli import (
    captioning_options,
    flags,
    generation_options,
    optimisation_options,
    retrieval_options,
    scenes_options,
    train_options,
)
from utils.runtime.errors import UsageError

TRAIN = ["--pretrained_model_name_or_path", "m", "--instance_data_dir", "d"]


def parse_train(*extra):
    return flags.parse(train_options.TrainOptions, [*TRAIN, *extra], description="")


@pytest.mark.parametrize(
    "script", ["diff_train.py", "diff_inference.py", "diff_retrieval.py", "sd_mitigation.py"]
)
def test_help_imports_nothing_heavy(script):
    # what --help costs is what it imports: no torch, no diffusers, no pandas
    code = (
        f"import sys, runpy; sys.argv = ['{script}', '--help']\ntry: runpy.run_path('{script}',"
        " run_name='__main__')\n"
    )
    code += "except SystemExit: pass\n"
    code += (
        "print('HEAVY', [m for m in ('torch', 'diffusers', 'transformers', 'matplotlib', 'wandb')"
        " if m in sys.modules])"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    ).stdout
    assert "HEAVY []" in out
    assert "--seed" in out


def test_published_defaults():
    opts = parse_train()
    expected = {
        "class_prompt": "nolevel",
        "output_dir": "text-inversion-model",
        "seed": None,
        "generation_seed": 1024,
        "resolution": 512,
        "center_crop": False,
        "random_flip": False,
        "train_batch_size": 4,
        "sample_batch_size": 4,
        "num_train_epochs": 1,
        "max_train_steps": None,
        "save_steps": 500,
        "modelsavesteps": 1000,
        "gradient_accumulation_steps": 1,
        "learning_rate": 5e-6,
        "scale_lr": False,
        "lr_scheduler": "constant",
        "lr_warmup_steps": 500,
        "adam_beta1": 0.9,
        "adam_beta2": 0.999,
        "adam_weight_decay": 1e-2,
        "adam_epsilon": 1e-8,
        "max_grad_norm": 1.0,
        "num_workers": 4,
        "duplication": "nodup",
        "weight_pc": 0.05,
        "dup_weight": 5,
        "rand_noise_lam": 0,
        "mixup_noise_lam": 0,
        "trainspecial": None,
        "trainspecial_prob": 0.1,
        "trainsubset": None,
        "modelsaverounds": 5,
        "arr_ema_decay": 0.8,
        "clients_num": 1,
        "total_round": 1,
        "mem_ratio": None,
        "unet_from_scratch": "no",
        "log_steps": 10,
        "checkpoints_total_limit": 1,
        "cache_latents": "auto",
    }
    assert {k: getattr(opts, k) for k in expected} == expected
    assert (
        flags.parse(
            generation_options.GenerationOptions, ["-nb", "1"], description=""
        ).rand_aug_repeats
        == 2
    )
    mitigation = flags.parse(generation_options.MitigationOptions, [], description="")
    assert (mitigation.rand_aug_repeats, mitigation.seed, mitigation.default_model) == (
        4,
        42,
        "CompVis/stable-diffusion-v1-4",
    )


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (
            ["--resolution", "big"],
            "--resolution='big' is not accepted; use a whole number at least 8",
        ),
        (["--weight_pc", "1.5"], "--weight_pc='1.5' is not accepted; use a number from 0 to 1"),
        (
            ["--learning_rate", "nan"],
            "--learning_rate='nan' is not accepted; use a number above 0",
        ),
        (
            ["--weights_file", "w.json", "--duplication", "dup_both"],
            "--weights_file='w.json' and --duplication='dup_both' both set",
        ),
        (
            ["--agc_bias_correction"],
            "--agc_bias_correction corrects the loss bank of --mem_ratio; give --mem_ratio too",
        ),
        (["--mem_ratio", "0"], "--mem_ratio='0' is not accepted; use a number above 0"),
        (
            ["--arr_ema_decay", "1"],
            "--arr_ema_decay='1' is not accepted; use a number from 0 to below 1",
        ),
        (
            ["--clients_num", "0"],
            "--clients_num='0' is not accepted; use a whole number at least 1",
        ),
        (["--hub_token", "x"], "--hub_token is used with --push_to_hub"),
        (
            ["--trainspecial_prob", "1.1"],
            "--trainspecial_prob='1.1' is not accepted; use a number from 0 to 1",
        ),
        (
            ["--unet_from_scratch", "maybe"],
            "--unet_from_scratch='maybe' is not accepted; use one of: no, yes",
        ),
        (
            ["--class_prompt", "blip"],
            "--class_prompt='blip' is not accepted; use one of: classlevel, instancelevel_blip",
        ),
        (
            ["--class_prompts", "nolevel"],
            "'--class_prompts' is not a flag of diff_train.py; did you mean --class_prompt?",
        ),
        (["--class_prompt", "instancelevel_blip"], "needs --instance_prompt_loc"),
        (
            ["--trainspecial", "allcaps"],
            "--trainspecial='allcaps' edits captions; --class_prompt='nolevel' has none",
        ),
        (["--adam_beta1", "1"], "--adam_beta1='1' is not accepted"),
        (["--resolution"], "--resolution: expected one argument"),
        (
            [
                "--class_prompt",
                "instancelevel_ogcap",
                "--instance_prompt_loc",
                "c",
                "--duplication",
                "dup_image",
            ],
            "--duplication='dup_image' draws among an image's captions",
        ),
    ],
)
def test_errors_name_flag_value_and_what_is_accepted(extra, message):
    with pytest.raises(UsageError) as error:
        parse_train(*extra)
    assert message in str(error.value)


def test_a_missing_required_flag_is_named():
    with pytest.raises(
        UsageError, match="--instance_data_dir is required; give the training images: a folder"
    ):
        flags.parse(
            train_options.TrainOptions, ["--pretrained_model_name_or_path", "m"], description=""
        )


def test_options_are_frozen_and_repeatable_flags_collect():
    opts = flags.parse(
        generation_options.GenerationOptions,
        ["--prompt", "a", "--prompt", "b", "-imb", "2"],
        description="",
    )
    assert (opts.prompt, opts.im_batch) == (("a", "b"), 2)
    with pytest.raises(dataclasses.FrozenInstanceError):
        opts.seed = 1


def test_a_tracker_is_the_default_of_training_and_retrieval_alone():
    assert parse_train().report_to == "wandb"
    assert flags.parse(generation_options.MitigationOptions, [], description="").report_to == "none"


def test_learning_rate_schedules_are_those_of_diffusers():
    from diffusers.optimization import SchedulerType

    # which takes rules
    assert set(optimisation_options.LR_SCHEDULERS) == {s.value for s in SchedulerType} - {
        "piecewise_constant"
    }


def test_no_option_is_parsed_and_ignored():
    """Every field of every options class is read somewhere outside the rooms of options, as an
    attribute."""
    read = set()
    for path in [*ROOT.glob("*.py"), *(ROOT / "utils").rglob("*.py")]:
        if path.parent.name != "cli":
            read |= {
                n.attr
                for n in ast.walk(ast.parse(path.read_text()))
                if isinstance(n, ast.Attribute)
            }
    # what a mitigation or a detector reads it names as a parameter, and uses
    for name in (
        "generation/mitigations",
        "generation/detectors",
        "training/train_mitigations",
        "training/regularisation",
    ):
        code = ast.parse((ROOT / "utils" / f"{name}.py").read_text())
        for function in (
            n for n in code.body if isinstance(n, ast.FunctionDef) and n.args.kwonlyargs
        ):
            used = {n.id for n in ast.walk(function) if isinstance(n, ast.Name)}
            read |= {a.arg for a in function.args.kwonlyargs} & used
    labels = {"dataset_name"}  # kept with all options in the record, as its help says
    # what other rooms read through a property of the options, and the two that never had an effect,
    # by name
    columns = {"caption_column", "image_column"}  # through `columns`
    optimizer = {"use_8bit_adam"}  # through `optimizer_name`
    through = {"sim_save_path", "stype", "similarity_metric", "keephead", "keeppredictor"}
    for cls in (
        train_options.TrainOptions,
        generation_options.MitigationOptions,
        scenes_options.ScenesOptions,
        captioning_options.CaptioningOptions,
    ):
        assert {f.name for f in dataclasses.fields(cls)} - read <= labels | columns | optimizer
    assert {
        f.name for f in dataclasses.fields(retrieval_options.RetrievalOptions)
    } - read <= through | columns
