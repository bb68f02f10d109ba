"""wandb, tensorboard or nothing, behind one interface: log(row, step), image(name, path, step),
table(...), finish().

With `group` a row goes under <group>/ against an axis of its own, as the shards of an ensemble
need: each has its steps."""

import inspect
import os
from pathlib import Path

from utils.reports.tables import markdown


class NoTracker:
    """Takes everything and keeps nothing; also the base that names the interface."""

    run_id = None
    hint = None  # a line for the terminal, or None

    def log(self, row, step, group=None):
        """row: name -> number; step: optimizer steps, with `group` samples."""

    def image(self, name, path, step):
        """path: a PNG."""

    def table(self, name, rows, pictures, step):
        """rows: dicts of the same keys; in columns named *_picture a name stands for that image of
        pictures (JPEG bytes)."""

    def finish(self):
        """Flush and close."""


def _logged_in(wandb):
    """Whether wandb has credentials; nobody is asked for any."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    if "prompt" in inspect.signature(wandb.login).parameters:
        return bool(wandb.login(prompt=False, verify=False))
    return bool(wandb.api.api_key)  # before 0.31


class WandbTracker(NoTracker):
    """A wandb run; without a login it is kept offline and `hint` is the command that uploads it."""

    def __init__(self, *, folder, project, name, config, run_id=None, logging_dir=None):
        import wandb

        self._wandb = wandb
        mode = os.environ.get("WANDB_MODE") or ("online" if _logged_in(wandb) else "offline")
        Path(folder).mkdir(parents=True, exist_ok=True)
        settings = wandb.Settings(silent=True, console="off")
        self._run = wandb.init(
            dir=str(folder),
            project=project,
            name=name,
            config=config,
            mode=mode,
            settings=settings,
            id=run_id,
            resume="allow" if run_id and mode == "online" else None,
        )
        self._groups = set()
        self.run_id = self._run.id
        if mode == "offline":
            self.hint = (
                "wandb keeps this run offline; to upload it: wandb sync"
                f" {Path(self._run.dir).parent}"
            )

    def log(self, row, step, group=None):
        if group is None:
            self._run.log(row, step=step)
            return
        # wandb drops rows whose step goes back, as it does from shard to shard
        if group not in self._groups:
            self._run.define_metric(f"{group}/*", step_metric=f"{group}/samples")
            self._groups.add(group)
        self._run.log({f"{group}/{k}": v for k, v in (row | {"samples": step}).items()})

    def image(self, name, path, step):
        shown = {name: self._wandb.Image(str(path))}
        if self._groups:
            self._run.log(shown | {f"{name}_step": step})
        else:
            self._run.log(shown, step=step)

    def table(self, name, rows, pictures, step):
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

    def finish(self):
        self._run.finish()


class TensorboardTracker(NoTracker):
    """Event files under folder/logging_dir."""

    def __init__(self, *, folder, project, name, config, run_id=None, logging_dir="logs"):
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(Path(folder) / logging_dir))
        self._writer.add_text("config", "\n".join(f"    {k}: {v}" for k, v in config.items()))

    def log(self, row, step, group=None):
        for key, value in row.items():
            self._writer.add_scalar(f"{group}/{key}" if group else key, value, step)

    def image(self, name, path, step):
        import numpy as np
        from PIL import Image

        with Image.open(path) as image:
            self._writer.add_image(name, np.asarray(image.convert("RGB")), step, dataformats="HWC")

    def table(self, name, rows, pictures, step):
        if rows:
            columns = [c for c in rows[0] if not c.endswith("_picture")]
            self._writer.add_text(
                name,
                markdown(
                    columns, [["" if row[c] is None else row[c] for c in columns] for row in rows]
                ),
            )

    def finish(self):
        self._writer.close()


TRACKERS = {"wandb": WandbTracker, "tensorboard": TensorboardTracker, "none": None}


def open_tracker(report_to, *, folder, project, name, config, main_process=True, **kept):
    """A tracker by its --report_to name; only the main process reports. kept: run_id of a run that
    is continued, logging_dir of tensorboard."""
    kind = TRACKERS[report_to]
    if kind is None or not main_process:
        return NoTracker()
    return kind(folder=folder, project=project, name=name, config=config, **kept)


def project_name(given, published):
    """--wandb_project, else WANDB_PROJECT, else the published name."""
    return given or os.environ.get("WANDB_PROJECT") or published
