"""The frozen records that cross stages."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ImageJob:
    """An image to make. index: its number; seed: of its own generator; source_*: where the prompt came from.

    source_prompt: before edits; source_image: image key of the prompt, or None when it stands for no image.
    """

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


@dataclass(frozen=True)
class Query:
    """A generated image to measure. Fields that its folder does not tell are None."""

    key: str
    prompt: str | None = None
    source_prompt: str | None = None
    source_image: str | None = None
    seed: int | None = None
    index: int | None = None
