import pytest

from utils.cli import flags, unused_flags
from utils.cli.train_options import TrainOptions

NEEDED = ("--pretrained_model_name_or_path", "m", "--instance_data_dir", "d")
PRIOR = ("--with_prior_preservation", "--class_data_dir", "c", "--class_data_prompt", "a dog")
CAPTIONS = ("--class_prompt", "instancelevel_blip", "--instance_prompt_loc", "c.json")


def lines(*words):
    opts = flags.parse(TrainOptions, [*NEEDED, *words], description=None)
    return unused_flags.lines(opts)


@pytest.mark.parametrize(
    ("unused", "used"),
    [
        (("--trainspecial_prob", "0.4"), (*CAPTIONS, "--trainspecial", "randrepl")),
        (("--arr_ema_decay", "0.5"), ("--mem_ratio", "1.25")),
        (("--dup_weight", "9"), ("--duplication", "dup_both")),
        (("--modelsaverounds", "2"), ("--clients_num", "2")),
        (("--prior_loss_weight", "2"), PRIOR),
        (("--num_class_images", "9"), PRIOR),
        (("--preservation_weight", "2"), ("--trigger_word", "sks", "--trigger_class", "dog")),
        (("--lr_warmup_steps", "9"), ("--lr_scheduler", "constant_with_warmup")),
        (("--logging_dir", "x"), ("--report_to", "tensorboard")),
    ],
)
def test_a_flag_without_effect_is_said_and_one_with_effect_is_not(unused, used):
    (line,) = lines(*unused)
    assert line.startswith(f"{unused[0]}=")
    assert " has no effect: " in line
    assert lines(*unused, *used) == []


def test_more_flags_without_effect_are_said(tmp_path):
    (line,) = lines("--num_train_epochs", "3", "--max_train_steps", "9")
    assert line == (
        "--num_train_epochs=3 has no effect: --max_train_steps sets the length of the run"
    )
    assert (
        "--wandb_project='x' has no effect"
        in lines("--wandb_project", "x", "--report_to", "none")[0]
    )
    revised = ("--revision", "v2", "--pretrained_model_name_or_path")
    assert "--revision='v2' has no effect" in lines(*revised, str(tmp_path))[0]
    assert lines(*revised, "owner/model") == []


def test_the_probability_of_an_edit_that_has_none_is_said():
    (line,) = lines(*CAPTIONS, "--trainspecial", "allcaps", "--trainspecial_prob", "0.4")
    assert line.endswith("by --trainspecial randrepl, randwordadd, wordrepeat")


def test_class_images_without_prior_preservation_are_said():
    assert [line.split("=")[0] for line in lines(*PRIOR[1:])] == [
        "--class_data_dir",
        "--class_data_prompt",
    ]


def test_defaults_are_not_said():
    assert lines() == []
    assert lines("--lr_warmup_steps", "0") == []
    assert lines("--dup_weight", "5") == []
