"""The registry of families that can be trained: what a training step is in each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from utils.training.steps.base import Step
from utils.training.steps.stable_diffusion import StableDiffusionStep

if TYPE_CHECKING:
    from utils.models.parts import Parts

# {class of the pipeline: its step}. A new family is a module and a line here.
STEPS: dict[str, Step] = {"StableDiffusionPipeline": StableDiffusionStep()}


def of(parts: Parts) -> Step:
    """The step of a loaded model."""
    return STEPS[type(parts.pipeline).__name__]
