"""Where a generation's pipeline comes from: a training run, a pipeline folder, or a base model."""

from __future__ import annotations

from dataclasses import dataclass

from utils.files import run_folder
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


def find_model(modelpath: str | None, *, iternum: int | None, base_model: str) -> ModelSource:
    """The model that the options name; UsageError for a path or a checkpoint that does not exist.

    modelpath: a run or a pipeline folder.
    iternum: number of a checkpoint of the run; None is the final one.
    base_model: hub name or folder, used without a modelpath.
    """
    if not modelpath:
        return ModelSource("--pretrained_model_name_or_path", base_model, native=True)
    run = run_folder.open_run("--modelpath", modelpath)
    if run is not None:
        checkpoint = run.checkpoint("--modelpath", iternum)
        return ModelSource("--modelpath", str(checkpoint), run=run, modelpath=modelpath)
    if iternum is not None:
        raise UsageError(
            f"--iternum={iternum} names a checkpoint of a run, and {modelpath!r} holds no"
            " run.json; give the folder of a run"
        )
    return ModelSource("--modelpath", modelpath, modelpath=modelpath)
