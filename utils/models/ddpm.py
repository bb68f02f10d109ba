"""DDPMs: pipelines that predict the noise of pixels and read no text, with or without classes."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from utils.files import whole_files
from utils.runtime.errors import DataError, UsageError

if TYPE_CHECKING:
    from PIL.Image import Image

CLASSES_FILE = "classes.json"  # in a pipeline's folder, written by a training with classes


@dataclass(frozen=True)
class Classes:
    """The classes that a network is conditioned on: label i stands for names[i]."""

    names: tuple[str, ...]
    # label that stands for no class, with which a part of the images was trained; None if there is
    # none, so that guidance is not possible
    null: int | None = None

    @property
    def count(self) -> int:
        """Number of labels, with the null class."""
        return len(self.names) + (self.null is not None)


def read_classes(flag: str, source: str | Path, denoiser: Mapping[str, Any]) -> Classes | None:
    """The classes of a model; None if it has none. Without CLASSES_FILE they are numbered.

    flag: the option that named it, for errors.
    source: a folder or a hub name.
    denoiser: configuration of its network.
    UsageError for a network that takes other inputs than labels; DataError for a file that does not
    fit the network."""
    if denoiser.get("class_embed_type") is not None:
        raise UsageError(
            f"{flag}={str(source)!r}: its network embeds classes by"
            f" {denoiser['class_embed_type']!r}; use one that takes labels (num_class_embeds)"
        )
    count = denoiser.get("num_class_embeds")
    if count is None:
        return None
    path = Path(source) / CLASSES_FILE
    if not path.is_file():
        return Classes(tuple(map(str, range(count))))
    data = whole_files.read_json(path)
    names, null = tuple(data["names"]), data["null"]
    if Classes(names, null).count != count or null not in (None, count - 1):
        raise DataError(
            f"{path}: names {len(names)} classes and the null class {null!r}, and the network has"
            f" {count} labels; use both files of one model"
        )
    return Classes(names, null)


def write_classes(folder: str | Path, classes: Classes) -> None:
    """Write CLASSES_FILE into the folder of a pipeline."""
    whole_files.write_json(
        Path(folder) / CLASSES_FILE, {"names": list(classes.names), "null": classes.null}
    )


def choose_labels(classes: Classes | None, wanted: Sequence[str], source: str) -> list[int] | None:
    """The labels that --classes names, in that order; all where it names none; None without
    classes. UsageError for a class that the model does not have.

    wanted: names, or numbers of classes where no class has that name."""
    if classes is None:
        if wanted:
            raise UsageError(
                f"--classes={','.join(wanted)!r}: {source!r} is not conditioned on classes; leave"
                " the flag out"
            )
        return None
    labels = {str(label): label for label in range(len(classes.names))}
    labels |= {name: label for label, name in enumerate(classes.names)}
    for name in wanted:
        if name not in labels:
            known = ", ".join(classes.names[:20]) + (", ..." if len(classes.names) > 20 else "")
            raise UsageError(
                f"--classes={','.join(wanted)!r}: {source!r} has no class {name!r}; use names"
                f" separated by commas, of: {known}"
            )
    return [labels[name] for name in wanted] or list(range(len(classes.names)))


@torch.no_grad()
def sample(
    pipeline: Any,
    generators: Sequence[torch.Generator],
    *,
    steps: int,
    eta: float = 0.0,
    side: int | None = None,
    labels: Sequence[int] | None = None,
    null: int | None = None,
    guidance: float = 1.0,
) -> torch.Tensor:
    """Denoise pure noise to pixels.

    generators: of each image, on the CPU; all random numbers of an image come from its own.
    steps: of the pipeline's scheduler.
    eta: of DDIM; 0 is deterministic. Other schedulers ignore it.
    side: in pixels; None is the network's own.
    labels: [B], of a network with classes.
    null: label that stands for no class; with it and a `guidance` above 1 predictions are guided:
        without class + guidance * (with class - without class).
    Returns: [B, C, side, side], in about [-1, 1]; on the pipeline's device.
    """
    unet, scheduler = pipeline.unet, pipeline.scheduler
    scheduler.set_timesteps(steps, device=unet.device)
    pixels = _noise(unet, generators, side) * scheduler.init_noise_sigma
    guided = null is not None and guidance > 1
    classes = _class_labels(labels, null if guided else None, unet.device)
    options = _step_options(scheduler, eta=eta, generator=list(generators))
    for time in scheduler.timesteps:
        seen = torch.cat([pixels] * 2) if guided else pixels
        seen = scheduler.scale_model_input(seen, time)
        predicted = unet(seen, time, class_labels=classes, return_dict=False)[0]
        if guided:
            without, given = predicted.chunk(2)
            predicted = without + guidance * (given - without)
        pixels = scheduler.step(predicted, time, pixels, **options, return_dict=False)[0]
    return pixels


def _noise(unet: Any, generators: Sequence[torch.Generator], side: int | None) -> torch.Tensor:
    from diffusers.utils.torch_utils import randn_tensor

    size = unet.config.sample_size if side is None else side
    height, width = (size, size) if isinstance(size, int) else size
    shape = (len(generators), unet.config.in_channels, height, width)
    return randn_tensor(shape, generator=list(generators), device=unet.device, dtype=unet.dtype)


def _class_labels(
    labels: Sequence[int] | None, null: int | None, device: torch.device
) -> torch.Tensor | None:
    """Labels of the network's call, those without a class first."""
    if labels is None:
        return None
    without = [] if null is None else [null] * len(labels)
    return torch.tensor([*without, *labels], device=device)


def _step_options(scheduler: Any, **options: Any) -> dict[str, Any]:
    known = inspect.signature(scheduler.step).parameters
    return {name: value for name, value in options.items() if name in known}


def as_pictures(pipeline: Any, pixels: torch.Tensor) -> list[Image]:
    """[B, 1 or 3, H, W] in [-1, 1], clipped -> PIL RGB."""
    shown = (pixels.float() / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).cpu().numpy()
    return [each.convert("RGB") for each in pipeline.numpy_to_pil(shown)]
