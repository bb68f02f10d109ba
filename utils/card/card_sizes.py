"""How many images a memorization card needs, how long they take, and how a budget reduces them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

# a rough figure for reading, searching and aligning an image, and for an evaluation's networks
SECONDS_TO_MEASURE, SECONDS_AN_EVALUATION = 0.2, 3.0


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
        """Both numbers times a share, rounded down, at least 1."""
        return ArmSize(
            max(1, int(share * self.prompts + 1e-9)), max(1, int(share * self.per_prompt + 1e-9))
        )


Sizes = Mapping[str, ArmSize]  # name of an arm -> its size


def images_of(sizes: Sizes) -> int:
    """Number of images of all arms."""
    return sum(size.images for size in sizes.values())


def seconds_of(sizes: Sizes, made: Mapping[str, int], seconds_per_image: float) -> float:
    """Estimate of the time that a card takes.

    made: {arm: images that exist already}; their arms are measured all the same.
    seconds_per_image: of the generation."""
    missing = sum(max(0, size.images - made.get(name, 0)) for name, size in sizes.items())
    measuring = images_of(sizes) * SECONDS_TO_MEASURE + len(sizes) * SECONDS_AN_EVALUATION
    return missing * seconds_per_image + measuring


def within(
    sizes: Sizes, made: Mapping[str, int], seconds_per_image: float, *, budget: float
) -> dict[str, ArmSize]:
    """Reduce prompts and images per prompt of all arms by one share, until the estimate is within
    the budget; down to one image an arm.

    made, seconds_per_image: as `seconds_of`. An arm that is made completely keeps its size.
    budget: seconds."""
    whole = {name for name, size in sizes.items() if made.get(name, 0) >= size.images}
    reduced = dict(sizes)
    for percent in range(100, 0, -1):
        reduced = {
            name: size if name in whole else size.scaled(percent / 100)
            for name, size in sizes.items()
        }
        if seconds_of(reduced, made, seconds_per_image) <= budget:
            break
    return reduced
