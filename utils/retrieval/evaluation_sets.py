"""The generated and the training images that an evaluation compares, with what is known of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from utils.data import recognised
from utils.data.image_sets import ImageSet


@dataclass(frozen=True)
class Query:
    """A generated image to measure. A field that its folder does not hold is None."""

    key: str  # path below the folder, with /
    prompt: str | None = None  # that the model was given
    source_prompt: str | None = None  # before any edit
    source_image: str | None = None  # the prompt's own training image, as the manifest names it
    seed: int | None = None
    index: int | None = None
    # {detector: score} of --detect, empty without it
    detections: dict[str, float] = field(default_factory=dict)
    # whether the generation noted that the image is not finite, or of one colour
    shows_nothing: bool = False


@dataclass(frozen=True)
class GenerationFacts:
    """What the folder of generated images records about their generation."""

    run: str | None = None  # path of the training run, as the manifest names it
    images_per_prompt: int | None = None  # of a published folder, which has no manifest


@dataclass(frozen=True)
class TrainingFacts:
    """What is known of the training images."""

    # keys of those drawn more often in training, or of the counterfactual; None: unknown
    duplicated: list[str] | None = None
    # source_image as the manifest names it -> key of the training image
    sources: dict[str, str] = field(default_factory=dict)
    # key -> first caption, of images that have one
    captions: dict[str, str] = field(default_factory=dict)
    # keys in --val_dir of images that the run set aside and never drew, which are no training
    # images; None: unknown
    holdout: list[str] | None = None
    # whether the run drew no image more often (nodup): `duplicated` are then those that its seed
    # would have duplicated
    counterfactual: bool = False

    @property
    def is_counterfactual(self) -> bool:
        """Whether the duplicated images are known, and none of them was duplicated."""
        return self.counterfactual and self.duplicated is not None


class Index(Protocol):
    """What an evaluation reads of an index (index/vector_index.py)."""

    @property
    def root(self) -> Path: ...

    @property
    def shards(self) -> Sequence[Any]: ...  # that are finished

    @property
    def planned(self) -> Sequence[str]: ...  # names of all shards

    @property
    def bad(self) -> list[tuple[str, str]]: ...

    @property
    def damaged(self) -> list[tuple[str, str]]: ...

    @property
    def fingerprint(self) -> str: ...

    @property
    def content_fingerprint(self) -> str | None: ...

    def __len__(self) -> int: ...


@dataclass(frozen=True)
class IndexFacts:
    """The index in place of the training images, and the result of searching it."""

    index: Index
    # key -> row in the index, of the images that the manifest or the run names
    rows: dict[str, int] = field(default_factory=dict)
    # rows of the images that the run set aside, which are no matches
    held_out: tuple[int, ...] = ()
    # key -> metadata, of the images in Sets.training
    images: dict[str, dict[str, Any]] = field(default_factory=dict)
    # how it was searched, for the settings of metrics.json
    search: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Sets:
    """The generated and the training images that are compared."""

    generated: ImageSet
    queries: list[Query]  # one for each generated image, in the same order
    # all training images; an index until it is searched, then its images that matter
    training: ImageSet | Index
    known: TrainingFacts = TrainingFacts()
    generation: GenerationFacts = GenerationFacts()
    indexed: IndexFacts | None = None  # where --val_dir is an index
    # images of --val_dir that are not in `training`: the run set them aside and never drew them
    held_out: ImageSet | None = None
    # keys of generated images that show nothing, which were left out of `generated` and `queries`
    show_nothing: tuple[str, ...] = ()

    def recognised(self) -> dict[str, Any]:
        """What was recognised of both sets, as JSON types."""
        of_generated = recognised.of_images(self.generated) | {
            "with_prompt": sum(query.prompt is not None for query in self.queries),
            "with_source_image": sum(query.source_image is not None for query in self.queries),
        }
        if not isinstance(self.training, ImageSet):
            layout = f"an index of {len(self.training.shards)} shards"
            of_index = {"layout": layout, "images": len(self.training)}
            return {"generated": of_generated, "training": of_index}
        of_training = recognised.of_images(self.training) | {
            "with_caption": len(self.known.captions)
        }
        return {"generated": of_generated, "training": of_training}

    @property
    def training_images(self) -> ImageSet:
        """`training` as images that can be opened; of an index, those that matter. TypeError before
        the index was searched."""
        if not isinstance(self.training, ImageSet):
            raise TypeError("the index was not searched yet; its images are not known")
        return self.training

    @property
    def searched(self) -> ImageSet | Index:
        """All training images with which generated images were compared."""
        return self.training if self.indexed is None else self.indexed.index


def source_indices(sets: Sets) -> np.ndarray:
    """Index of every generated image's own training image; -1 where it has none. [Q] int64."""
    index = {key: i for i, key in enumerate(sets.training_images.keys)}
    sources = sets.known.sources
    return np.array(
        [index.get(sources.get(q.source_image or "", ""), -1) for q in sets.queries], np.int64
    )
