"""The record of a metric: one entry of `metrics.METRICS`, from which all else about it follows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from utils.retrieval.evaluation_networks import MetricNetwork
from utils.retrieval.measured import CannotMeasureError, Measured

Numbers = dict[str, float | int]  # key of metrics.json -> number


@dataclass(frozen=True)
class PairLimit:
    """Number of pairs of images above which a metric is computed only if --metrics names it."""

    most: int
    count: Callable[[int, int], int]  # (generated, training images) -> pairs that are compared


@dataclass(frozen=True)
class Metric:
    """A metric of --metrics. A name of a key that ends in * stands for all keys with that
    beginning."""

    compute: Callable[[Measured], Numbers]
    # key of metrics.json -> what it means, for the page; {} in the words is what * stands for.
    # Every key that the metric writes begins with one of them.
    words: Mapping[str, str]
    # networks whose features it reads: the first that can be had is built; none: the descriptor
    networks: tuple[MetricNetwork, ...] = ()
    # fewest generated and training images
    least: tuple[int, int] = (1, 1)
    # whether it reads all training images, of which an index holds one descriptor each
    needs_images: bool = False
    # when it is computed only if it is named
    limit: PairLimit | None = None
    # keys that the table of --compare_runs shows
    shown: tuple[str, ...] = ()
    # fields of MetricFlags that change its numbers, beside its networks; stored in the settings
    settings: tuple[str, ...] = ()

    @property
    def beginnings(self) -> tuple[str, ...]:
        """Beginnings of all keys that it writes."""
        return tuple(key.removesuffix("*") for key in self.words)

    def require_images(self, generated: int, training: int) -> None:
        """CannotMeasureError if there are fewer generated or training images than `least`."""
        if generated < self.least[0] or training < self.least[1]:
            raise CannotMeasureError(
                f"needs {self.least[0]} generated and {self.least[1]} training images; there are"
                f" {generated} and {training}"
            )


def fits(pattern: str, key: str) -> bool:
    """Whether a pattern names a key of metrics.json."""
    return key.startswith(pattern[:-1]) if pattern.endswith("*") else key == pattern


# ending of a key -> what it adds to the words of the key without it
END_WORDS = {
    "_lo": "low end of the 95 % interval of {}",
    "_hi": "high end of the 95 % interval of {}",
    "_n": "number of images behind {}",
    "_dcr": "{} with the published crop, that of the descriptor",
}


def words_of(key: str, words: Mapping[str, str]) -> str:
    """What a key of metrics.json means; "" for an unknown one. words: {key, or beginning and *:
    its words}."""
    if key in words:
        return words[key]
    for end, added in END_WORDS.items():
        stem = key.removesuffix(end)
        if stem != key and words_of(stem, words):
            return added.format(stem)
    for pattern, text in words.items():
        if pattern.endswith("*") and fits(pattern, key):
            return text.format(key[len(pattern) - 1 :])
    return ""
