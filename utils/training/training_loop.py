"""The training loop of a run: rows of metrics.jsonl, previews, checkpoints and states around the
steps, and how the loop stops."""

from __future__ import annotations

import functools
import math
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NoReturn

import torch

from utils.files import resume_states
from utils.reports.progress import Pauses, progress
from utils.reports.tracking import NoTracker
from utils.runtime.errors import DataError, Stopped, TrainingError
from utils.runtime.signals import StopSignal
from utils.training import memory_needed, step_reports, trained_copy
from utils.training.due import Due, Intervals, due_at
from utils.training.previews import preview

if TYPE_CHECKING:
    from utils.files.resume_states import State
    from utils.files.run_folder import NewRun
    from utils.runtime.parallel import Processes
    from utils.training.copy_checks import CopyChecks
    from utils.training.ensemble import Progress
    from utils.training.step_reports import StepReport, Summary
    from utils.training.training_job import PreparedRun


@dataclass(frozen=True)
class PreviewSettings:
    """What a preview grid shows."""

    count: int  # images
    seed: int  # of their initial latents
    side: int  # pixels of an image
    own: tuple[str, ...] = ()  # prompts of the user's own, an image each beside the `count`


@dataclass(frozen=True)
class LoopSettings:
    """What the loop does beside the steps, and how it reads images."""

    every: Intervals
    previews: PreviewSettings
    states_kept: int  # the newest states; older ones are deleted
    batch_size: int  # images of a micro-batch of a process
    workers: int  # processes that read images; 0 reads in the training process


