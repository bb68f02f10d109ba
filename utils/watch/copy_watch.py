"""What a check of copies does: it generates images of fixed prompts and noise, judges them, and
takes the loss on fixed pictures."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from utils.generation import mitigations, sampling
from utils.models import families, schedulers
from utils.reports.copies_sheet import Shown, copies_sheet
from utils.training.copy_checks import Checked
from utils.watch import fixed_losses
from utils.watch.reference import Judged, Reference

if TYPE_CHECKING:
    from PIL import Image

    from utils.generation.sampling import ImageJob, Prompt
    from utils.training.trainer import Trainer
    from utils.watch.fixed_losses import Item

# An image of a check takes few steps of a solver that needs few, where the pipeline accepts it
STEPS, SOLVER = 12, "DPMSolverMultistep"


@dataclass(frozen=True)
class Images:
    """What is generated at every check."""

    prompts: Sequence[Prompt]
    seed: int  # of their noise
    side: int  # in pixels
    guidance: float  # its scale
    batch_size: int


class CopyWatch:
    """Measures how much a model in training copies (training.copy_checks.Watch)."""

    def __init__(
        self,
        images: Images,
        reference: Callable[[], Reference],
        pictures: Callable[[], dict[str, list[Item]]],
    ) -> None:
        """reference, pictures: read what images are compared with, and {key of a row: pictures
        whose loss it holds}; called once, at the first check."""
        self.images = images
        hooks = mitigations.SampleHooks()
        self.jobs: list[ImageJob] = list(
            sampling.image_jobs(images.prompts, hooks, images_per_prompt=1, seed=images.seed)
        )
        self._reference = functools.cache(reference)
        self._pictures = functools.cache(pictures)

    def prepare(self) -> None:
        """Read the pictures (training.copy_checks.Watch)."""
        self._reference()
        self._pictures()

    def check(self, model: Trainer) -> Checked:
        """Measure the model (training.copy_checks.Watch)."""
        reference, images = self._reference(), self.images
        # noise has generators of its own; what a library draws from torch's is put back
        devices = [model.device] if model.device.type == "cuda" else []
        with torch.random.fork_rng(devices), model.pipeline() as pipeline:
            generated = self._generate(pipeline, model)
            losses = {
                key: fixed_losses.mean_loss(
                    model, each, seed=images.seed, batch_size=images.batch_size
                )
                for key, each in self._pictures().items()
            }
        judged = reference.judge(generated, [prompt.text for prompt in images.prompts])
        return Checked(
            {**judged.numbers, **losses},
            copies_sheet(self._shown(generated, judged, reference)),
            self._rows(judged, reference),
        )

    def _generate(self, pipeline: Any, model: Trainer) -> list[Image.Image]:
        if SOLVER in families.family_of(pipeline).schedulers:
            schedulers.use_scheduler(pipeline, SOLVER)
        made = sampling.generate(
            pipeline.to(model.device),
            self.jobs,
            settings=sampling.SampleSettings(
                steps=min(STEPS, model.process.preview_steps),
                guidance=self.images.guidance,
                side=self.images.side,
                text_length=model.family.settings.max_sequence_length,
            ),
            hooks=mitigations.SampleHooks(),
            batch_size=self.images.batch_size,
            device=model.device,
        )
        return [each.image.convert("RGB") for each in made]

    def _shown(
        self, generated: list[Image.Image], judged: Judged, reference: Reference
    ) -> list[Shown]:
        return [
            Shown(image, reference.training.open(int(match)) if is_copy else None)
            for image, is_copy, match in zip(generated, judged.copies, judged.matches, strict=True)
        ]

    def _rows(self, judged: Judged, reference: Reference) -> list[dict[str, Any]]:
        """What the JSON file beside the sheet says of each image."""
        return [
            {
                "prompt": job.prompt,
                "image": job.source_image,
                "seed": job.seed,
                "copy": bool(is_copy),
                "match": reference.training.keys[int(match)],
                "score": None if score != score else round(float(score), 4),
            }
            for job, is_copy, match, score in zip(
                self.jobs, judged.copies, judged.matches, judged.scores, strict=True
            )
        ]
