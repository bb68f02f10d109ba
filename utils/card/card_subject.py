"""What a memorization card is about: a model, the model that it was made from, and its training
pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.data import caption_files, caption_layouts, key_matching
from utils.data.field_names import USUAL, Columns
from utils.files import adapter_folder, run_folder
from utils.index import vector_index
from utils.models import families, single_files
from utils.models.pipeline_files import NO_CHOICE, FileChoice
from utils.retrieval import evaluation_inputs
from utils.runtime.errors import DataError, UsageError, require_file

if TYPE_CHECKING:
    from utils.data.image_sets import ImageSet
    from utils.files.adapter_folder import Adapter
    from utils.files.run_folder import Run
    from utils.runtime.parallel import Say


@dataclass(frozen=True)
class Model:
    """A model, as words of diff_inference.py's command line."""

    words: tuple[str, ...]  # that name it
    base: tuple[str, ...] | None  # that name the model it was made from; None: is not known
    run: Run | None  # the training run, if it is one of ours
    given: str  # --modelpath
    checkpoint: str | None = None  # of the run, by name; None: the final one

    @property
    def checkpoints(self) -> list[int]:
        """Numbers of the run's checkpoints before the last one, ascending; none where the card is
        of a checkpoint with a name."""
        if self.run is None or self.checkpoint is not None:
            return []
        names = (name.removeprefix("checkpoint_") for name in self.run.checkpoints())
        numbers = sorted(int(name) for name in names if name.isdigit())
        return [number for number in numbers if number != self.run.record["steps"]]

    @property
    def identity(self) -> dict[str, Any]:
        """What tells this model from others, of JSON types."""
        if self.run is None:
            return {"words": self.words}
        known = {"run": self.run.record.get("id"), "steps": self.run.record["steps"]}
        if self.checkpoint is None:
            return known
        return known | {"checkpoint": f"{self.checkpoint}, step {self.run.best_step}"}


@dataclass(frozen=True)
class TrainingData:
    """The training pictures of a model, and what is known of them."""

    source: str  # value of --val_dir
    images: ImageSet | None  # None: an index
    captions: Mapping[str, str]  # {key of a picture: its first caption}
    duplicated: frozenset[str]  # keys of pictures that training drew more often, on purpose
    heldout: Mapping[str, str]  # {name of a picture that training never drew: its caption}

    @property
    def keys(self) -> tuple[str, ...]:
        """Keys of all pictures; of an index those that have captions."""
        return tuple(self.captions) if self.images is None else self.images.keys

    @property
    def root(self) -> str | Path:
        """The folder that the keys are relative to."""
        return Path(self.source) if self.images is None else Path(str(self.images.root))

    def shown(self, keys: Sequence[str]) -> ImageSet:
        """The pictures with these keys, as far as they exist, to look at."""
        if self.images is None:
            index = vector_index.open_index("--val_dir", self.source)
            return index.images(list(index.find(keys).values()))
        wanted = frozenset(keys)
        return self.images.take([i for i, key in enumerate(self.images.keys) if key in wanted])

    @property
    def fingerprint(self) -> str | None:
        """The fingerprint of the pictures; None of an index, which has its own."""
        return None if self.images is None else self.images.fingerprint

    @property
    def content_fingerprint(self) -> str | None:
        """The fingerprint of the pictures' contents; None of an index, which has its own."""
        return None if self.images is None else self.images.content_fingerprint


# The model ----------------------------------------------------------------------------------------


def _named(source: str) -> tuple[str, ...]:
    """Words that name a pipeline: a folder, or a name on the hub."""
    if Path(source).exists():
        return ("--modelpath", source)
    return ("--pretrained_model_name_or_path", source)


def _configured(words: tuple[str, ...], choice: FileChoice) -> tuple[str, ...]:
    """Words that name a model, with --config if it is one file."""
    one_file = choice.config is not None and Path(words[1]).is_file()
    return (*words, "--config", str(choice.config)) if one_file else words


def _chosen(words: tuple[str, ...], choice: FileChoice) -> tuple[str, ...]:
    """Words that name a model and choose among its files."""
    given = {"--variant": choice.variant, "--unet": choice.unet}
    return (*words, *(word for flag, value in given.items() if value for word in (flag, value)))


