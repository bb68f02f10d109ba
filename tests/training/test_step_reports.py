import math

import pytest
import torch

from utils.training import step_reports
from utils.training.step_reports import StepReport, Summary


def report(step, *, loss=1.0, skipped=None, finite=True, extra=None):
    return StepReport(
        step=step,
        loss=torch.tensor(loss),
        lr=step / 100,
        finite=torch.tensor(finite),
        skipped=None if skipped is None else torch.tensor(skipped),
        extra=None if extra is None else torch.tensor(extra),
    )


def test_a_table_holds_step_loss_rate_and_dropped_share_and_gives_the_reports_back():
    reports = [report(4, loss=0.5), report(5, loss=0.25, skipped=0.75, extra=8.0)]
    table = step_reports.to_table(reports, [0.375, 0.125], [math.nan, 0.5])
    assert (table.dtype, table.shape) == (torch.float64, (2, 5))
    assert table[0, :3].tolist() == [4, 0.375, 0.04]
    assert table[0, 3:].isnan().all()
    assert table[1].tolist() == [5, 0.125, 0.05, 0.75, 0.5]
    first, second = step_reports.from_table(table, torch.device("cpu"))
    assert (first.step, first.loss.item(), first.lr, first.skipped) == (4, 0.375, 0.04, None)
    assert (second.step, second.loss.item(), second.skipped.item()) == (5, 0.125, 0.75)
    assert bool(first.finite)
    assert (first.extra, second.extra.item()) == (None, 0.5)
    # of a state that a version without extra losses wrote
    (older,) = step_reports.from_table(table[1:, :4], torch.device("cpu"))
    assert (older.skipped.item(), older.extra) == (0.75, None)


def test_the_first_step_that_was_not_finite():
    good, bad = [report(1), report(2)], [report(3, finite=False), report(4, finite=False)]
    assert math.isnan(step_reports.first_not_finite([]))
    assert math.isnan(step_reports.first_not_finite(good))
    assert step_reports.first_not_finite(good + bad) == 3


def test_a_summary_by_hand():
    reports = [report(7, loss=1.0, skipped=0.5), report(8, loss=3.0, skipped=0.0)]
    summary = step_reports.summarise(reports, split=2, images=6, seconds=4.0)
    assert summary[:6] == (2, 8, 2.0, 0.08, 0.25, 3.0)
    assert math.isnan(summary.not_finite)
    assert not summary.without_rule
    assert summary.without_extra
    both = [report(7, extra=0.5), report(8, extra=0.25)]
    assert step_reports.summarise(both, split=0, images=6, seconds=4.0).extra == 0.375
    plain = step_reports.summarise([report(1)], split=0, images=1, seconds=0.0)
    assert plain.without_rule
    assert plain.images_per_second == pytest.approx(1e9)


def test_summaries_of_processes_are_grouped_by_split_and_idle_ones_left_out():
    rows = [
        Summary(1, 5, 0.5, 0.1, math.nan, 9.0, math.nan, math.nan),
        step_reports.EMPTY,
        Summary(0, 5, 0.25, 0.1, math.nan, 8.0, math.nan, math.nan),
        Summary(1, 5, 0.75, 0.1, math.nan, 9.0, math.nan, math.nan),
    ]
    grouped = step_reports.by_split(torch.tensor(rows, dtype=torch.float64))
    assert list(grouped) == [0, 1]
    assert [s.loss for s in grouped[1]] == [0.5, 0.75]
