"""Where a generation's pipeline comes from: a training run, a pipeline folder, or a base model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from utils.files import adapter_folder, run_folder, weight_files, whole_files
from utils.files.adapter_folder import Adapter, Base
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
    # the LoRA checkpoint that changes the pipeline, which then is the adapter's base model
    adapter: Adapter | None = None
    # the value of --checkpoint, where a run's checkpoint is named by a word
    checkpoint: str | None = None

    @property
    def identity(self) -> str | None:
        """What tells it from other models, wherever it lies: the id of a run, a hash of one file of
        weights or of a LoRA checkpoint, else the folder or the hub name."""
        if self.run is not None:
            return self.run.record.get("id")
        if self.adapter is not None:
            return whole_files.file_sha256(self.adapter.weights)[:16]
        if Path(self.source).is_file():
            return weight_files.fingerprint([self.source])
        return self.source

    def recorded(self, name: str) -> Any:
        """An option of the run that it belongs to; None without a run, or where the run has no such
        option."""
        return self.run.options.get(name) if self.run else None

    @property
    def chosen(self) -> dict[str, str]:
        """{flag: value} of the flags that choose among its files, as far as they are given; a
        network is named by a hash of its weights, the best checkpoint by its step."""
        given = {"variant": self.choice.variant, "config": self.choice.config}
        if self.checkpoint is not None and self.run is not None:
            # a run that continues replaces it
            given["checkpoint"] = f"{self.checkpoint}, step {self.run.best_step}"
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
    checkpoint: str | None = None,
    base_model: str | None,
    default_model: str,
    choice: FileChoice = NO_CHOICE,
) -> ModelSource:
    """The model that the options name; UsageError for a path or a checkpoint that does not exist.

    modelpath: a run, a pipeline folder, one file of weights, or a LoRA checkpoint of a run.
    iternum: number of a checkpoint of the run; None is the final one.
    checkpoint: run_folder.BEST, instead of a number.
    base_model: hub name, folder or file: the model without a modelpath, and the base model of a
    LoRA checkpoint instead of the recorded one.
    default_model: hub name of the model that is used where neither is given.
    choice: which of its files are read.
    """
    if not modelpath:
        source = base_model or default_model
        return ModelSource("--pretrained_model_name_or_path", source, native=True, choice=choice)
    one_file = Path(modelpath).is_file()
    run = None if one_file else run_folder.open_run("--modelpath", modelpath)
    place = _place_of(modelpath, run, iternum if checkpoint is None else checkpoint)
    adapter = adapter_folder.open_adapter(place)
    if adapter is not None:
        on_base = _on_base(modelpath, adapter, run, base_model, choice)
        return replace(on_base, checkpoint=checkpoint)
    if base_model:
        raise UsageError(
            f"--modelpath={modelpath!r} and --pretrained_model_name_or_path={base_model!r} both"
            " name a model; give one"
        )
    return ModelSource(
        "--modelpath", place, run, modelpath=modelpath, choice=choice, checkpoint=checkpoint
    )


def _place_of(modelpath: str, run: run_folder.Run | None, number: int | str | None) -> str:
    """The folder or file that is loaded. number: as in Run.checkpoint, where a run is asked for
    one of its checkpoints."""
    if run is not None:
        return str(run.checkpoint("--modelpath", number))
    if number is not None:
        flag = "--checkpoint" if number == run_folder.BEST else "--iternum"
        raise UsageError(
            f"{flag}={number} names a checkpoint of a run, and {modelpath!r} holds no run.json;"
            " give the folder of a run"
        )
    return modelpath


def _on_base(
    modelpath: str,
    adapter: Adapter,
    run: run_folder.Run | None,
    base_model: str | None,
    choice: FileChoice,
) -> ModelSource:
    """A LoRA checkpoint on its base model; UsageError if that is not there."""
    base = adapter.base
    if base_model is None and base.is_path and not Path(base.source).exists():
        raise UsageError(
            f"--modelpath={modelpath!r} holds LoRA weights, and the model that they were trained"
            f" on, {base.source!r}, is not there; name it with --pretrained_model_name_or_path"
        )
    return ModelSource(
        "--pretrained_model_name_or_path",
        base_model or base.source,
        run=run,
        modelpath=modelpath,
        choice=choice if base_model else _with_recorded(choice, base),
        adapter=adapter,
    )


def _with_recorded(choice: FileChoice, base: Base) -> FileChoice:
    """The choice of files, and where it names none that of training."""
    given = {name: value for name, value in vars(choice).items() if value is not None}
    return FileChoice(**{**base.files, **given})


def require_class(model: ModelSource, class_name: str) -> None:
    """Raise UsageError if the base model of a LoRA checkpoint is of another class of pipelines.

    class_name: of the pipeline that is read."""
    if model.adapter is not None and model.adapter.base.class_name != class_name:
        raise UsageError(
            f"--pretrained_model_name_or_path={model.source!r} is a {class_name}, and the LoRA"
            f" weights of --modelpath={model.modelpath!r} were trained on a"
            f" {model.adapter.base.class_name}: {model.adapter.base.source!r}"
        )
