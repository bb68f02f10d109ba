from pathlib import Path

from benchmarks import copy_check
from utils.cli import flags
from utils.cli.copy_check_options import COPY_CHECK_STEPS
from utils.cli.train_options import TrainOptions


def test_the_run_has_64_pictures_and_is_checked_at_the_default_distance():
    args = vars(copy_check.parse([]))
    words = copy_check.command(Path("scenes"), Path("run"), **args)
    opts = flags.parse(TrainOptions, words, description=None)
    assert opts.copy_check_steps == COPY_CHECK_STEPS
    assert copy_check.SCENES - int(copy_check.SCENES * opts.holdout) == 64
    assert opts.max_train_steps == 1400


def test_the_share_is_of_training_and_checks_together():
    assert copy_check.share_of({"seconds": 90.0, "copy_check_seconds": 10.0}) == 0.1