def _is_lora_on_disk(path: Path) -> bool:
    if path.is_file():
        return path.suffix == ".safetensors" and not single_files.is_whole_model(path)
    names = ("run.json", "model_index.json")
    return (
        path.is_dir()
        and not any((path / name).exists() for name in names)
        and any(path.glob("*.safetensors"))
    )


def _is_pipeline_on_hub(name: str) -> bool:
    try:
        families.read("--modelpath", name)
    except UsageError:
        return False
    return True


def _base_of_run(base_model: str | None, run: Run, choice: FileChoice) -> tuple[str, ...]:
    """Words that name a run's base model with the flags that the run was given for it.

    base_model: --base_model."""
    given = run.options
    adapter = adapter_folder.open_adapter(run.path / "checkpoint")
    recorded = adapter.base.source if adapter else given["pretrained_model_name_or_path"]
    base = base_model or recorded
    theirs = FileChoice(
        variant=given.get("variant"),
        config=choice.config or given.get("config"),
        unet=given.get("unet"),
    )
    own = base in (recorded, given["pretrained_model_name_or_path"])
    words = _configured(_named(base), theirs)
    return _chosen(words, theirs) if own else words


def model_of(
    modelpath: str,
    base_model: str | None,
    choice: FileChoice = NO_CHOICE,
    *,
    checkpoint: str | None = None,
) -> Model:
    """The model that --modelpath names. UsageError for LoRA weights without --base_model.

    base_model, checkpoint: the flags of these names; choice: which of its files are read."""
    path = Path(modelpath)
    run = run_folder.open_run("--modelpath", path) if path.is_dir() else None
    if run is not None:
        words = _words_of_run(modelpath, run, base_model, choice, checkpoint)
        return Model(words, _base_of_run(base_model, run, choice), run, modelpath, checkpoint)
    if checkpoint:
        raise UsageError(
            f"--checkpoint={checkpoint!r} names a checkpoint of a run, and {modelpath!r} holds no"
            " run.json; give the folder of a run"
        )
    adapter = adapter_folder.open_adapter(path)
    if adapter is not None:
        return _of_checkpoint(modelpath, adapter, base_model, choice)
    lora = _is_lora_on_disk(path)
    if base_model and not path.exists():
        lora = not _is_pipeline_on_hub(modelpath)
    if not lora:
        own = _configured(_named(modelpath), choice)
        base_words = _configured(_named(base_model), choice) if base_model else None
        if choice.unet and base_words is None:
            base_words = own
        return Model(_chosen(own, choice), base_words, None, modelpath)
    if not base_model:
        raise UsageError(
            f"--modelpath={modelpath!r} holds LoRA weights; name the model that they change with"
            " --base_model"
        )
    words = _configured(_named(base_model), choice)
    return Model((*_chosen(words, choice), "--lora", modelpath), words, None, modelpath)


def _words_of_run(
    modelpath: str, run: Run, base_model: str | None, choice: FileChoice, checkpoint: str | None
) -> tuple[str, ...]:
    """Words that name a checkpoint of a run, by name or the final one; UsageError if it has none of
    that name."""
    words = _chosen(("--modelpath", modelpath), choice)
    if checkpoint:
        run.checkpoint("--modelpath", checkpoint)  # raises
        words = (*words, "--checkpoint", checkpoint)
    folder = "checkpoint" if checkpoint is None else f"checkpoint_{checkpoint}"
    if base_model and adapter_folder.open_adapter(run.path / folder):
        words = (*words, "--pretrained_model_name_or_path", base_model)
    return words


def _of_checkpoint(
    modelpath: str, adapter: Adapter, base_model: str | None, choice: FileChoice
) -> Model:
    """A LoRA checkpoint of a run, given without the run."""
    words, base = _chosen(("--modelpath", modelpath), choice), adapter.base
    if base_model:
        named = ("--pretrained_model_name_or_path", base_model)
        return Model((*words, *named), _configured(_named(base_model), choice), None, modelpath)
    theirs = FileChoice(**base.files)
    own = _chosen(_configured(_named(base.source), theirs), theirs)
    return Model(words, own, None, modelpath)


# Its training pictures ----------------------------------------------------------------------------


