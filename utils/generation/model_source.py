"""Where a generation's pipeline comes from: a training run, a pipeline folder, or a base model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from utils.files import run_folder, weight_files
from utils.models import pipeline_files
from utils.models.pipeline_files import NO_CHOICE, FileChoice
from utils.runtime.errors import UsageError


@dataclass(frozen=True)
class ModelSource:
    """A pipeline on disk or on the hub, checked as far as that is possible without loading it."""

    # the option that named it, for errors
    flag: str
    # the folder or hub name that is loaded
    source: str
    # the training run that it belongs to, if any
    run: run_folder.Run | None = None
    # True for a base model by name: it is rendered at its own size and the images are reduced
    native: bool = False
    # the value of --modelpath, for the record
    modelpath: str | None = None
    # which of its files are read
    choice: FileChoice = NO_CHOICE

    @property
    def identity(self) -> str | None:
        """What tells it from other models, wherever it lies: the id of a run, a hash of one file of
        weights, else the folder or the hub name."""
        if self.run is not None:
            return self.run.record.get("id")
        if Path(self.source).is_file():
            return weight_files.fingerprint([self.source])
        return self.source

    @property
    def chosen(self) -> dict[str, str]:
        """{flag: value} of the flags that choose among its files, as far as they are given; a
        network is named by a hash of its weights."""
        given = {"variant": self.choice.variant, "config": self.choice.config}
        named = {flag: value for flag, value in given.items() if value is not None}
        if self.choice.unet is None:
            return named
        place = pipeline_files.network_of_trainer(self.choice.unet)
        assert place is not None  # families.read has looked
        flag = f"--unet={self.choice.unet!r}"
        files = pipeline_files.weights_of(flag, place, self.choice.variant)
        return named | {"unet": weight_files.fingerprint(files.paths)}


def find_model(
    modelpath: str | None,
    *,
    iternum: int | None,
    base_model: str,
    choice: FileChoice = NO_CHOICE,
) -> ModelSource:
    """The model that the options name; UsageError for a path or a checkpoint that does not exist.

    modelpath: a run, a pipeline folder or one file of weights.
    iternum: number of a checkpoint of the run; None is the final one.
    base_model: hub name, folder or file, used without a modelpath.
    choice: which of its files are read.
    """
    if not modelpath:
        return ModelSource(
            "--pretrained_model_name_or_path", base_model, native=True, choice=choice
        )
    one_file = Path(modelpath).is_file()
    run = None if one_file else run_folder.open_run("--modelpath", modelpath)
    if run is not None:
        checkpoint = run.checkpoint("--modelpath", iternum)
        return ModelSource(
            "--modelpath", str(checkpoint), run=run, modelpath=modelpath, choice=choice
        )
    if iternum is not None:
        raise UsageError(
            f"--iternum={iternum} names a checkpoint of a run, and {modelpath!r} holds no"
            " run.json; give the folder of a run"
        )
    return ModelSource("--modelpath", modelpath, modelpath=modelpath, choice=choice)
