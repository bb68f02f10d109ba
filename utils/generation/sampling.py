"""Jobs to images, lazily and in batches. An image depends on its own job alone."""

import contextlib
import itertools
import logging
from dataclasses import dataclass

import torch

from utils.generation import denoiser_hook
from utils.models import families
from utils.runtime import seeding


@dataclass(frozen=True)
class ImageJob:
    """An image to make. index: its number; seed: of its own generator; source_*: where the prompt
    came from.

    source_prompt: before edits; source_image: image key of the prompt, or None when it stands for
    no image."""

    index: int
    seed: int
    source_prompt: str
    prompt: str
    source_image: str | None = None


@dataclass(frozen=True)
class GeneratedImage:
    """A finished image, PIL RGB, with what its making said of it: notes, {key: JSON value}."""

    job: ImageJob
    image: object
    notes: dict


@dataclass(frozen=True)
class Prompt:
    """A prompt and the image whose caption it is, if any."""

    text: str
    source_image: str | None = None


# of prompts kept for reuse: some 3,000 of Stable Diffusion 2 in half precision
EMBEDDING_BYTES = 512 * 2**20


@dataclass(frozen=True)
class SampleSettings:
    """steps, guidance: of the denoising loop; side: pixels, or None for the model's native size;
    negative_prompt: None is what the pipeline takes when none is given."""

    steps: int = 50
    guidance: float = 7.5
    side: int | None = None
    negative_prompt: str | None = None


def edited_prompt(prompts, hooks, number, *, seed):
    """Prompt `number` as it is given to the model; an edit is drawn once a prompt, from (seed,
    number)."""
    return hooks.edit_prompt(prompts[number].text, seeding.numpy_rng(seed, "prompt-edit", number))


def image_jobs(prompts, hooks, *, images_per_prompt, seed, indices=None):
    """Image i is image (i mod images_per_prompt) of prompt (i div images_per_prompt).

    prompts: list of Prompt; indices: which images, all by default. Yields: ImageJob.
    """
    for index in range(len(prompts) * images_per_prompt) if indices is None else indices:
        prompt = prompts[index // images_per_prompt]
        text = edited_prompt(prompts, hooks, index // images_per_prompt, seed=seed)
        image_seed = seeding.derive_seed(seed, "latents", index) % 2**53  # exact in any JSON reader
        yield ImageJob(index, image_seed, prompt.text, text, prompt.source_image)


@contextlib.contextmanager
def _no_warnings_of_cuts(pipeline):
    """Silence the libraries on prompts that are too long, one line each; `too_long` counts them."""
    loggers = [
        logging.getLogger(type(pipeline).__module__),
        logging.getLogger("transformers.tokenization_utils_base"),
    ]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def too_long(pipeline, prompts):
    """Prompts of which the end does not reach the network. Returns: (list of them, tokens that
    do)."""
    tokenizer, limit = families.family_of(pipeline).longest(pipeline)
    with _no_warnings_of_cuts(pipeline):
        found = [
            p
            for p in dict.fromkeys(prompts)
            if len(tokenizer(p, truncation=False).input_ids) > limit
        ]
    return found, limit


class Embedder:
    """Prompt embeddings of a pipeline through the public `encode_prompt`; the prompts used last are
    kept."""

    def __init__(self, pipeline, *, device, keep_bytes=EMBEDDING_BYTES):
        self.pipeline, self.device, self.keep_bytes = pipeline, device, keep_bytes
        self.encode = families.family_of(pipeline).encode
        self._known = {}  # prompt -> {name: [...]}, least recently used first

    @torch.no_grad()
    def __call__(self, prompts):
        """Embeddings of prompts. Returns: {name in the pipeline's call: [B, ...]}."""
        new = [p for p in dict.fromkeys(prompts) if p not in self._known]
        if new:
            with _no_warnings_of_cuts(self.pipeline):
                rows = self.encode(self.pipeline, new, self.device)
            # copies: a row of the batch would keep all of the batch in memory
            self._known |= {
                p: {name: r[i].clone() for name, r in rows.items()} for i, p in enumerate(new)
            }
        for p in dict.fromkeys(prompts):
            self._known[p] = self._known.pop(p)
        found = {
            name: torch.stack([self._known[p][name] for p in prompts])
            for name in self._known[prompts[0]]
        }
        size = sum(r.numel() * r.element_size() for r in self._known[prompts[0]].values())
        for p in list(self._known)[: max(0, len(self._known) - self.keep_bytes // size)]:
            del self._known[p]
        return found


def compile_denoiser(pipeline):
    """Compile the network that predicts, with torch.compile. Its forward alone: hooks at its output
    stay outside."""
    denoiser = getattr(pipeline, families.family_of(pipeline).denoiser)
    denoiser.forward = torch.compile(denoiser.forward)


def _batches(items, size):
    items = iter(items)
    while batch := list(itertools.islice(items, size)):
        yield batch


def _generators(batch, branch):
    return [seeding.torch_generator(job.seed, "embedding-noise", branch) for job in batch]


@torch.no_grad()
def generate(pipeline, jobs, *, settings, hooks, batch_size, device):
    """Make the images of `jobs`, in order. Yields: sampling.GeneratedImage.

    hooks: mitigation.SampleHooks; embeddings of the two branches are edited independently.
    """
    family, embedder = families.family_of(pipeline), Embedder(pipeline, device=device)
    denoiser = getattr(pipeline, family.denoiser)
    arguments, guided = family.guide(denoiser.config, settings.guidance, settings.negative_prompt)
    negative = family.encode_negative(pipeline, settings.negative_prompt, device) if guided else {}
    for batch in _batches(jobs, batch_size):
        given = embedder([job.prompt for job in batch])
        opposite = {name: row.expand(len(batch), *row.shape[1:]) for name, row in negative.items()}
        for branch, embeddings in enumerate((given, opposite)):
            if embeddings:
                embeddings["prompt_embeds"] = hooks.edit_embeddings(
                    embeddings["prompt_embeds"], _generators(batch, branch)
                )
        steer = hooks.steering(settings.guidance)
        with denoiser_hook.steered(pipeline, family, steer, guided=guided):
            images = pipeline(
                **given,
                **{f"negative_{name}": row for name, row in opposite.items()},
                **arguments,
                height=settings.side,
                width=settings.side,
                num_inference_steps=settings.steps,
                generator=[torch.Generator().manual_seed(job.seed) for job in batch],
            ).images
        notes = steer.report(len(batch)) if steer else [{}] * len(batch)
        yield from map(GeneratedImage, batch, images, notes)
