"""Flags of diff_train.py that are given and have no effect beside the others; a line says so. What
is plainly a mistake is refused instead, by `TrainOptions.check`."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from utils.cli.flags import given
from utils.cli.train_options import TrainOptions
from utils.data.caption_edits import TRAIN_EDITS
from utils.data.duplication import DUPLICATIONS


@dataclass(frozen=True)
class Unused:
    """When a flag has no effect."""

    name: str  # of the flag, without dashes
    has_effect: Callable[[TrainOptions], bool]
    reason: str  # after "has no effect: "


def _edit_has_probability(opts: TrainOptions) -> bool:
    return opts.trainspecial is not None and TRAIN_EDITS[opts.trainspecial].has_probability


def _is_ensemble(opts: TrainOptions) -> bool:
    return opts.clients_num > 1 or opts.total_round > 1


RULES = (
    Unused(
        "trainspecial_prob",
        _edit_has_probability,
        "it is the probability of an edit by --trainspecial"
        f" {', '.join(name for name, edit in TRAIN_EDITS.items() if edit.has_probability)}",
    ),
    Unused(
        "arr_ema_decay",
        lambda opts: opts.mem_ratio is not None,
        "it is the decay of the loss bank of --mem_ratio, which is not given",
    ),
    Unused(
        "agc_bins",
        lambda opts: opts.mem_ratio is not None,
        "it is the size of the loss bank of --mem_ratio, which is not given",
    ),
    Unused(
        "dup_weight",
        lambda opts: DUPLICATIONS[opts.duplication].duplicates,
        "it is the weight of duplicated images, and --duplication duplicates none",
    ),
    *(
        Unused(
            name,
            lambda opts: opts.with_prior_preservation,
            "it belongs to --with_prior_preservation, which is not given",
        )
        for name in ("class_data_dir", "class_data_prompt", "prior_loss_weight", "num_class_images")
    ),
    Unused(
        "preservation_weight",
        lambda opts: opts.trigger_class is not None,
        "it is the weight of the loss of --trigger_class, which is not given",
    ),
    Unused(
        "modelsaverounds",
        _is_ensemble,
        "a run of one copy and one round saves checkpoints every --modelsavesteps",
    ),
    Unused(
        "shards_by",
        lambda opts: opts.clients_num > 1,
        "it splits the images among the copies of --clients_num, and there is one",
    ),
    Unused(
        "num_train_epochs",
        lambda opts: opts.max_train_steps is None,
        "--max_train_steps sets the length of the run",
    ),
    Unused(
        "lr_warmup_steps",
        lambda opts: opts.lr_scheduler != "constant" or not opts.lr_warmup_steps,
        "--lr_scheduler constant has no warm-up; constant_with_warmup has one",
    ),
    *(
        Unused(
            name,
            lambda opts: opts.copy_check_steps is not None,
            "it is about checks of copies, which --copy_check_steps turns on",
        )
        for name in ("copy_check_prompts", "copy_check_descriptor", "copy_check_guidance")
    ),
    Unused(
        "revision",
        lambda opts: (
            not opts.pretrained_model_name_or_path
            or not Path(opts.pretrained_model_name_or_path).is_dir()
        ),
        "the base model is a folder, and only a model on the hub has revisions",
    ),
    Unused(
        "logging_dir",
        lambda opts: opts.report_to == "tensorboard",
        "it is the folder of --report_to tensorboard",
    ),
    Unused(
        "wandb_project",
        lambda opts: opts.report_to == "wandb",
        "it is a project of --report_to wandb",
    ),
)


def lines(opts: TrainOptions) -> list[str]:
    """A line for each flag that is given and has no effect."""
    names = given(opts, [rule.name for rule in RULES])
    return [
        f"--{rule.name}={getattr(opts, rule.name)!r} has no effect: {rule.reason}"
        for rule in RULES
        if rule.name in names and not rule.has_effect(opts)
    ]


def among_captions(opts: TrainOptions) -> list[str]:
    """The flags, as they are given, that draw among the captions of an image."""
    found = []
    if DUPLICATIONS[opts.duplication].varies:
        found.append(f"--duplication={opts.duplication!r}")
    if opts.trainspecial is not None and TRAIN_EDITS[opts.trainspecial].prompts is not None:
        found.append(f"--trainspecial={opts.trainspecial!r}")
    return found
