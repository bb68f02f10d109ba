"""The registry of families that can be trained: what a training step is in each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from utils.training.steps.base import Step, StepSettings
from utils.training.steps.ddpm import DdpmStep
from utils.training.steps.flux import FluxStep
from utils.training.steps.sd3 import StableDiffusion3Step
from utils.training.steps.stable_diffusion import StableDiffusionStep
from utils.training.steps.xl import StableDiffusionXLStep

if TYPE_CHECKING:
    from utils.models.parts import Parts

DEFAULTS = StepSettings()

# {class of the pipeline: its step}. A new family is a module and a line here.
STEPS: dict[str, type[Step]] = {
    "StableDiffusionPipeline": StableDiffusionStep,
    "StableDiffusionXLPipeline": StableDiffusionXLStep,
    "StableDiffusion3Pipeline": StableDiffusion3Step,
    "FluxPipeline": FluxStep,
    "DDPMPipeline": DdpmStep,
    "DDIMPipeline": DdpmStep,
}


def of(parts: Parts, settings: StepSettings = DEFAULTS) -> Step:
    """The step of a loaded model."""
    return STEPS[type(parts.pipeline).__name__](parts, settings)
