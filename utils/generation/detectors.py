"""Detectors of memorized prompts: they score each image while it is generated.

A detector sees every evaluation of the denoiser before a mitigation changes it, and changes
nothing itself: the images are the same with and without it. The scores of an image stand in its
manifest row, under "detections"."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from utils.runtime import flag_values

if TYPE_CHECKING:  # the flags list the detectors' names, and --help must not wait for torch
    import torch

    from utils.generation.denoiser_hook import Prediction


class Watcher(Protocol):
    """The watcher of one batch, which a detector creates."""

    def observe(self, prediction: Prediction) -> None:
        """Called at every evaluation of the denoiser, in order."""

    def scores(self) -> list[float]:
        """Called after the last evaluation. Returns: a score per image of the batch; a higher score
        means more memorized."""


@dataclass(frozen=True)
class Detector:
    """A detector with the values of its flags."""

    # makes the watcher of a batch
    watch: Callable[[], Watcher]
    # whether it needs the unconditional branch
    unconditional: bool = False


class _Magnitude:
    """The watcher of `magnitude`."""

    def __init__(self, evaluations: int | None) -> None:
        self.evaluations = evaluations  # how many count; None is all
        self.count = 0
        self.total: Any = 0.0  # [B], float32, after the first evaluation

    def observe(self, prediction: Prediction) -> None:
        if self.evaluations is not None and self.count >= self.evaluations:
            return
        unconditional = _unconditional(prediction)
        # in float32: in bfloat16 the difference would have two or three digits
        difference = prediction.conditional.float() - unconditional.float()
        norm = difference.flatten(1).norm(dim=1)  # ||e_c - e_u||_2 of each image
        self.total = self.total + norm * prediction.distance_factor
        self.count += 1

    def scores(self) -> list[float]:
        return (self.total / self.count).tolist()


def _unconditional(prediction: Prediction) -> torch.Tensor:
    assert prediction.unconditional is not None  # the plan refuses a pipeline without this branch
    return prediction.unconditional


def magnitude(*, detect_steps: int | None) -> Detector:
    """Magnitude of text-conditional noise prediction (Wen et al., ICLR 2024): the mean over
    evaluations of ||e_c - e_u||_2, the difference of the two branches' predicted noise.

    For velocity predictions the difference is converted to that of the noise; for flow matching it
    is that of the flow. The score grows with the square root of the number of latents.

    detect_steps: only the first so many evaluations of the denoiser count; None is all.
    """
    return Detector(watch=lambda: _Magnitude(detect_steps), unconditional=True)


# The parameters of each are the flags that it reads. To add a detector, write a function like the
# one above and add a line here; declare a new flag in utils/cli/generation_options.py.
DETECTORS: dict[str, Callable[..., Detector]] = {"magnitude": magnitude}


def flag_names() -> tuple[str, ...]:
    """The flags that the detectors read, beside --detect."""
    return flag_values.flag_names(DETECTORS.values())


def chosen(names: Collection[str], values: Mapping[str, Any]) -> dict[str, Detector]:
    """The detectors of --detect by name, in the order of the registry.

    names: those that were given.
    values: {flag: value}.
    """
    return {
        name: build(**flag_values.arguments(build, values))
        for name, build in DETECTORS.items()
        if name in names
    }


def settings(names: Collection[str], values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of --detect and of the flags of the named detectors, for records. Empty without
    --detect, so that a generation without detectors keeps its record and its folder's name."""
    builders = {name: build for name, build in DETECTORS.items() if name in names}
    if not builders:
        return {}
    read = flag_values.flag_names(builders.values())
    return {"detect": ",".join(builders), **{name: values[name] for name in read}}


class Detection:
    """The chosen detectors as one hook of `denoiser_hook`, for one batch."""

    def __init__(self, detectors: Mapping[str, Detector]) -> None:
        self.watchers = {name: detector.watch() for name, detector in detectors.items()}

    def __call__(self, prediction: Prediction) -> Prediction:
        for watcher in self.watchers.values():
            watcher.observe(prediction)
        return prediction

    def report(self) -> list[dict]:
        """The scores of each image: a dict {"detections": {name: score}} per image."""
        scores = [watcher.scores() for watcher in self.watchers.values()]
        return [
            {"detections": dict(zip(self.watchers, image, strict=True))}
            for image in zip(*scores, strict=True)
        ]
