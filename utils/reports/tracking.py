"""Trackers of experiments: wandb, tensorboard or none, with one interface (--report_to).

A row that is logged with a `group` goes under <group>/ and has an axis of its own. The splits of an
ensemble need that, because each counts its own steps."""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from utils.reports.tables import markdown


class NoTracker:
    """The interface of a tracker; this one discards everything."""

    run_id: str | None = None  # by which a run can be continued
    hint: str | None = None  # a line for the terminal

    def log(self, row: Mapping[str, Any], step: int, group: str | None = None) -> None:
        """Log numbers. row: {name: number}; step: optimizer steps, or with `group` samples."""

    def image(self, name: str, path: Path, step: int) -> None:
        """Log an image. path: of a PNG."""

    def table(
        self,
        name: str,
        rows: Sequence[Mapping[str, Any]],
        pictures: Mapping[str, bytes],
        step: int,
    ) -> None:
        """Log a table.

        rows: of the same keys; a column *_picture holds names of `pictures`;
        pictures: {name: JPEG}."""

    def finish(self) -> None:
        """Flush and close."""


def _logged_in(wandb: Any) -> bool:
    """Whether wandb has credentials. The user is not asked for any."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    if "prompt" in inspect.signature(wandb.login).parameters:
        return bool(wandb.login(prompt=False, verify=False))
    return bool(wandb.api.api_key)  # before 0.31


class WandbTracker(NoTracker):
    """A wandb run. Without a login it is stored offline, and `hint` tells how to upload it."""

    def __init__(
        self,
        *,
        folder: str | Path,
        project: str,
        name: str | None,
        config: Mapping[str, Any],
        run_id: str | None = None,
        logging_dir: str | None = None,
    ) -> None:
        import wandb

        self._wandb = wandb
        mode: Any = os.environ.get("WANDB_MODE") or ("online" if _logged_in(wandb) else "offline")
        Path(folder).mkdir(parents=True, exist_ok=True)
        settings = wandb.Settings(silent=True, console="off")
        self._run = wandb.init(
            dir=str(folder),
            project=project,
            name=name,
            config=dict(config),
            mode=mode,
            settings=settings,
            id=run_id,
            resume="allow" if run_id and mode == "online" else None,
        )
        self._groups: set[str] = set()
        self.run_id = self._run.id
        if mode == "offline":
            self.hint = (
                "wandb keeps this run offline; to upload it: wandb sync"
                f" {Path(self._run.dir).parent}"
            )

    def log(self, row: Mapping[str, Any], step: int, group: str | None = None) -> None:
        if group is None:
            self._run.log(row, step=step)
            return
        # wandb drops rows whose step decreases, as from one split to the next
        if group not in self._groups:
            self._run.define_metric(f"{group}/*", step_metric=f"{group}/samples")
            self._groups.add(group)
        self._run.log({f"{group}/{k}": v for k, v in {**row, "samples": step}.items()})

    def image(self, name: str, path: Path, step: int) -> None:
        shown = {name: self._wandb.Image(str(path))}
        if self._groups:
            self._run.log(shown | {f"{name}_step": step})
        else:
            self._run.log(shown, step=step)

    def table(
        self,
        name: str,
        rows: Sequence[Mapping[str, Any]],
        pictures: Mapping[str, bytes],
        step: int,
    ) -> None:
        import io

        from PIL import Image

        if not rows:
            return
        shown = {
            key: self._wandb.Image(Image.open(io.BytesIO(data))) for key, data in pictures.items()
        }
        data = [
            [shown.get(v, v) if k.endswith("_picture") else v for k, v in row.items()]
            for row in rows
        ]
        self._run.log({name: self._wandb.Table(columns=list(rows[0]), data=data)}, step=step)

    def finish(self) -> None:
        self._run.finish()


class TensorboardTracker(NoTracker):
    """Event files of tensorboard under folder/logging_dir."""

    def __init__(
        self,
        *,
        folder: str | Path,
        project: str,
        name: str | None,
        config: Mapping[str, Any],
        run_id: str | None = None,
        logging_dir: str = "logs",
    ) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(Path(folder) / logging_dir))
        self._writer.add_text("config", "\n".join(f"    {k}: {v}" for k, v in config.items()))

    def log(self, row: Mapping[str, Any], step: int, group: str | None = None) -> None:
        for key, value in row.items():
            self._writer.add_scalar(f"{group}/{key}" if group else key, value, step)

    def image(self, name: str, path: Path, step: int) -> None:
        import numpy as np
        from PIL import Image

        with Image.open(path) as image:
            self._writer.add_image(name, np.asarray(image.convert("RGB")), step, dataformats="HWC")

    def table(
        self,
        name: str,
        rows: Sequence[Mapping[str, Any]],
        pictures: Mapping[str, bytes],
        step: int,
    ) -> None:
        if rows:
            columns = [c for c in rows[0] if not c.endswith("_picture")]
            self._writer.add_text(
                name,
                markdown(
                    columns, [["" if row[c] is None else row[c] for c in columns] for row in rows]
                ),
            )

    def finish(self) -> None:
        self._writer.close()


TRACKERS: dict[str, type[WandbTracker] | type[TensorboardTracker] | None] = {
    "wandb": WandbTracker,
    "tensorboard": TensorboardTracker,
    "none": None,
}


def open_tracker(
    report_to: str,
    *,
    folder: str | Path,
    project: str,
    name: str | None,
    config: Mapping[str, Any],
    main_process: bool = True,
    **options: Any,
) -> NoTracker:
    """Open the tracker of --report_to; in other processes than the main one, NoTracker.

    folder: for files of the tracker;
    project, name: of the run, for wandb;
    config: the run's settings;
    options: run_id, of a run that is continued, and logging_dir, of tensorboard."""
    kind = TRACKERS[report_to]
    if kind is None or not main_process:
        return NoTracker()
    return kind(folder=folder, project=project, name=name, config=config, **options)


def project_name(given: str | None, published: str) -> str:
    """The project of wandb: --wandb_project, else WANDB_PROJECT, else the published name."""
    return given or os.environ.get("WANDB_PROJECT") or published
