"""Previews of a model in training: a grid of the same prompts and seeds at every call."""

from utils.files import whole_files
from utils.generation import mitigations, sampling
from utils.generation.sampling import Prompt
from utils.reports import galleries
from utils.runtime import seeding


def preview(model, prompts, path, *, count, seed, side):
    """Write a grid of `count` images as PNG at `path`, and their prompts beside it as JSON.

    model: trainer.Trainer; prompts: {image key: list}; seed: of the choice of prompts and of the
    images."""
    keys, device = list(prompts), model.device
    chosen = [keys[seeding.numpy_rng(seed, "prompt", i).integers(len(keys))] for i in range(count)]
    hooks = mitigations.SampleHooks()
    chosen = [Prompt(prompts[k][0], k) for k in chosen]
    jobs = list(sampling.image_jobs(chosen, hooks, images_per_prompt=1, seed=seed))
    # schedulers with an offset leave a short schedule when asked for all of its steps
    steps = min(50, max(1, model.noise_scheduler.config.num_train_timesteps // 2))
    settings = sampling.SampleSettings(side=side, steps=steps)
    with model.pipeline() as pipeline:
        shown = sampling.generate(
            pipeline.to(device),
            jobs,
            settings=settings,
            hooks=hooks,
            batch_size=count,
            device=device,
        )
        sheet = galleries.contact_sheet([made.image for made in shown], columns=min(4, count))
    with whole_files.whole_file(path) as part:
        sheet.save(part, format="PNG")
    whole_files.write_json(
        path.with_suffix(".json"),
        [{"prompt": j.prompt, "image": j.source_image, "seed": j.seed} for j in jobs],
    )
