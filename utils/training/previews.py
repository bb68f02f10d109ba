"""Previews of a model in training: a grid of images of the same prompts and seeds at every call."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from utils.files import whole_files
from utils.generation import mitigations, sampling
from utils.generation.sampling import Prompt
from utils.reports import galleries
from utils.runtime import seeding

if TYPE_CHECKING:
    from utils.training.trainer import Trainer


def preview(
    model: Trainer, prompts: Mapping[str, list], path: Path, *, count: int, seed: int, side: int
) -> None:
    """Write a grid of `count` images as PNG at `path`, and their prompts beside it as JSON.

    prompts: {image key: its prompts}; seed: of the choice of prompts and of the images; side: of an
    image in pixels."""
    keys, device = list(prompts), model.device
    drawn = [keys[seeding.numpy_rng(seed, "prompt", i).integers(len(keys))] for i in range(count)]
    hooks = mitigations.SampleHooks()
    chosen = [Prompt(prompts[key][0], key) for key in drawn]
    jobs = list(sampling.image_jobs(chosen, hooks, images_per_prompt=1, seed=seed))
    # schedulers with an offset give a short schedule when asked for all of their steps
    steps = min(50, max(1, model.noise_scheduler.config.num_train_timesteps // 2))
    with model.pipeline() as pipeline:
        generated = sampling.generate(
            pipeline.to(device),
            jobs,
            settings=sampling.SampleSettings(side=side, steps=steps),
            hooks=hooks,
            batch_size=count,
            device=device,
        )
        images = [each.image for each in generated]
        grid = galleries.contact_sheet(images, columns=min(4, count))
    with whole_files.whole_file(path) as part:
        grid.save(part, format="PNG")
    whole_files.write_json(
        path.with_suffix(".json"),
        [{"prompt": j.prompt, "image": j.source_image, "seed": j.seed} for j in jobs],
    )
