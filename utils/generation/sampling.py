"""Generate images of jobs, lazily and in batches. An image depends on its own job only, not on its
batch."""

from __future__ import annotations

import contextlib
import functools
import itertools
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import torch

from utils.data.encoder_window import Window
from utils.generation import degenerate, denoiser_hook
from utils.models import ddpm, families
from utils.runtime import seeding

if TYPE_CHECKING:
    from PIL.Image import Image

    from utils.generation.mitigations import SampleHooks


@dataclass(frozen=True)
class Prompt:
    """A prompt, and the training image whose caption it is, if any; of a model that reads no text,
    what it reads instead."""

    text: str
    source_image: str | None = None  # image key
    label: int | None = None  # class, of a model with classes
    silent: bool = False  # whether the model reads no text


@dataclass(frozen=True)
class ImageJob:
    """An image to generate."""

    index: int  # its number in the generation
    seed: int  # of its own generators
    source_prompt: str | None  # the prompt before edits; None of a model that reads none
    prompt: str | None  # the prompt after edits
    source_image: str | None = None  # key of the training image whose caption the prompt is, if any
    label: int | None = None  # class, of a model with classes


@dataclass(frozen=True)
class GeneratedImage:
    """A finished image."""

    job: ImageJob
    image: Image  # RGB
    notes: dict  # reports of the hooks, {key: JSON value}, for its manifest row


@dataclass(frozen=True)
class SampleSettings:
    """Settings of the denoising loop."""

    steps: int = 50
    guidance: float = 7.5  # scale of classifier-free guidance
    side: int | None = None  # pixels; None is the model's own size
    negative_prompt: str | None = None  # None is what the pipeline uses when none is given
    text_length: int | None = None  # tokens of T5; None is the pipeline's own number
    eta: float = 0.0  # share of random noise in the steps of DDIM
    null_class: int | None = None  # label that stands for no class; None: there is none


# Embeddings that are kept for reuse: some 3,000 prompts of Stable Diffusion 2 in half precision
EMBEDDING_BYTES = 512 * 2**20


def edited_prompt(prompts: Sequence[Prompt], hooks: SampleHooks, number: int, *, seed: int) -> str:
    """Prompt `number` as the model gets it. An edit is drawn once per prompt, from (seed,
    number)."""
    return hooks.edit_prompt(prompts[number].text, seeding.numpy_rng(seed, "prompt-edit", number))


