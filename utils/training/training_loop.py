"""The loop around a run of training: rows, previews, checkpoints, states; and how it stops."""

import math

import torch

from utils.files import resume_states
from utils.reports.progress import Pauses, progress
from utils.reports.tracking import NoTracker
from utils.runtime import parallel
from utils.runtime.errors import DataError, Stopped, TrainingError
from utils.runtime.signals import StopSignal
from utils.training import trainer
from utils.training.previews import preview


class Loop:
    """Runs a Job from a position to its end. What is pending: StepReports since the last row of
    metrics.jsonl."""

    def __init__(self, job, opts, run, processes, *, tracker=None, seconds=0.0):
        self.job, self.opts, self.run, self.processes = job, opts, run, processes
        self.tracker = tracker or NoTracker()
        self.before, self.pauses, self.pending = seconds, Pauses(), []
        self.logged = 0.0

    @property
    def seconds(self):
        """Of training so far, earlier sittings included, without previews and checkpoints."""
        return self.before + self.pauses.outside

    def restore(self, state):
        """Continue from a states.State."""
        tensors = state.tensors(self._keeper())
        pending = tensors.pop("pending", None)
        self.job.copies.load(tensors)
        device = self.job.model.device
        for step, loss, rate, skipped in [] if pending is None else pending.tolist():
            dropped = None if math.isnan(skipped) else torch.tensor(skipped, device=device)
            report = trainer.StepReport(
                int(step),
                torch.tensor(loss, device=device),
                rate,
                torch.tensor(True, device=device),
                dropped,
            )
            self.pending.append(report)

    def _keeper(self):
        """The process that writes and reads the state of this process's team: its first."""
        team = self.job.model.team
        return self.processes.index - team.rank

    def _pending_rows(self):
        """What is pending as a table, losses as the team's mean: the process that reads it may be
        another of the team."""
        losses = torch.stack(
            [self.job.model.team.gather(r.loss[None]).mean() for r in self.pending]
        ).tolist()
        skips = [math.nan if r.skipped is None else r.skipped.item() for r in self.pending]
        rows = [
            [r.step, loss, r.lr, skip]
            for r, loss, skip in zip(self.pending, losses, skips, strict=True)
        ]
        return torch.tensor(rows, dtype=torch.float64)

    def _save_state(self, position):
        tensors, pending = None, self._pending_rows() if self.pending else None
        if self.job.model.team.rank == 0:
            tensors = self.job.copies.state() | ({} if pending is None else {"pending": pending})
        info = {"metrics_bytes": self.run.metrics_bytes, "seconds": round(self.seconds, 2)}
        resume_states.save_state(
            self.run.path,
            position,
            tensors,
            info,
            processes=self.processes,
            limit=self.opts.checkpoints_total_limit,
        )

    def _summary(self, split):
        """Of this process: split, last step, mean loss, lr, mean skipped share, images/s, first
        step not finite."""
        nan, reports = math.nan, self.pending
        if not reports:
            return torch.full((7,), nan, dtype=torch.float64)
        loss = torch.stack([r.loss for r in reports]).mean().item()
        broken = trainer.first_not_finite(reports)
        skips = [r.skipped for r in reports if r.skipped is not None]
        skipped = torch.stack(skips).mean().item() if skips else nan
        now = self.pauses.outside
        speed = len(reports) * self.job.per_step / max(now - self.logged, 1e-9)
        self.logged = now
        return torch.tensor(
            [split, reports[-1].step, loss, reports[-1].lr, skipped, speed, broken],
            dtype=torch.float64,
        )

    def _require_finite(self, table):
        broken = table[:, -1][~table[:, -1].isnan()]
        if len(broken):
            raise TrainingError(
                f"a loss or gradient is not finite at step {int(broken.min())}; what was saved"
                f" before is kept, nothing after. {trainer.ADVICE}"
            )

    def _check(self):
        """TrainingError, in every process, when something pending is not finite."""
        broken = trainer.first_not_finite(self.pending)
        self._require_finite(
            self.processes.rows(
                torch.tensor([broken], dtype=torch.float64, device=self.job.model.device)
            )
        )

    def _log(self, at):
        """A row of metrics.jsonl for every copy that trains now: means since the last rows. This
        waits."""
        table = self.processes.rows(self._summary(at.split).to(self.job.model.device)).cpu()
        self.pending = []
        self._require_finite(table)
        for split in sorted({int(s) for s in table[:, 0] if not s.isnan()}):
            of_split = table[table[:, 0] == split]
            step, rate, speed = int(of_split[0, 1]), of_split[0, 3].item(), of_split[0, 5].item()
            samples = step * self.job.per_step
            row = {"loss": of_split[:, 2].mean().item(), "lr": rate}
            row |= {} if of_split[0, 4].isnan() else {"skipped": of_split[0, 4].item()}
            row["images_per_second"] = round(speed, 2)
            self.run.append_metrics(
                {"step": step, "round": at.round, "shard": split, "samples": samples} | row
            )
            several = self.job.plan.splits > 1
            self.tracker.log(
                row, samples if several else step, group=f"shard_{split}" if several else None
            )

    def show(self, step):
        """A preview grid, by the main process."""
        if self.processes.main:
            path = self.run.preview_path(step)
            preview(
                self.job.model,
                self.job.data.prompts,
                path,
                count=self.opts.sample_batch_size,
                seed=self.opts.generation_seed,
                side=self.opts.resolution,
            )
            self.tracker.image("generations", path, step)

    def _due(self, at):
        """Returns: (log?, show?, checkpoint or None, save a state?) after a position."""
        plan, opts, last = self.job.plan, self.opts, at.position == self.job.plan.total
        turn_over = at.position % plan.steps == 0
        logs = last or at.position % opts.log_steps == 0 or (turn_over and plan.splits > 1)
        saves = (
            last or at.round_over or at.position % (opts.state_steps or opts.modelsavesteps) == 0
        )
        if not self.job.is_ensemble:
            shows = last or at.position % opts.save_steps == 0
            return (
                logs,
                shows,
                at.position if at.position % opts.modelsavesteps == 0 else None,
                saves,
            )
        step = at.round * plan.steps
        shows = at.round_over and (
            last or step // opts.save_steps > (step - plan.steps) // opts.save_steps
        )
        checkpoint = at.round if at.round_over and at.round % opts.modelsaverounds == 0 else None
        return logs, shows, checkpoint, saves

    def _after(self, at):
        logs, shows, checkpoint, saves = self._due(at)
        last = at.position == self.job.plan.total
        if logs:
            self._log(at)
        elif shows or saves or checkpoint is not None:
            self._check()  # before anything is saved of a broken model
        with self.pauses:
            if shows:
                self.show(at.round * self.job.plan.steps if self.job.is_ensemble else at.position)
            if checkpoint is not None or saves:
                self.job.model.require_finite(at.position)
            if checkpoint is not None or last:
                with self.job.model.pipeline() as pipeline:
                    if checkpoint is not None:
                        self.run.save_checkpoint(pipeline, checkpoint)
                    if last:
                        self.run.save_checkpoint(pipeline)
            if saves:
                self._save_state(at.position)
            if shows or saves or checkpoint is not None:
                self.processes.wait()

    def positions(self, position=0):
        """Train from a position to the end, doing all that is due. Yields: ensemble.Progress after
        each position.

        SIGTERM and SIGINT save a state and end with exit status 143 or 130.
        """
        # without images to read, a draw costs less than sending it from another process
        workers = self.opts.num_workers if self.job.model.cached_latents is None else 0
        looped = self.job.copies.run(
            position, batch_size=self.opts.train_batch_size, num_workers=workers
        )
        self.pauses, self.logged = Pauses(), 0.0
        with StopSignal() as stop:
            for at in self._unbroken(looped):
                if at.report is not None:
                    self.pending.append(at.report)
                self._after(at)
                # several processes must stop at the same step, and asking costs a wait: they ask
                # when they log
                asks = self.processes.count == 1 or at.position % self.opts.log_steps == 0
                if asks and self.processes.any(stop.number is not None):
                    self._stop(at, stop.number)
                yield at

    def _unbroken(self, looped):
        """The steps; TrainingError in one line when an image can no longer be read."""
        try:
            yield from looped
        except DataError as error:
            said = (
                str(error).strip().splitlines()[-1].removeprefix("utils.errors.DataError: ")
            )  # a worker adds its traceback
            raise TrainingError(
                f"{said}; what was saved before is kept, continue with --resume_from_checkpoint"
            ) from None

    def train(self, position=0):
        """`positions` to the end, under a progress bar."""
        total, main = self.job.plan.total, self.processes.main
        for _ in progress(
            self.positions(position),
            total=total,
            initial=position,
            label="training",
            main_process=main,
        ):
            pass

    def _stop(self, at, number):
        self._check()
        self._save_state(at.position)
        self.tracker.finish()
        # a process that got no signal itself stops with those that did
        raise Stopped(
            f"stopped after step {at.position}; continue with --resume_from_checkpoint latest",
            number or 15,
        )


def skip_counts(job, processes):
    """How often loss control saw and dropped every image, over all copies. Returns: int [N, 2] on
    the CPU, or None."""
    model = job.model
    if model.counts is None:
        return None
    own = model.counts if model.team.rank == 0 else torch.zeros_like(model.counts)
    return parallel.sum_over_processes(own.long(), model.device).cpu()
