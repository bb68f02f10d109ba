"""LoRA weights of --lora: check the place, name the weights, add them to a pipeline."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

from utils.files import whole_files
from utils.models.pipeline_files import loading_errors
from utils.runtime.errors import UsageError, first_line
from utils.runtime.regular_files import NEVER_OPENED, irregular

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

ACCEPTED = "use a .safetensors file, a folder that holds one, or a hub name owner/model"


def require_lora(place: str) -> None:
    """Raise UsageError unless --lora can be used: peft is installed, and a place that looks like a
    path is a .safetensors file or a folder that holds one.

    place: the value of --lora.
    """
    if importlib.util.find_spec("peft") is None:
        raise UsageError(
            f"--lora={place!r} needs the package peft, which is not installed: pip install peft"
        )
    path = Path(place)
    if (reason := irregular(path)) in NEVER_OPENED:
        raise UsageError(f"--lora={place!r} {reason}; {ACCEPTED}")
    if path.is_file() and path.suffix != ".safetensors":
        raise UsageError(
            f"--lora={place!r} is not a .safetensors file, and other formats are not opened;"
            f" {ACCEPTED}"
        )
    if path.is_dir():
        count = len(list(path.glob("*.safetensors")))
        if count != 1:
            raise UsageError(f"--lora={place!r} holds {count} .safetensors files; {ACCEPTED}")
    if not path.exists() and (_looks_like_a_path(place) or place.count("/") != 1):
        raise UsageError(f"--lora={place!r} does not exist; {ACCEPTED}")


def _looks_like_a_path(place: str) -> bool:
    path = Path(place)
    return (
        path.is_absolute()
        or place.startswith(".")
        or place.endswith(".safetensors")
        or path.parent.is_dir()
    )


def _lora_file(place: str) -> Path:
    path = Path(place)
    return next(path.glob("*.safetensors")) if path.is_dir() else path


def lora_id(place: str) -> str:
    """A name of LoRA weights that does not depend on their path: of a local file the first 16 hex
    digits of its SHA-256, else the hub's name."""
    path = _lora_file(place)
    return whole_files.file_sha256(path)[:16] if path.is_file() else place


def load_lora(pipeline: DiffusionPipeline, place: str) -> None:
    """Add LoRA weights to a pipeline's networks for good, so that generating costs what it does
    without them. UsageError if they cannot be loaded or do not fit."""
    path = _lora_file(place)
    local = path.is_file()
    errors: tuple[type[Exception], ...] = (*loading_errors(), RuntimeError)
    try:
        if local:
            pipeline.load_lora_weights(
                str(path.parent), weight_name=path.name, use_safetensors=True
            )
        else:
            pipeline.load_lora_weights(place, use_safetensors=True)
    except errors as error:
        if local:
            raise UsageError(
                f"--lora={place!r} does not fit a {type(pipeline).__name__}: {first_line(error)}"
            ) from None
        raise UsageError(
            f"--lora={place!r} is not a local file and could not be loaded from the hub"
            f" ({first_line(error)}); download it on a machine with a network and pass the"
            " .safetensors file"
        ) from None
    if not pipeline.get_active_adapters():
        raise UsageError(f"--lora={place!r} holds no LoRA weights for a {type(pipeline).__name__}")
    pipeline.fuse_lora()
    pipeline.unload_lora_weights()