def _place_of(model: Model, val_dir: str | None) -> str:
    """The value of --val_dir: as given, else where the run's pictures are. UsageError where they
    are not."""
    if val_dir:
        return val_dir
    if model.run is None:
        raise UsageError(
            f"--modelpath={model.given!r} holds no run.json that names its training images; name"
            " their folder with --val_dir"
        )
    place = model.run.located("instance_data_dir")
    if place is None or not place.exists():
        raise UsageError(
            f"--modelpath={model.given!r}: the training images of the run are not in"
            f" {str(place)!r} any more; name their folder with --val_dir"
        )
    return str(place)


def require_readable(images: ImageSet) -> None:
    """Raise UsageError unless a picture of the set can be read. Reads up to the first that can."""
    reason: DataError | None = None
    for index in range(len(images)):
        try:
            images.open(index)
            return
        except DataError as error:
            reason = reason or error
    raise UsageError(
        f"--val_dir={str(images.root)!r}: none of its {len(images)} images can be read, first:"
        f" {reason}; give a folder of images"
    )


def data_of(
    model: Model,
    val_dir: str | None,
    val_captions: str | None,
    *,
    columns: Columns = USUAL,
    say: Say = lambda line: None,
) -> TrainingData:
    """The training pictures, and what is known of them; UsageError if there are none, or none can
    be read.

    val_dir, val_captions: the flags of these names, or None; columns: of captions files; say:
    prints a line for the user."""
    source = _place_of(model, val_dir)
    if vector_index.is_index(source):
        return TrainingData(source, None, _recorded_captions(model), frozenset(), {})
    images, beside = evaluation_inputs.list_training(source, columns=columns)
    require_readable(images)
    if val_captions:
        path = require_file("--val_captions", val_captions)
        found = caption_files.read_captions(path, images, columns)[0]
    elif model.run is None:
        found = beside or caption_layouts.find_or_say(images, say, columns)
    else:
        path = model.run.path / "captions.json"
        found = {k: [v] for k, v in _matched(path, _recorded_captions(model), images).items()}
    texts = {key: listed[0] for key, listed in found.items()}
    return TrainingData(source, images, texts, _duplicated(model.run, images), _heldout(model.run))


def _recorded_captions(model: Model) -> dict[str, str]:
    if model.run is None:
        return {}
    return {key: texts[0] for key, texts in model.run.captions().items()}


def _matched(path: Path, names: Mapping[str, str], images: ImageSet) -> dict[str, str]:
    """Texts by the keys of the set. names: {name in the file at `path`: text}."""
    found, _ = key_matching.match_keys(path, names, images.root, images.keys, anywhere=True)
    return {key: names[found[key]] for key in images.keys if key in found}


def _duplicated(run: Run | None, images: ImageSet) -> frozenset[str]:
    """Keys of the pictures that a run drew more often; of a run without duplication none."""
    if run is None or run.record.get("counterfactual"):
        return frozenset()
    names = {name: name for name in run.record["duplicated"]}
    return frozenset(_matched(run.path / "run.json", names, images))


def _heldout(run: Run | None) -> dict[str, str]:
    """Captions of the pictures that a run set aside (--holdout), by their keys in the run."""
    listed = {} if run is None else run.held_out_captions()
    return {key: texts[0] for key, texts in listed.items()}


def require_pictures_of(
    flag: str, file: str, named: Mapping[str, str | None], data: TrainingData
) -> None:
    """Raise UsageError if prompts were given that belong to no training picture.

    flag, file: where they come from; named: {prompt: the picture that the file names, or None}."""
    sources = [name for name in named.values() if name]
    if sources and data.images is not None:
        found, _ = key_matching.match_keys(
            file, sources, data.images.root, data.images.keys, anywhere=True
        )
        if found:
            return
        raise UsageError(
            f"{flag}={file!r}: none of the {len(sources)} images that it names is in"
            f" {data.source!r}; give prompts of the training images, or their folder with --val_dir"
        )
    if not sources and data.captions and not set(named) & set(data.captions.values()):
        raise UsageError(
            f"{flag}={file!r}: none of its {len(named)} prompts is the caption of a training image"
            f" in {data.source!r}; give prompts of the training images"
        )
