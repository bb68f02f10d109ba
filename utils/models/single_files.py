"""Models in one file, as they are shared on sites of models: in the layout of the original code,
with all networks in it and without configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.files import weight_files
from utils.models.pipeline_files import loading_errors, tried
from utils.runtime.errors import DataError, UsageError, first_line

if TYPE_CHECKING:
    import torch

FORMATS = (".safetensors", ".ckpt")
DENOISER = "model.diffusion_model."  # begins the names of the network that predicts


@dataclass(frozen=True)
class Configuration:
    """Where the configuration of a model is read."""

    flag: str  # the option that named it, for errors
    source: str  # a pipeline folder, or a name on the hub
    file: str | None = None  # the one file of weights that it was found for, without --config

    def unreachable(self) -> UsageError:
        """The error for a configuration that was found by the file's names, and is not here."""
        return UsageError(
            f"{self.flag}={self.file!r} is one file of weights, and its configuration"
            f" {self.source!r} could not be loaded from {tried()}; give a pipeline folder of the"
            " same architecture with --config (model_index.json, and config.json of each part;"
            " weights are not needed)"
        )


def is_whole_model(path: str | Path) -> bool:
    """Whether a .safetensors file holds a whole model, by its names. DataError if it is damaged."""
    return any(name.startswith(DENOISER) for name in weight_files.shapes(path))


def configuration_of(flag: str, source: str, config: str | None) -> Configuration:
    """Where the configuration of a model is read: of a folder or a name on the hub there; of one
    file in --config, else in the repository that diffusers knows for the file's names and shapes.

    flag: the option that named the model; config: --config. UsageError if the file is no whole
    model, or --config has no effect; DataError if it is damaged, or a pickle of more than tensors.
    """
    path = Path(source)
    if not path.is_file():
        if config:
            raise UsageError(
                f"--config={config!r} is the configuration of a model in one file, and"
                f" {flag}={source!r} is none; leave --config out"
            )
        return Configuration(flag, source)
    if path.suffix not in FORMATS:
        raise UsageError(
            f"{flag}={source!r} is not opened; use a pipeline folder, a name on the hub, or one"
            f" file that ends in {' or '.join(FORMATS)}"
        )
    if path.suffix == ".safetensors":
        names: Mapping[str, Any] = weight_files.shapes(path)
    else:
        names = weight_files.read(path, shapes_only=True)
    if not any(name.startswith(DENOISER) for name in names):
        raise UsageError(
            f"{flag}={source!r} is not a whole model in one file: none of its {len(names)} names"
            f" begins with {DENOISER!r}; LoRA weights go to --lora, a folder of a U-Net to --unet"
        )
    return Configuration("--config", config) if config else _known(flag, source)


def _known(flag: str, source: str) -> Configuration:
    from diffusers.loaders.single_file_utils import fetch_diffusers_config

    shapes = weight_files.read(source, shapes_only=True)
    name = fetch_diffusers_config(shapes)["pretrained_model_name_or_path"]
    return Configuration(flag, name, file=source)


def converted(source: str, place: Configuration, part: str, cls: Any) -> dict[str, Any] | None:
    """The weights of a network of diffusers in one file, with the names of diffusers. They are
    converted here and loaded like those of a folder, since diffusers' own loader does not report
    which are missing. None if diffusers has no conversion for the network.

    part: of the pipeline; cls: its class."""
    from diffusers.loaders.single_file_model import SINGLE_FILE_LOADABLE_CLASSES

    known = SINGLE_FILE_LOADABLE_CLASSES.get(cls.__name__)
    if known is None:
        return None
    config = cls.load_config(place.source, subfolder=part)
    state = weight_files.read(source)
    clean = {weight_files.clean(name): state[name] for name in list(state)}
    return known["checkpoint_mapping_fn"](config=config, checkpoint=clean)


def load(
    source: str,
    configuration: Configuration,
    class_name: str,
    *,
    dtype: torch.dtype,
    **given: Any,
) -> Any:
    """Load a pipeline from one file onto the CPU.

    class_name: of the pipeline; given: parts that take the place of the file's. DataError, in one
    line, if the file does not fit the configuration."""
    import diffusers
    from diffusers.loaders.single_file_utils import SingleFileComponentError

    cls = getattr(diffusers, class_name)
    errors = (SingleFileComponentError, RuntimeError, *loading_errors())
    try:
        return cls.from_single_file(source, config=configuration.source, dtype=dtype, **given)
    except errors as error:
        raise DataError(
            f"{source}: does not fit the configuration {configuration.source!r}:"
            f" {first_line(error, 200)}"
        ) from None
