"""The files of a pipeline that are read without its weights: model_index.json and configurations.

They are read here and not by diffusers, which takes seconds to import: a plan that is only looked
at (--dry_run) needs no more."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from utils.files import hub, weight_files, whole_files
from utils.files.weight_files import WeightFiles
from utils.runtime.errors import UsageError, first_line

ACCEPTED = "use a folder as written by diffusers' save_pretrained, or a hub name owner/model"

# what the other parts of a pipeline expect of its network that predicts
INTERFACE = (
    "_class_name",
    "in_channels",
    "out_channels",
    "cross_attention_dim",
    "joint_attention_dim",
    "pooled_projection_dim",
    "addition_embed_type",
)


@dataclass(frozen=True)
class FileChoice:
    """Which files of a pipeline are read, where there is a choice. Each is the value of a flag."""

    revision: str | None = None  # of a name on the hub
    variant: str | None = None  # of the weights, such as fp16
    config: str | None = None  # --config: folder or hub name that configures one file of weights
    unet: str | None = None  # --unet: folder of a network that takes the place of the pipeline's


NO_CHOICE = FileChoice()


def factor(block_out_channels: list[int]) -> int:
    """Pixels per latent, along a side, of an autoencoder with these blocks."""
    return 2 ** (len(block_out_channels) - 1)  # the side is halved between blocks


def network_of_trainer(path: str | Path) -> Path | None:
    """The folder of a network that stands alone, as trainers of diffusers write it: the given one,
    or `unet` or `transformer` in it. None if it is another kind of folder."""
    path = Path(path)
    if (path / "model_index.json").is_file():
        return None
    for place in (path, path / "unet", path / "transformer"):
        if (place / "config.json").is_file():
            return place
    return None


def denoiser_of(given: str, own: dict) -> dict:
    """The configuration of the network of --unet.

    own: configuration of the network whose place it takes. UsageError if there is none, or it takes
    other inputs than the pipeline gives."""
    place = network_of_trainer(given)
    if place is None:
        raise UsageError(
            f"--unet={given!r} is not the folder of a network; give one that holds config.json and"
            " weights, such as checkpoint-500/unet of a trainer of diffusers"
        )
    config = whole_files.read_json(place / "config.json")
    for key in INTERFACE:
        if config.get(key) != own.get(key):
            raise UsageError(
                f"--unet={given!r} has {key} {config.get(key)!r}, and the network of the pipeline"
                f" {own.get(key)!r}; use a network that was trained from this pipeline"
            )
    return config


def require_pipeline(flag: str, source: str | Path) -> None:
    """Raise UsageError if a model is named by a path that is not a pipeline folder; a hub name
    passes.

    flag: the option that named it, for the message.
    source: a folder or a hub name.
    """
    path = Path(source)
    if path.is_dir() and network_of_trainer(path):
        raise UsageError(
            f"{flag}={str(source)!r} holds a network alone, without model_index.json; give the"
            " pipeline that it was trained from, and this folder with --unet"
        )
    if path.is_dir() and not (path / "model_index.json").is_file():
        raise UsageError(
            f"{flag}={str(source)!r} is not a pipeline folder: it has no model_index.json;"
            f" {ACCEPTED}"
        )
    if not path.is_dir() and (
        path.is_absolute() or str(source).startswith(".") or str(source).count("/") > 1
    ):
        raise UsageError(f"{flag}={str(source)!r} does not exist; {ACCEPTED}")


def tried() -> str:
    """Where a name on the hub was looked for, in words."""
    if os.environ.get("HF_HUB_OFFLINE"):
        return "the local cache (HF_HUB_OFFLINE is set)"
    return "the hub and its cache"


def unreachable(flag: str, source: str | Path, error: Exception) -> UsageError:
    """The error that says why a pipeline could not be loaded, and what to pass instead."""
    reason = first_line(error)
    if Path(source).is_dir():
        return UsageError(f"{flag}={str(source)!r} is not complete: {reason}; {ACCEPTED}")
    return UsageError(
        f"{flag}={source!r} is not a local folder and could not be loaded from {tried()}"
        f" ({reason}); download the pipeline on a machine with a network and pass its folder with"
        f" {flag}"
    )


def loading_errors() -> tuple[type[Exception], ...]:
    """The exceptions that the libraries' loaders raise for a source that is missing, gated,
    misspelled or unreachable."""
    from safetensors import SafetensorError

    return (
        OSError,
        ValueError,
        KeyError,
        AttributeError,
        SafetensorError,
        *hub.connection_errors(),
    )


@dataclass(frozen=True)
class Configs:
    """The configuration files of a pipeline, read without its weights."""

    index: dict  # model_index.json: the class of the pipeline and of each part
    vae: dict  # config.json of the autoencoder; {} without one
    denoiser: dict  # config.json of the U-Net or transformer
    scheduler: dict  # scheduler_config.json

    @property
    def factor(self) -> int:
        """Pixels per latent, along a side."""
        return factor(self.vae["block_out_channels"]) if self.vae else 1

    @property
    def patch(self) -> int:
        """Latents per token of a transformer, along a side; 1 for a U-Net."""
        return self.denoiser.get("patch_size", 1)

    @property
    def side(self) -> int | None:
        """Side in pixels of the images that the pipeline was made for; None where the denoiser's
        configuration does not say."""
        size = self.denoiser.get("sample_size")
        return size * self.factor if isinstance(size, int) else None


def _read_json(source: str | Path, name: str, folder: str = "", *, revision: str | None) -> dict:
    """Read a JSON file of a pipeline: of its folder, or from the hub and its cache.

    OSError and the errors of the hub's client if there is none; DataError if it is no JSON."""
    if Path(source).is_dir():
        path = Path(source) / folder / name
        if not path.is_file():
            raise FileNotFoundError(f"there is no file {os.path.join(folder, name)}")
    else:
        from huggingface_hub import hf_hub_download

        path = Path(hf_hub_download(str(source), name, subfolder=folder or None, revision=revision))
    return whole_files.read_json(path)


