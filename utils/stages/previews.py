"""Previews of a model in training: a grid of the same prompts and seeds at every call."""

from utils import manifest, seeding
from utils.diffusion import generation, mitigation
from utils.records import Prompt
from utils.reports import galleries


def preview(model, prompts, path, *, count, seed, side):
    """Write a grid of `count` images as PNG at `path`, and their prompts beside it as JSON.

    model: diffusion.training.Training; prompts: {image key: list}; seed: of the choice of prompts and of the images.
    """
    keys, device = list(prompts), model.device
    chosen = [keys[seeding.numpy_rng(seed, "prompt", i).integers(len(keys))] for i in range(count)]
    hooks = mitigation.SampleHooks()
    chosen = [Prompt(prompts[k][0], k) for k in chosen]
    jobs = list(generation.image_jobs(chosen, hooks, images_per_prompt=1, seed=seed))
    # schedulers with an offset leave a short schedule when asked for all of its steps
    steps = min(50, max(1, model.noise_scheduler.config.num_train_timesteps // 2))
    settings = generation.SampleSettings(side=side, steps=steps)
    with model.pipeline() as pipeline:
        shown = generation.generate(
            pipeline.to(device), jobs, settings=settings, hooks=hooks, batch_size=count, device=device
        )  # fmt: skip
        sheet = galleries.contact_sheet([made.image for made in shown], columns=min(4, count))
    with manifest.whole_file(path) as part:
        sheet.save(part, format="PNG")
    manifest.write_json(
        path.with_suffix(".json"), [{"prompt": j.prompt, "image": j.source_image, "seed": j.seed} for j in jobs]
    )
