"""Checks of copies around the training loop (--copy_check_steps): when they are due, what is
written of them, which checkpoint is kept, and when they end a run. What measures is a `Watch`."""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from utils.files import whole_files
from utils.reports import copying_plot
from utils.reports.tracking import NoTracker

if TYPE_CHECKING:
    from PIL import Image

    from utils.files.run_folder import NewRun
    from utils.runtime.parallel import Processes
    from utils.training.ensemble import EnsemblePlan, Progress
    from utils.training.trainer import Trainer

SHARE = "copy_share"  # the key by which a row of metrics.jsonl is one of a check


@dataclass(frozen=True)
class Checked:
    """What a check found."""

    # of a row of metrics.jsonl: SHARE, the ends of its 95 % interval (_lo, _hi), and others
    numbers: Mapping[str, Any]
    sheet: Image.Image  # its images, copies with their sources
    images: list[dict[str, Any]]  # what is known of each image, of JSON types


class Watch(Protocol):
    """Measures how much a model copies: the same prompts and noise at every check."""

    def prepare(self) -> None:
        """Read what images are compared with, before the first step."""

    def check(self, model: Trainer) -> Checked:
        """Measure the model. No weight and no random number of the training changes."""


@dataclass(frozen=True)
class CheckSettings:
    """When checks are made, and what follows from them."""

    every: int  # optimizer steps
    stop_at: float | None  # share of copies that ends the run; None: none does


class CopyChecks:
    """The checks of a run. Every process calls the methods; the main one alone measures and
    writes."""

    def __init__(
        self, watch: Watch | None, settings: CheckSettings, run: NewRun, processes: Processes
    ):
        """watch: None on processes other than the main one."""
        self.watch, self.settings = watch, settings
        self.run, self.processes = run, processes
        self.tracker: NoTracker = NoTracker()
        self.rows: list[dict[str, Any]] = []  # of metrics.jsonl that checks wrote
        self.seconds = 0.0  # that checks took, with those of earlier launches
        self.over = False  # whether a check ended the run

    def prepare(self) -> None:
        """Read what images are compared with, before the first step."""
        if self.watch is not None:
            started = time.perf_counter()
            self.watch.prepare()
            self.seconds += time.perf_counter() - started

    # When -----------------------------------------------------------------------------------------

    def due(self, at: Progress, plan: EnsemblePlan, *, is_ensemble: bool) -> bool:
        """Whether a check follows a position: every so many steps and after the last one; of an
        ensemble at the end of the round in which they were passed."""
        last, every = at.position == plan.total, self.settings.every
        if not is_ensemble:
            return last or at.position % every == 0
        step = at.round * plan.steps
        passed = step // every > (step - plan.steps) // every
        return at.round_over and (last or passed)

    # A check --------------------------------------------------------------------------------------

    def check(self, model: Trainer, place: Mapping[str, int], *, grouped: bool) -> bool:
        """Measure the model and write what is found. Returns: whether the run ends now, the same in
        every process.

        place: `step` and other counts of the row; grouped: whether the rows of the run are logged
        by copies of the model, on axes of their own."""
        if self.processes.main:
            started = time.perf_counter()
            self._write(model, place, grouped=grouped)
            self.seconds += time.perf_counter() - started
        self.over = self.processes.any(self._is_above())
        return self.over

    def _write(self, model, place, *, grouped):
        assert self.watch is not None
        found, step = self.watch.check(model), place["step"]
        row = {**place, **found.numbers}
        path = self.run.copies_path(step)
        with whole_files.whole_file(path) as part:
            found.sheet.save(part, format="PNG")
        whole_files.write_json(path.with_suffix(".json"), found.images)
        self.run.append_metrics(row)
        self.rows.append(row)
        stop_at = self.settings.stop_at
        copying_plot.copying(self.run.copying_path, self.rows, limit=stop_at)
        axis = (place["samples"], "copies") if grouped else (step, None)
        self.tracker.log(dict(found.numbers), axis[0], group=axis[1])
        self.tracker.image("copies", path, step)
        if stop_at is not None and not self._is_above():
            with model.pipeline() as pipeline:
                self.run.save_best(functools.partial(model.save, pipeline), row)

    def _is_above(self) -> bool:
        """Whether the last check found more copies than are allowed."""
        stop_at = self.settings.stop_at
        if stop_at is None or not self.rows:
            return False
        return bool(self.rows[-1][f"{SHARE}_lo"] > stop_at)

    # A run that continues -------------------------------------------------------------------------

    def resume(self, position_step: int, seconds: float) -> None:
        """Continue after the rows of metrics.jsonl that a state keeps. A kept checkpoint of a later
        step is removed: the run comes to it again.

        position_step: step of the state, as rows count it; seconds: of checks in earlier
        launches."""
        self.seconds += seconds
        if self.processes.main:
            self.rows = [row for row in self.run.metrics_rows() if SHARE in row]
            best = self.run.best()
            stop_at = self.settings.stop_at
            if best is not None and (
                best["step"] > position_step
                or (stop_at is not None and best[f"{SHARE}_lo"] > stop_at)
            ):
                self.run.remove_best()
        ended = bool(self.rows) and self.rows[-1]["step"] == position_step and self._is_above()
        self.over = self.processes.any(ended)

    # The end --------------------------------------------------------------------------------------

    def record(self) -> dict[str, Any]:
        """What run.json says of the checks."""
        known: dict[str, Any] = {"copy_check_seconds": round(self.seconds, 2)}
        if self.over and self.rows:
            last = self.rows[-1]
            known["stopped_at_copy_share"] = {
                "limit": self.settings.stop_at,
                **{key: last[key] for key in ("step", SHARE, f"{SHARE}_lo", f"{SHARE}_hi")},
            }
        return known

    def lines(self, training: float) -> list[str]:
        """What is said at the end, in the main process. training: seconds of the run without
        checks."""
        if not self.rows:
            return []
        share = self.seconds / max(self.seconds + training, 1e-9)
        lines = [
            f"{len(self.rows)} copy checks took {self.seconds:.1f} s, {100 * share:.0f} % of the"
            f" run; the last: {_share_words(self.rows[-1])}; {self.run.copying_path}"
        ]
        if self.settings.stop_at is not None:
            lines.append(self._stop_line(self.settings.stop_at))
        return lines

    def _stop_line(self, stop_at):
        best = self.run.best()
        below = (
            f"the last check below it was at step {best['step']}: --checkpoint best"
            if best is not None
            else "no check was below it, and no checkpoint_best was kept"
        )
        if self.over:
            return (
                f"stopped at step {self.rows[-1]['step']}: {_share_words(self.rows[-1])}, surely"
                f" above --stop_at_copy_share={stop_at}; {below}"
            )
        return f"no check was surely above --stop_at_copy_share={stop_at}; {below}"


def _share_words(row):
    low, high = (f"{100 * row[f'{SHARE}_{end}']:.0f}" for end in ("lo", "hi"))
    return f"{100 * row[SHARE]:.0f} % copies ({low} to {high} %)"