def _read_at_either_place(
    source: str | Path, name: str, folder: str, *, revision: str | None
) -> dict:
    """`_read_json` of a subfolder, else of the pipeline's folder itself."""
    try:
        return _read_json(source, name, folder, revision=revision)
    except loading_errors():
        return _read_json(source, name, revision=revision)


def read_index(flag: str, source: str | Path, *, revision: str | None = None) -> dict:
    """Read model_index.json of a pipeline; UsageError if it cannot be loaded."""
    require_pipeline(flag, source)
    try:
        return _read_json(source, "model_index.json", revision=revision)
    except loading_errors() as error:
        raise unreachable(flag, source, error) from None


def read_configs(
    flag: str,
    source: str | Path,
    index: dict,
    *,
    denoiser: str,
    autoencoder: bool = True,
    revision: str | None = None,
) -> Configs:
    """Read the configuration files of a pipeline; UsageError if one cannot be loaded.

    index: its model_index.json.
    denoiser: the subfolder of the network that predicts, "unet" or "transformer".
    autoencoder: whether it has one; a pipeline without may hold its files beside model_index.json.
    """
    read = _read_json if autoencoder else _read_at_either_place
    try:
        configs = Configs(
            index=index,
            vae=_read_json(source, "config.json", "vae", revision=revision) if autoencoder else {},
            denoiser=read(source, "config.json", denoiser, revision=revision),
            scheduler=read(source, "scheduler_config.json", "scheduler", revision=revision),
        )
        # KeyError if it is another network's configuration
        (configs.vae or configs.denoiser)["block_out_channels"]
        return configs
    except loading_errors() as error:
        raise unreachable(flag, source, error) from None


def encoder_configs(
    source: str | Path, index: dict, *, revision: str | None = None
) -> dict[str, dict]:
    """{text encoder: its config.json} of a pipeline, of those that can be read. index: its
    model_index.json."""
    found = {}
    for part, entry in index.items():
        if part.startswith("text_encoder") and entry != [None, None]:
            with contextlib.suppress(*loading_errors()):
                found[part] = _read_json(source, "config.json", part, revision=revision)
    return found


# Files of weights, by their names alone ----------------------------------------------------------


def weights_of(flag: str, folder: str | Path, variant: str | None) -> WeightFiles:
    """The files of the weights of a network in a folder: those of the variant, else those without
    one; without a variant those without one, else those of the only one that is there.

    flag: the option that named the folder, with its value, for errors. UsageError if there are no
    weights, or of several variants; DataError if parts of them are missing."""
    present = weight_files.variants_in(folder) if Path(folder).is_dir() else []
    if not present:
        raise UsageError(f"{flag} is not complete: {str(folder)!r} holds no weights")
    if variant in present:
        chosen = variant
    elif None in present:
        chosen = None
    elif len(present) == 1 and variant is None:
        chosen = present[0]
    else:
        raise UsageError(
            f"--variant={variant!r}: {str(folder)!r} holds weights of"
            f" {', '.join(map(str, present))}; choose one of these"
        )
    files = weight_files.of_variant(folder, chosen)
    assert files is not None  # a variant that is there has files
    return files


def require_weights(
    flag: str, folder: str | Path, index: Mapping[str, object], choice: FileChoice
) -> None:
    """Raise as `weights_of` does unless every network of a pipeline's folder has weights. A network
    is a part with a config.json; no file but that list is read.

    index: model_index.json."""
    given = f"{flag}={str(folder)!r}"
    replaced = ("unet", "transformer") if choice.unet else ()
    for part in index:
        place = Path(folder) / part
        known = part not in ("safety_checker", *replaced)
        if known and (place / "config.json").is_file():
            weights_of(given, place, choice.variant)


def lines_about(files: Mapping[str, WeightFiles], variant: str | None) -> list[str]:
    """Lines for the user about weights of another variant than the one asked for. files: {part:
    its files}."""
    lines: dict[str, list[str]] = {}
    for part, each in files.items():
        if each.variant != variant:
            lines.setdefault(each.variant or "", []).append(part)
    return [
        f"weights of the variant {found!r} are read, as there are no others: {', '.join(parts)}"
        if found
        else f"there are no weights of the variant {variant!r} of {', '.join(parts)};"
        " the others are read"
        for found, parts in lines.items()
    ]
