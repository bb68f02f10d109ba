"""Jobs to images, lazily and in batches. An image depends on its own job alone."""

from dataclasses import dataclass

import torch

from utils import seeding
from utils.diffusion import embedding_edits
from utils.errors import UsageError, choose
from utils.records import ImageJob

# These draw noise from a Brownian tree or a generator of their own, not from the image's: an image would depend on
# its batch.
UNSEEDED_SCHEDULERS = ("DPMSolverSDE", "CosineDPMSolverMultistep")


@dataclass(frozen=True)
class SampleSettings:
    """steps, guidance: of the denoising loop; side: pixels, or None for the model's native size."""

    steps: int = 50
    guidance: float = 7.5
    side: int | None = None
    negative_prompt: str = ""


def image_jobs(prompts, hooks, *, images_per_prompt, seed):
    """Image i is image (i mod images_per_prompt) of prompt (i div images_per_prompt); an edit is drawn once a prompt.

    prompts: list of records.Prompt. Returns: list of ImageJob.
    """
    jobs = []
    for number, prompt in enumerate(prompts):
        text = hooks.edit_prompt(prompt.text, seeding.numpy_rng(seed, "prompt-edit", number))
        for index in range(number * images_per_prompt, (number + 1) * images_per_prompt):
            image_seed = seeding.derive_seed(seed, "latents", index) % 2**53  # exact in any JSON reader
            jobs.append(ImageJob(index, image_seed, prompt.text, text, prompt.source_image))
    return jobs


def scheduler_classes():
    """Name without the word Scheduler -> class, of the schedulers that Stable Diffusion's pipelines take."""
    import diffusers
    from diffusers.schedulers import KarrasDiffusionSchedulers

    names = [s.name.removesuffix("Scheduler") for s in KarrasDiffusionSchedulers]
    classes = {n: getattr(diffusers, f"{n}Scheduler", None) for n in names if n not in UNSEEDED_SCHEDULERS}
    return {n: c for n, c in classes.items() if c is not None}


def require_scheduler(name):
    """The class of a --scheduler name; UsageError on one that is unknown or ignores the images' generators."""
    if name in UNSEEDED_SCHEDULERS:
        raise UsageError(f"--scheduler={name!r} draws noise without the image's own generator; use another one")
    return choose("--scheduler", name, scheduler_classes())


def use_scheduler(pipeline, name):
    """Replace the pipeline's scheduler, keeping its betas and prediction type."""
    pipeline.scheduler = require_scheduler(name).from_config(pipeline.scheduler.config)


class Embedder:
    """Prompt embeddings of a pipeline through the public `encode_prompt`; what the last batch used is not encoded again."""

    def __init__(self, pipeline, *, device):
        self.pipeline, self.device, self._known = pipeline, device, {}

    @torch.no_grad()
    def __call__(self, prompts):
        """Embeddings of prompts. Returns: [B, T, D]."""
        new = [p for p in dict.fromkeys(prompts) if p not in self._known]
        if new:
            rows, _ = self.pipeline.encode_prompt(
                prompt=new, device=self.device, num_images_per_prompt=1, do_classifier_free_guidance=False
            )
            self._known.update(zip(new, rows, strict=True))
        self._known = {p: self._known[p] for p in prompts}
        return torch.stack([self._known[p] for p in prompts])


def noised(embeddings, jobs, strength, branch):
    """GNI: noise of each image's own on its embedding; branch 0 is conditional, 1 unconditional. [B, T, D] -> same."""
    generators = [seeding.torch_generator(job.seed, "embedding-noise", branch) for job in jobs]
    noise = torch.stack([torch.randn(embeddings.shape[1:], generator=g) for g in generators])
    return embedding_edits.add_noise(embeddings, noise, strength)


@torch.no_grad()
def generate(pipeline, jobs, *, settings, hooks, batch_size, device):
    """Make the images of `jobs`, in order. Yields: (ImageJob, PIL RGB).

    hooks: mitigation.SampleHooks; its noise goes onto both embeddings, drawn independently.
    """
    embedder, negative = (Embedder(pipeline, device=device) for _ in range(2))
    guided = settings.guidance > 1
    for start in range(0, len(jobs), batch_size):
        batch = jobs[start : start + batch_size]
        conditional = embedder([job.prompt for job in batch])
        unconditional = negative([settings.negative_prompt] * len(batch)) if guided else None
        if hooks.noise:
            conditional = noised(conditional, batch, hooks.noise, 0)
            unconditional = noised(unconditional, batch, hooks.noise, 1) if guided else None
        images = pipeline(
            prompt_embeds=conditional, negative_prompt_embeds=unconditional, height=settings.side, width=settings.side,
            num_inference_steps=settings.steps, guidance_scale=settings.guidance,
            generator=[torch.Generator().manual_seed(job.seed) for job in batch],
        ).images  # fmt: skip
        yield from zip(batch, images, strict=True)
