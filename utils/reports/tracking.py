"""wandb, tensorboard or nothing, behind one interface: log(row, step), image(name, path, step), finish()."""

import os
from pathlib import Path


class NoTracker:
    """Takes everything and keeps nothing; also the base that names the interface."""

    run_id = None
    hint = None  # a line for the terminal, or None

    def log(self, row, step):
        """row: name -> number."""

    def image(self, name, path, step):
        """path: a PNG."""

    def finish(self):
        """Flush and close."""


class WandbTracker(NoTracker):
    """A wandb run; without a login it is kept offline and `hint` is the command that uploads it."""

    def __init__(self, *, folder, project, name, config):
        import wandb

        self._wandb = wandb
        logged_in = bool(os.environ.get("WANDB_API_KEY") or wandb.api.api_key)
        mode = os.environ.get("WANDB_MODE") or ("online" if logged_in else "offline")
        Path(folder).mkdir(parents=True, exist_ok=True)
        settings = wandb.Settings(silent=True, console="off")
        self._run = wandb.init(dir=str(folder), project=project, name=name, config=config, mode=mode, settings=settings)
        self.run_id = self._run.id
        if mode == "offline":
            self.hint = f"wandb keeps this run offline; to upload it: wandb sync {Path(self._run.dir).parent}"

    def log(self, row, step):
        self._run.log(row, step=step)

    def image(self, name, path, step):
        self._run.log({name: self._wandb.Image(str(path))}, step=step)

    def finish(self):
        self._run.finish()


class TensorboardTracker(NoTracker):
    """Event files under folder/tensorboard."""

    def __init__(self, *, folder, project, name, config):
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(Path(folder) / "tensorboard"))
        self._writer.add_text("config", "\n".join(f"    {k}: {v}" for k, v in config.items()))

    def log(self, row, step):
        for key, value in row.items():
            self._writer.add_scalar(key, value, step)

    def image(self, name, path, step):
        import numpy as np
        from PIL import Image

        with Image.open(path) as image:
            self._writer.add_image(name, np.asarray(image.convert("RGB")), step, dataformats="HWC")

    def finish(self):
        self._writer.close()


TRACKERS = {"wandb": WandbTracker, "tensorboard": TensorboardTracker, "none": None}


def open_tracker(report_to, *, folder, project, name, config, main_process=True):
    """A tracker by its --report_to name; only the main process reports. project: None means WANDB_PROJECT's or ours."""
    kind = TRACKERS[report_to]
    if kind is None or not main_process:
        return NoTracker()
    return kind(folder=folder, project=project, name=name, config=config)


def project_name(given, published):
    """--wandb_project, else WANDB_PROJECT, else the published name."""
    return given or os.environ.get("WANDB_PROJECT") or published
