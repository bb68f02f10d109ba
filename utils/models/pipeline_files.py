"""The files of a pipeline that are read without its weights: model_index.json and configurations.

They are read here and not by diffusers, which takes seconds to import: a plan that is only looked
at (--dry_run) needs no more."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from utils.files import hub, whole_files
from utils.runtime.errors import UsageError, first_line

ACCEPTED = "use a folder as written by diffusers' save_pretrained, or a hub name owner/model"


def factor(block_out_channels: list[int]) -> int:
    """Pixels per latent, along a side, of an autoencoder with these blocks."""
    return 2 ** (len(block_out_channels) - 1)  # the side is halved between blocks


def require_pipeline(flag: str, source: str | Path) -> None:
    """Raise UsageError if a model is named by a path that is not a pipeline folder; a hub name
    passes.

    flag: the option that named it, for the message.
    source: a folder or a hub name.
    """
    path = Path(source)
    if path.is_dir() and not (path / "model_index.json").is_file():
        raise UsageError(
            f"{flag}={str(source)!r} is not a pipeline folder: it has no model_index.json;"
            f" {ACCEPTED}"
        )
    if not path.is_dir() and (
        path.is_absolute() or str(source).startswith(".") or str(source).count("/") > 1
    ):
        raise UsageError(f"{flag}={str(source)!r} does not exist; {ACCEPTED}")


def unreachable(flag: str, source: str | Path, error: Exception) -> UsageError:
    """The error that says why a pipeline could not be loaded, and what to pass instead."""
    reason = first_line(error)
    if Path(source).is_dir():
        return UsageError(f"{flag}={str(source)!r} is not complete: {reason}; {ACCEPTED}")
    tried = (
        "the local cache (HF_HUB_OFFLINE is set)"
        if os.environ.get("HF_HUB_OFFLINE")
        else "the hub and its cache"
    )
    return UsageError(
        f"{flag}={source!r} is not a local folder and could not be loaded from {tried} ({reason});"
        f" download the pipeline on a machine with a network and pass its folder with {flag}"
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
    vae: dict  # config.json of the autoencoder
    denoiser: dict  # config.json of the U-Net or transformer
    scheduler: dict  # scheduler_config.json

    @property
    def factor(self) -> int:
        """Pixels per latent, along a side."""
        return factor(self.vae["block_out_channels"])

    @property
    def patch(self) -> int:
        """Latents per token of a transformer, along a side; 1 for a U-Net."""
        return self.denoiser.get("patch_size", 1)


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
    revision: str | None = None,
) -> Configs:
    """Read the configuration files of a pipeline; UsageError if one cannot be loaded.

    index: its model_index.json.
    denoiser: the subfolder of the network that predicts, "unet" or "transformer".
    """
    try:
        configs = Configs(
            index=index,
            vae=_read_json(source, "config.json", "vae", revision=revision),
            denoiser=_read_json(source, "config.json", denoiser, revision=revision),
            scheduler=_read_json(source, "scheduler_config.json", "scheduler", revision=revision),
        )
        configs.vae["block_out_channels"]  # KeyError if it is another network's configuration
        return configs
    except loading_errors() as error:
        raise unreachable(flag, source, error) from None
