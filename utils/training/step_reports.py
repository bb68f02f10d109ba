"""Reports of optimizer steps, and the tables of numbers in which they are saved and exchanged.

A table is float64, since processes and state files exchange tensors; NaN stands for a number that
does not exist."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch


@dataclass(frozen=True)
class StepReport:
    """What is known after an optimizer step of a copy."""

    step: int  # optimizer steps of the copy so far, from 1
    loss: torch.Tensor  # [] on the device, of this process's samples
    lr: float  # the learning rate that was applied
    finite: torch.Tensor  # [] bool on the device: whether everything so far was finite
    # [] on the device: the share of samples that the loss rule dropped; None without a rule
    skipped: torch.Tensor | None = None
    extra: torch.Tensor | None = None  # [] on the device: the sum of the weighted extra losses


def first_not_finite(reports: Sequence[StepReport]) -> float:
    """The first step of reports (oldest first) after which something was not finite, or NaN when
    all is finite. This waits for the device."""
    if not reports or reports[-1].finite:
        return math.nan
    return next(r.step for r in reports if not r.finite)


# Reports in a state file --------------------------------------------------------------------------


class SavedReport(NamedTuple):
    """A row of the table of reports in a state file: a StepReport whose values are all finite."""

    step: float
    loss: float  # mean over the processes of the copy
    lr: float
    skipped: float  # NaN without a loss rule
    extra: float = math.nan  # as loss; NaN without extra losses, and in older files


def to_table(
    reports: Sequence[StepReport], losses: Sequence[float], extras: Sequence[float]
) -> torch.Tensor:
    """Reports as a table. losses, extras: of each report, the mean over the processes of the copy,
    of the loss and of the extra losses (NaN without any). Returns:
    float64 [n, 5] on the CPU, columns as in SavedReport."""
    rows = [
        SavedReport(
            report.step,
            loss,
            report.lr,
            math.nan if report.skipped is None else report.skipped.item(),
            extra,
        )
        for report, loss, extra in zip(reports, losses, extras, strict=True)
    ]
    return torch.tensor(rows, dtype=torch.float64)


def from_table(table: torch.Tensor, device: torch.device) -> list[StepReport]:
    """The reports of a table that `to_table` wrote."""
    saved = [SavedReport(*row) for row in table.tolist()]
    return [
        StepReport(
            int(row.step),
            torch.tensor(row.loss, device=device),
            row.lr,
            torch.tensor(True, device=device),
            None if math.isnan(row.skipped) else torch.tensor(row.skipped, device=device),
            None if math.isnan(row.extra) else torch.tensor(row.extra, device=device),
        )
        for row in saved
    ]


# Summaries that processes exchange ----------------------------------------------------------------


class Summary(NamedTuple):
    """The steps of one process since its last row of metrics.jsonl; all NaN when it had none."""

    split: float  # of the ensemble, from 0
    step: float  # the last one
    loss: float  # mean over the steps
    lr: float  # of the last step
    skipped: float  # mean share of samples that the loss rule dropped; NaN without a rule
    images_per_second: float
    not_finite: float  # first step after which something was not finite; NaN when all is finite
    extra: float  # mean of the weighted extra losses; NaN without any

    @property
    def empty(self) -> bool:
        """Whether the process had no step."""
        return math.isnan(self.split)

    @property
    def without_rule(self) -> bool:
        """Whether no loss rule decided on samples."""
        return math.isnan(self.skipped)

    @property
    def without_extra(self) -> bool:
        """Whether there were no extra losses."""
        return math.isnan(self.extra)


EMPTY = Summary(*[math.nan] * len(Summary._fields))


def summarise(reports: Sequence[StepReport], *, split: int, images: int, seconds: float) -> Summary:
    """Summary of the reports (at least one) of a split. images: of one optimizer step; seconds:
    that the steps took. This waits for the device."""
    dropped = [r.skipped for r in reports if r.skipped is not None]
    extra = [r.extra for r in reports if r.extra is not None]
    return Summary(
        split=split,
        step=reports[-1].step,
        loss=torch.stack([r.loss for r in reports]).mean().item(),
        lr=reports[-1].lr,
        skipped=torch.stack(dropped).mean().item() if dropped else math.nan,
        images_per_second=len(reports) * images / max(seconds, 1e-9),
        not_finite=first_not_finite(reports),
        extra=torch.stack(extra).mean().item() if extra else math.nan,
    )


def by_split(table: torch.Tensor) -> dict[int, list[Summary]]:
    """Summaries of all processes by split, in ascending order. table: [P, 8], a Summary a row."""
    summaries = [Summary(*row) for row in table.tolist()]
    grouped: dict[int, list[Summary]] = {}
    for summary in summaries:
        if not summary.empty:
            grouped.setdefault(int(summary.split), []).append(summary)
    return dict(sorted(grouped.items()))