def image_jobs(
    prompts: Sequence[Prompt],
    hooks: SampleHooks,
    *,
    images_per_prompt: int,
    seed: int,
    indices: Iterable[int] | None = None,
) -> Iterator[ImageJob]:
    """Yield the jobs of a generation. Image i is image (i mod images_per_prompt) of prompt
    (i div images_per_prompt).

    indices: numbers of the images; None is all of them.
    """
    for index in range(len(prompts) * images_per_prompt) if indices is None else indices:
        prompt = prompts[index // images_per_prompt]
        image_seed = seeding.derive_seed(seed, "latents", index) % 2**53  # exact in any JSON reader
        if prompt.silent:
            yield ImageJob(index, image_seed, None, None, label=prompt.label)
            continue
        text = edited_prompt(prompts, hooks, index // images_per_prompt, seed=seed)
        yield ImageJob(index, image_seed, prompt.text, text, prompt.source_image)


@contextlib.contextmanager
def _without_length_warnings(pipeline: Any) -> Iterator[None]:
    """Silence the libraries' warnings about long prompts, which the stage counts."""
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


def window_of(pipeline: Any, text_length: int | None = None) -> Window:
    """What a pipeline reads of a prompt: the tokens that reach its denoiser. text_length: of T5;
    None is the pipeline's own number."""
    family = families.family_of(pipeline)
    return Window(*family.longest(pipeline, **family.text_arguments(pipeline, text_length)))


class Embedder:
    """Prompt embeddings of a pipeline, by its public `encode_prompt`; the most recent ones are
    cached.

    keep_bytes: how much is kept, on the device; text_length: as in SampleSettings.
    """

    def __init__(
        self,
        pipeline: Any,
        *,
        device: families.Device,
        keep_bytes: int = EMBEDDING_BYTES,
        text_length: int | None = None,
    ) -> None:
        self.pipeline, self.device, self.keep_bytes = pipeline, device, keep_bytes
        family = families.family_of(pipeline)
        lengths = family.text_arguments(pipeline, text_length)
        self.encode = functools.partial(family.encode, **lengths)
        # by prompt, without the batch dimension, the least recently used first
        self._known: dict[str, families.Embeddings] = {}

    @torch.no_grad()
    def __call__(self, prompts: Sequence[str]) -> families.Embeddings:
        """Embeddings of a batch: {argument of the pipeline's call: [B, ...]}."""
        new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._known]
        if new:
            with _without_length_warnings(self.pipeline):
                rows = self.encode(self.pipeline, new, self.device)
            # copies: a view of one row would keep the whole batch in memory
            self._known |= {
                prompt: {name: row[i].clone() for name, row in rows.items()}
                for i, prompt in enumerate(new)
            }
        for prompt in dict.fromkeys(prompts):
            self._known[prompt] = self._known.pop(prompt)
        first = self._known[prompts[0]]
        batch = {
            name: torch.stack([self._known[prompt][name] for prompt in prompts]) for name in first
        }
        size = sum(row.numel() * row.element_size() for row in first.values())
        for prompt in list(self._known)[: max(0, len(self._known) - self.keep_bytes // size)]:
            del self._known[prompt]
        return batch


def compile_denoiser(pipeline: Any) -> None:
    """Compile the denoiser with torch.compile. Only its forward is compiled, so that hooks at its
    output run outside."""
    denoiser = getattr(pipeline, families.family_of(pipeline).denoiser)
    denoiser.forward = torch.compile(denoiser.forward)


def _batches(jobs: Iterable[ImageJob], size: int) -> Iterator[list[ImageJob]]:
    remaining = iter(jobs)
    while batch := list(itertools.islice(remaining, size)):
        yield batch


def _generators(batch: list[ImageJob], branch: int) -> list[torch.Generator]:
    return [seeding.torch_generator(job.seed, "embedding-noise", branch) for job in batch]


def _call_embeddings(
    given: families.Embeddings,
    negative: families.Embeddings,
    batch: list[ImageJob],
    hooks: SampleHooks,
) -> families.Embeddings:
    """Arguments of the pipeline's call: the embeddings of both branches after the hooks' edits,
    which are independent of each other.

    given: [B, ...] of the conditional branch.
    negative: [1, ...] of the unconditional branch, or empty without one.
    """
    opposite = {name: row.expand(len(batch), *row.shape[1:]) for name, row in negative.items()}
    for branch, embeddings in enumerate((given, opposite)):
        if embeddings:
            embeddings["prompt_embeds"] = hooks.edit_embeddings(
                embeddings["prompt_embeds"], _generators(batch, branch)
            )
    return given | {f"negative_{name}": row for name, row in opposite.items()}


def _unconditional(
    pipeline: Any, settings: SampleSettings, device: families.Device
) -> families.Embeddings:
    """Embeddings of the unconditional branch, [1, ...]."""
    family = families.family_of(pipeline)
    lengths = family.text_arguments(pipeline, settings.text_length)
    return family.encode_negative(pipeline, settings.negative_prompt, device, **lengths)


# (jobs of a batch, their generators, list that gets whether each image is finite) -> images
Call: TypeAlias = "Callable[[list[ImageJob], list[torch.Generator], list[bool]], list[Image]]"


def _text_call(
    pipeline: Any, settings: SampleSettings, hooks: SampleHooks, device: families.Device
) -> tuple[Call, bool]:
    """The call of a pipeline that reads prompts, and whether it has an unconditional branch."""
    family = families.family_of(pipeline)
    embedder = Embedder(pipeline, device=device, text_length=settings.text_length)
    config = getattr(pipeline, family.denoiser).config
    arguments, guided = family.guide(config, settings.guidance, settings.negative_prompt)
    negative = _unconditional(pipeline, settings, device) if guided else {}
    if settings.eta:
        arguments = arguments | {"eta": settings.eta}

    def call(
        batch: list[ImageJob], generators: list[torch.Generator], finite: list[bool]
    ) -> list[Image]:
        given = embedder([job.prompt or "" for job in batch])
        return pipeline(
            **_call_embeddings(given, negative, batch, hooks),
            **arguments,
            height=settings.side,
            width=settings.side,
            num_inference_steps=settings.steps,
            generator=generators,
        ).images

    return call, guided


def _pixel_call(
    pipeline: Any, settings: SampleSettings, hooks: SampleHooks, device: families.Device
) -> tuple[Call, bool]:
    """The same of a DDPM, which reads labels or nothing."""

    def call(
        batch: list[ImageJob], generators: list[torch.Generator], finite: list[bool]
    ) -> list[Image]:
        labels = [job.label for job in batch if job.label is not None]
        pixels = ddpm.sample(
            pipeline,
            generators,
            steps=settings.steps,
            eta=settings.eta,
            side=settings.side,
            labels=labels or None,
            null=settings.null_class,
            guidance=settings.guidance,
        )
        degenerate.look(finite, pixels)
        return ddpm.as_pictures(pipeline, pixels)

    return call, settings.null_class is not None and settings.guidance > 1


@torch.no_grad()
def generate(
    pipeline: Any,
    jobs: Iterable[ImageJob],
    *,
    settings: SampleSettings,
    hooks: SampleHooks,
    batch_size: int,
    device: families.Device,
) -> Iterator[GeneratedImage]:
    """Yield the images of `jobs`, in order.

    pipeline: of a class in families.FAMILIES, on `device`.
    hooks: mitigations and detectors.
    """
    family = families.family_of(pipeline)
    prepare = _text_call if family.text else _pixel_call
    call, guided = prepare(pipeline, settings, hooks, device)
    for batch in _batches(jobs, batch_size):
        hook = hooks.steering(settings.guidance)
        generators = [torch.Generator().manual_seed(job.seed) for job in batch]
        with (
            denoiser_hook.steered(pipeline, family, hook, guided=guided),
            degenerate.watched(pipeline) as finite,
        ):
            images = call(batch, generators, finite)
        notes = (hook.report() if hook else []) or [{} for _ in batch]
        for job, image, note, whole in zip(batch, images, notes, finite, strict=True):
            yield GeneratedImage(job, image, note | degenerate.note_of(image, whole))