class Loop:
    """Runs a PreparedRun from a position to its end."""

    def __init__(
        self,
        job: PreparedRun,
        settings: LoopSettings,
        run: NewRun,
        processes: Processes,
        *,
        tracker: NoTracker | None = None,
        seconds: float = 0.0,
        checks: CopyChecks | None = None,
    ):
        """seconds: of training in earlier launches of a resumed run; checks: of copies."""
        self.job, self.settings, self.run, self.processes = job, settings, run, processes
        self.tracker = tracker or NoTracker()
        self.earlier_seconds, self.pauses = seconds, Pauses()
        self.checks = checks
        self.position = 0  # that the run has come to
        # reports of this process's steps since the last row of metrics.jsonl, oldest first
        self.pending: list[StepReport] = []
        self.logged = 0.0  # seconds of this sitting up to the last row
        self.shown = False  # whether the memory of a pass was printed

    @property
    def seconds(self) -> float:
        """Seconds of training so far, with earlier launches, without previews and checkpoints."""
        return self.earlier_seconds + self.pauses.outside

    # States ---------------------------------------------------------------------------------------

    def restore(self, state: State) -> None:
        """Continue from a state on disk; nothing is written."""
        tensors = state.tensors(self._keeper())
        pending = tensors.pop("pending", None)
        self.job.copies.load(tensors)
        if pending is not None:
            self.pending = step_reports.from_table(pending, self.job.model.device)

    def _keeper(self):
        """The process that writes and reads the state of this process's team: the team's first."""
        team = self.job.model.team
        return self.processes.index - team.rank

    def _pending_table(self):
        """The pending reports as a table, or None. Losses are means over the team: another process
        of the team may read the table."""
        if not self.pending:
            return None
        losses = self._team_means([r.loss for r in self.pending])
        extras = [math.nan] * len(self.pending)
        if self.pending[0].extra is not None:
            extras = self._team_means([r.extra for r in self.pending])
        return step_reports.to_table(self.pending, losses, extras)

    def _team_means(self, values):
        """The means of tensors [] over the team's processes, as numbers."""
        team = self.job.model.team
        return torch.stack([team.gather(value[None]).mean() for value in values]).tolist()

    def _save_state(self, position):
        pending = self._pending_table()  # by all processes: they exchange losses
        tensors = None
        if self.job.model.team.rank == 0:
            tensors = self.job.copies.state()
            if pending is not None:
                tensors["pending"] = pending
        info = {"metrics_bytes": self.run.metrics_bytes, "seconds": round(self.seconds, 2)}
        if self.checks is not None:
            info["copy_check_seconds"] = round(self.checks.seconds, 2)
        resume_states.save_state(
            self.run.path,
            position,
            tensors,
            info,
            processes=self.processes,
            limit=self.settings.states_kept,
        )

    # Rows -----------------------------------------------------------------------------------------

    def _require_finite(self, steps):
        """Raise TrainingError when one of `steps` is a number: each is the first step of a process
        after which something was not finite, or NaN."""
        broken = steps[~steps.isnan()]
        if len(broken):
            raise TrainingError(
                f"a loss or gradient is not finite at step {int(broken.min())}; what was saved"
                f" before is kept, nothing after. {trained_copy.ADVICE}"
            )

    def _check(self):
        """Raise TrainingError, in every process, when a pending report is not finite."""
        broken = torch.tensor(
            [step_reports.first_not_finite(self.pending)],
            dtype=torch.float64,
            device=self.job.model.device,
        )
        self._require_finite(self.processes.rows(broken)[:, 0])

    def _summary(self, split) -> Summary:
        """Summary of the pending reports of this process; it empties them."""
        if not self.pending:
            return step_reports.EMPTY
        now = self.pauses.outside
        summary = step_reports.summarise(
            self.pending, split=split, images=self.job.per_step, seconds=now - self.logged
        )
        self.pending, self.logged = [], now
        return summary

    def _log(self, at):
        """Append a row to metrics.jsonl for every copy that trains now: means since its last row.
        This waits for the device."""
        summary = torch.tensor(self._summary(at.split), dtype=torch.float64)
        table = self.processes.rows(summary.to(self.job.model.device)).cpu()
        self._require_finite(table[:, step_reports.Summary._fields.index("not_finite")])
        for split, summaries in step_reports.by_split(table).items():
            self._append_row(at, split, summaries)

    def _append_row(self, at, split, summaries):
        """summaries: of the processes of the split's copy."""
        first = summaries[0]
        step = int(first.step)
        samples = step * self.job.per_step
        losses = torch.tensor([s.loss for s in summaries], dtype=torch.float64)
        row = {"loss": losses.mean().item(), "lr": first.lr}
        if not first.without_rule:
            row["skipped"] = first.skipped
        if not first.without_extra:
            extras = torch.tensor([s.extra for s in summaries], dtype=torch.float64)
            row["extra_loss"] = extras.mean().item()
        row["images_per_second"] = round(first.images_per_second, 2)
        if at.average_error is not None:
            row["average_error"] = at.average_error
        # files and trackers of every version call the split "shard"
        place = {"step": step, "round": at.round, "shard": split, "samples": samples}
        self.run.append_metrics(place | row)
        if self.job.plan.splits > 1:
            self.tracker.log(row, samples, group=f"shard_{split}")
        else:
            self.tracker.log(row, step, group=None)

    def _show_memory(self):
        """Print what the first micro-batch took."""
        size, self.shown = self.job.model.pass_memory.bytes, True
        if size is not None:
            self.processes.say(
                f"forward and backward pass of a micro-batch: {memory_needed.in_words(size)} beside"
                " the weights, with the gradients"
            )

    # After a position -----------------------------------------------------------------------------

    def show(self, step: int) -> None:
        """Write a preview grid, by the main process."""
        if self.processes.main:
            path = self.run.preview_path(step)
            preview(
                self.job.model,
                self.job.data.prompts,
                path,
                count=self.settings.previews.count,
                seed=self.settings.previews.seed,
                side=self.settings.previews.side,
                own=self.settings.previews.own,
            )
            self.tracker.image("generations", path, step)
            self.job.model.frozen.rest()

    def steps_at(self, position: int) -> int:
        """Optimizer steps that the copy which trains at a position has done, over all rounds."""
        round_, _, step = self.job.plan.locate(position)
        return round_ * self.job.plan.steps + step

    def write_moves(self) -> None:
        """Write resharding.csv, where images change their splits."""
        if self.job.copies.resharding is not None:
            self.run.write_moves(self.job.copies.resharding.rows())

    def _due(self, at: Progress) -> Due:
        plan, is_ensemble = self.job.plan, self.job.is_ensemble
        copies = self.checks is not None and self.checks.due(at, plan, is_ensemble=is_ensemble)
        return due_at(at, plan, self.settings.every, is_ensemble=is_ensemble, copies=copies)

    def _after(self, at):
        due = self._due(at)
        if due.log:
            self._log(at)
        elif due.writes:
            self._check()  # before anything is saved of a broken model
        with self.pauses:
            if at.round_over:
                self.write_moves()
            if due.copies and self._copies_too_much(at):
                due = replace(due, show=True, final=True, state=True)
            if due.show:
                self.show(self.steps_at(at.position))
            if due.state or due.checkpoint is not None:
                self.job.model.require_finite(at.position)
            self._save_checkpoints(due)
            if due.state:
                self._save_state(at.position)
            if due.writes:
                self.processes.wait()

    def _copies_too_much(self, at):
        """Check the model; whether the run ends now."""
        assert self.checks is not None
        step = self.steps_at(at.position)
        place = {"step": step, "round": at.round, "samples": step * self.job.per_step}
        self.checks.tracker = self.tracker
        grouped = self.job.plan.splits > 1
        return self.checks.check(self.job.model, place, grouped=grouped)

    def _save_checkpoints(self, due):
        if due.checkpoint is None and not due.final:
            return
        with self.job.model.pipeline() as pipeline:
            save = functools.partial(self.job.model.save, pipeline)
            if due.checkpoint is not None:
                self.run.save_checkpoint(save, due.checkpoint)
            if due.final:
                self.run.save_checkpoint(save)

    # The loop -------------------------------------------------------------------------------------

    def positions(self, position: int = 0) -> Iterator[Progress]:
        """Train from a position to the end and do all that is due. Yields: Progress after each
        position.

        SIGTERM and SIGINT save a state and end with exit status 143 or 130. A check of copies may
        end the run before its last position.
        """
        self.position = position
        if self.over:
            return
        # without images to read, a draw costs less than sending it from another process
        reads = any(draws.reads for draws in self.job.copies.draws.values())
        workers = self.settings.workers if reads else 0
        looped = self.job.copies.run(
            position, batch_size=self.settings.batch_size, num_workers=workers
        )
        self.pauses, self.logged = Pauses(), 0.0
        with StopSignal() as stop:
            for at in self._steps(looped):
                self.position = at.position
                if at.report is not None:
                    self.pending.append(at.report)
                if not self.shown:
                    self._show_memory()
                self._after(at)
                # several processes must stop at the same step, and asking costs a wait: they ask
                # when they log
                asks = self.processes.count == 1 or at.position % self.settings.every.rows == 0
                if asks and self.processes.any(stop.number is not None):
                    self._stop(at, stop.number)
                yield at
                if self.over:
                    return

    @property
    def over(self) -> bool:
        """Whether a check of copies ended the run."""
        return self.checks is not None and self.checks.over

    def _steps(self, looped):
        """The steps; TrainingError in one line when an image can no longer be read."""
        try:
            yield from looped
        except DataError as error:
            # the frames of the error hold the workers, for which this process waits when it exits
            traceback.clear_frames(error.__traceback__)
            # a worker puts its traceback before the message
            reason = str(error).strip().splitlines()[-1]
            kind = type(error)
            reason = reason.removeprefix(f"{kind.__module__}.{kind.__qualname__}: ")
            raise TrainingError(
                f"{reason}; what was saved is kept; continue with --resume_from_checkpoint latest"
            ) from None

    def train(self, position: int = 0) -> None:
        """Run `positions` to the end, under a progress bar."""
        for _ in progress(
            self.positions(position),
            total=self.job.plan.total,
            initial=position,
            label="training",
            main_process=self.processes.main,
        ):
            pass

    def _stop(self, at, number) -> NoReturn:
        self._check()
        self._save_state(at.position)
        self.tracker.finish()
        # a process that got no signal itself stops with those that did
        raise Stopped(
            f"stopped after step {at.position}; continue with --resume_from_checkpoint latest",
            number or 15,
        )


def skip_counts(job: PreparedRun) -> torch.Tensor | None:
    """How often the loss rule saw and dropped every image and, where images are augmented, how
    often each was, over all copies. Returns: int64 [N, 2 or 3] on the CPU, or None without a
    rule."""
    model = job.model
    if model.counts is None:
        return None
    counts = [model.counts]
    if model.augmentation is not None:
        counts.append(model.augmentation.augmented[:, None])
    return model.over_copies(torch.cat(counts, 1))
