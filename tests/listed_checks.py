"""diff_train.py whose checks of copies find no copy first and many then, for tests of
what several processes do then; run by tests.launchers with the words of diff_train.py."""

import sys
from unittest import mock

from PIL import Image

import diff_train
from utils.reports import copying_plot
from utils.training.copy_checks import Checked
from utils.watch import watch_stage


class Listed:
    """Finds one share after the other."""

    def __init__(self, *shares):
        self.shares = iter(shares)

    def prepare(self):
        """Nothing is compared."""

    def check(self, model):
        share = next(self.shares)
        numbers = {"copy_share": share, "copy_share_lo": share / 2, "copy_share_hi": 1.0}
        return Checked({**numbers, "sim_95pc": 0.5}, Image.new("RGB", (8, 8)), [])


if __name__ == "__main__":
    with (
        mock.patch.object(watch_stage, "watch_of", return_value=Listed(0.0, 0.9)),
        mock.patch.object(copying_plot, "copying"),
    ):
        diff_train.main(sys.argv[1:])
