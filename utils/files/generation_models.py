"""Which model made the images of a folder, as the generation there records it: images of the
measured model are no pictures that nobody copied."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from utils.files import whole_files
from utils.files.folder_kinds import GENERATION, generations_below, kind_of
from utils.files.generation_folder import Generation

CHANGES = ("lora", "unet")  # settings that make another model of a base model


@dataclass(frozen=True)
class MadeBy:
    """The model of a generation. A part that is not recorded is None, or empty."""

    folder: Path  # of the generation
    model: str | None  # the id of a run, a hash of one file of weights, a folder or a hub name
    changes: tuple[str | None, ...]  # what CHANGES record, in this order
    run: str | None = None  # path of the training run, as the manifest names it
    networks: Mapping[str, str] = field(default_factory=dict)  # {name: hash of its weights}

    def is_model_of(self, other: MadeBy) -> bool:
        """Whether both were made by one model, or by two checkpoints of one run."""
        if self.model is not None and self.model == other.model:
            return bool(self.run and other.run) or self.changes == other.changes
        same_weights = bool(self.networks) and dict(self.networks) == dict(other.networks)
        return same_weights and self.changes == other.changes

    @property
    def words(self) -> str:
        """The model in words, for an error."""
        if self.run:
            return f"the run {self.run}"
        return "the model" if self.model is None else f"the model {self.model!r}"


def made_by(folder: str | Path) -> MadeBy | None:
    """The model that made the images of a folder: of a generation, or of the folder of its images.
    None for other folders. DataError for a manifest that is broken, or newer than this toolkit."""
    given = Path(folder)
    above = given.resolve().parent
    for path in (given, above) if given.resolve().name == "generations" else (given,):
        if kind_of(path) == GENERATION:
            return _recorded(path)
    return None


def all_made_by(folder: str | Path) -> list[MadeBy]:
    """The models that made images of a folder: of `made_by`, and of every generation below."""
    below = [made_by(Path(folder) / name) for name in generations_below(folder)]
    return [each for each in (made_by(folder), *below) if each is not None]


def _recorded(folder: Path) -> MadeBy:
    path = folder / "manifest.json"
    if not path.is_file():  # the generation is unfinished
        return _of(folder, {"settings": Generation(folder).unfinished_settings()})
    return _of(folder, whole_files.read_manifest(path, GENERATION))


def _of(folder: Path, manifest: Mapping[str, Any]) -> MadeBy:
    settings = manifest.get("settings")
    settings = settings if isinstance(settings, dict) else {}
    model = manifest.get("model")
    networks = model.get("fingerprints") if isinstance(model, dict) else None
    return MadeBy(
        folder,
        settings.get("modelpath"),
        tuple(settings.get(name) for name in CHANGES),
        manifest.get("run"),
        networks if isinstance(networks, dict) else {},
    )
