"""How many images a memorization card needs, how long they take, and how a budget reduces them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

# rough figures of an evaluation: reading and searching an image; preparing it for alignment and
# aligning it with a candidate, on a processor and on a GPU; networks and files
SECONDS_TO_READ = 0.02
TO_PREPARE, TO_ALIGN = 0.05, 0.014
TO_PREPARE_ON_GPU, TO_ALIGN_ON_GPU = 0.01, 0.002
SECONDS_AN_EVALUATION = 1.5
LEAST_PROMPTS = 8  # that a budget leaves; a share of fewer prompts says nothing


@dataclass(frozen=True)
class ArmSize:
    """Number of images of an arm."""

    prompts: int
    per_prompt: int

    @property
    def images(self) -> int:
        """Number of images."""
        return self.prompts * self.per_prompt

    def scaled(self, share: float) -> ArmSize:
        """Both numbers times a share, rounded, with at least LEAST_PROMPTS prompts if there are so
        many, and at least 1 image of each."""
        least = min(LEAST_PROMPTS, self.prompts)
        return ArmSize(
            max(least, round(share * self.prompts)), max(1, round(share * self.per_prompt))
        )


Sizes = Mapping[str, ArmSize]  # name of an arm -> its size


def images_of(sizes: Sizes) -> int:
    """Number of images of all arms."""
    return sum(size.images for size in sizes.values())


@dataclass(frozen=True)
class Progress:
    """What exists of a card already."""

    made: Mapping[str, int]  # {arm: images}
    measured: frozenset[str]  # arms that have an evaluation
    seconds_to_measure: float  # of an image, a rough figure


def seconds_to_measure(*, candidates: int, on_gpu: bool) -> float:
    """A rough figure of the time to measure an image. candidates: with which it is aligned."""
    prepare, align = (TO_PREPARE_ON_GPU, TO_ALIGN_ON_GPU) if on_gpu else (TO_PREPARE, TO_ALIGN)
    return SECONDS_TO_READ + (prepare + candidates * align if candidates else 0.0)


def seconds_of(sizes: Sizes, progress: Progress, seconds_per_image: float) -> float:
    """Estimate of the time that a card still takes. seconds_per_image: of the generation."""
    made = progress.made
    missing = sum(max(0, size.images - made.get(name, 0)) for name, size in sizes.items())
    unmeasured = [size for name, size in sizes.items() if name not in progress.measured]
    each = progress.seconds_to_measure
    measuring = sum(SECONDS_AN_EVALUATION + size.images * each for size in unmeasured)
    return missing * seconds_per_image + measuring


def within(
    sizes: Sizes, progress: Progress, seconds_per_image: float, *, budget: float
) -> dict[str, ArmSize]:
    """Reduce prompts and images per prompt of all arms by one share, until the estimate is within
    the budget; down to one image of LEAST_PROMPTS prompts.

    An arm that is made completely keeps its size. seconds_per_image: of the generation; budget:
    seconds."""
    whole = {name for name, size in sizes.items() if progress.made.get(name, 0) >= size.images}
    reduced = dict(sizes)
    for percent in range(100, 0, -1):
        reduced = {
            name: size if name in whole else size.scaled(percent / 100)
            for name, size in sizes.items()
        }
        if seconds_of(reduced, progress, seconds_per_image) <= budget:
            break
    return reduced
