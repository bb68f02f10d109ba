"""What the steps of Stable Diffusion 3 and Flux share: a transformer that matches flows, and T5."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

import torch

from utils.models import families
from utils.runtime.errors import UsageError
from utils.training.process.flow_matching import FlowMatching
from utils.training.steps.base import Step, StepSettings

if TYPE_CHECKING:
    from utils.models.parts import Parts
    from utils.training.process.base import ProcessSettings


class FlowStep(Step):
    """A transformer that predicts the velocity of a flow."""

    # how the family's published trainers weigh and draw times
    published_weighting: str = "none"
    t5: str  # name of its T5 text encoder

    def __init__(self, parts: Parts, settings: StepSettings):
        """parts: a pipeline of the family."""
        super().__init__(parts, settings)
        family, config = families.family_of(parts.pipeline), parts.pipeline.config
        # tokens that T5 reads
        self.length = settings.max_sequence_length or family.own_text_length(config) or 0
        self.float32_encoders = (self.t5,)

    @classmethod
    def float32_parts(cls, dtype: torch.dtype) -> tuple[str, ...]:
        """T5 too in float16, in which it overflows."""
        return (*super().float32_parts(dtype), *((cls.t5,) if dtype == torch.float16 else ()))

    @classmethod
    def require_process(cls, settings: ProcessSettings, source: str) -> None:
        """Raise UsageError for a flag of diffusion."""
        FlowMatching.require(settings, source, published=cls.published_weighting)

    @classmethod
    def require_precision(
        cls, precision: str, source: str, *, parts: Collection[str], learns_text: bool
    ) -> None:
        """As in Step; T5, which is in float32 while it does not learn, is refused beside encoders
        that do, because all of them compute in half precision then."""
        super().require_precision(precision, source, parts=parts, learns_text=learns_text)
        if precision == "fp16" and learns_text and cls.t5 in parts:
            raise UsageError(
                f"--mixed_precision={precision!r} with --train_text_encoder: the T5 of {source!r}"
                " overflows in float16; use bf16"
            )

    def require_trainable(self, flag: str, source: str, parts: Parts) -> None:
        """Raise UsageError unless the model's scheduler matches flows."""
        name = type(parts.scheduler).__name__
        if not name.startswith("FlowMatch"):
            raise UsageError(
                f"{flag}={source!r} has a {name}; training needs FlowMatchEulerDiscreteScheduler"
            )

    def process(self, parts: Parts, settings: ProcessSettings, resolution: int) -> FlowMatching:
        """Flow matching, shifted as the family samples images of their size unless the settings say
        otherwise."""
        return FlowMatching.of(
            parts.scheduler.config,
            settings,
            side=resolution // parts.vae_factor,
            patch=self.patch(parts),
            published=self.published_weighting,
        )

    def patch(self, parts: Parts) -> int:
        """Latents of a token along a side."""
        return parts.denoiser.config.patch_size
