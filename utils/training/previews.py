"""Previews of a model in training: a grid of images of the same prompts and seeds at every call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.files import whole_files
from utils.generation import mitigations, sampling
from utils.generation.sampling import ImageJob, Prompt
from utils.models import families, schedulers
from utils.reports import galleries
from utils.runtime import seeding
from utils.training.steps import ddpm

if TYPE_CHECKING:
    from utils.training.trainer import Trainer


def _settings(model, pipeline, side):
    _, guidance = families.default_sampling(type(pipeline).__name__)
    return sampling.SampleSettings(
        side=side,
        steps=model.process.preview_steps,
        guidance=guidance,
        text_length=model.family.settings.max_sequence_length,
    )


def preview(
    model: Trainer,
    prompts: Mapping[str, list],
    path: Path,
    *,
    count: int,
    seed: int,
    side: int,
    own: Sequence[str] = (),
) -> None:
    """Write a grid of images as PNG at `path`, and their prompts beside it as JSON: `count` images
    of prompts of the training images, then one of each prompt of the user's own.

    prompts: {image key: its prompts}; seed: of the choice of prompts and of the images; side: of an
    image in pixels; own: prompts of --validation_prompt."""
    keys, device = list(prompts), model.device
    drawn = [keys[seeding.numpy_rng(seed, "prompt", i).integers(len(keys))] for i in range(count)]
    hooks = mitigations.SampleHooks()
    chosen = [prompt_of(model, prompts[key][0], key) for key in drawn]
    chosen += [Prompt(text) for text in own]
    jobs = list(sampling.image_jobs(chosen, hooks, images_per_prompt=1, seed=seed))
    with model.pipeline() as pipeline:
        default = families.family_of(pipeline).default_scheduler
        if default is not None:
            schedulers.use_scheduler(pipeline, default)
        generated = sampling.generate(
            pipeline.to(device),
            jobs,
            settings=_settings(model, pipeline, side),
            hooks=hooks,
            batch_size=count,
            device=device,
        )
        images = [each.image for each in generated]
        grid = galleries.contact_sheet(images, columns=min(4, len(images)))
    with whole_files.whole_file(path) as part:
        grid.save(part, format="PNG")
    whole_files.write_json(path.with_suffix(".json"), [_row(job) for job in jobs])


def prompt_of(model: Trainer, text: str, key: str | None) -> Prompt:
    """What the model reads for an image with this prompt. key: of the training image that it
    belongs to; of a model that reads no text it is the prompt's name."""
    if model.family.reads_text:
        return Prompt(text, key)
    labels = model.family.token_ids(model.parts, [text]).get(ddpm.LABELS)
    return Prompt(key or "", label=None if labels is None else int(labels), silent=True)


def _row(job: ImageJob) -> dict[str, Any]:
    """What is said of an image of the grid; `from` is where its prompt comes from."""
    if job.prompt is None:
        return {"label": job.label, "seed": job.seed}
    source = "--validation_prompt" if job.source_image is None else "training"
    return {"prompt": job.prompt, "image": job.source_image, "seed": job.seed, "from": source}
