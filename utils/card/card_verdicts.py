"""Which generated images are copies, by one threshold for all arms of a card: read from the tables
that evaluations leave."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from utils.card.card_record import Alignment, Box, Share
from utils.files import whole_files
from utils.reports import tables
from utils.retrieval.formulas import bootstrap

ALIGNED = "aligned"  # the name of the score that alignment gives
DETECT = "detect_"  # beginning of the columns of detectors
Row = Mapping[str, Any]  # of matches.csv


@dataclass(frozen=True)
class CopyRule:
    """An image is a copy if its deciding score is above the threshold."""

    threshold: float | None  # None: none is known
    of: str  # "aligned", or the name of the descriptor


@dataclass(frozen=True)
class Judged:
    """A generated image and the training picture that decides about it."""

    image: str  # key below the folder of the generation
    prompt: str | None
    source: str | None  # picture whose caption the prompt is, as the manifest names it
    seed: int | None
    picture: str | None  # key of the training picture with the best deciding score
    score: float  # the deciding score; nan where nothing could be aligned
    copy: bool
    alignment: Alignment | None
    detections: Mapping[str, float]  # {detector: its score}


# Reading ------------------------------------------------------------------------------------------


def read_metrics(folder: Path) -> dict[str, Any]:
    """The metrics.json of an evaluation."""
    return whole_files.read_manifest(folder / "metrics.json", "evaluation")


def read_rows(folder: Path) -> list[dict[str, Any]]:
    """The rows of an evaluation's table of matches; an empty cell is ""."""
    path = folder / "matches.csv"
    if path.is_file():
        return tables.read_csv(path)
    import pyarrow.parquet as pq

    rows = pq.read_table(folder / "matches.parquet").to_pylist()
    return [{k: "" if v is None else v for k, v in row.items()} for row in rows]


def rule_of(metrics: Mapping[str, Any]) -> CopyRule:
    """The rule of an evaluation: its calibrated threshold, else the fixed one of its descriptor.

    metrics: of its metrics.json."""
    settings = metrics["settings"]
    if "threshold" in metrics:
        return CopyRule(metrics["threshold"], settings.get("threshold_of") or settings["pt_style"])
    return CopyRule(settings["copy_threshold"], settings["pt_style"])


# Judging ------------------------------------------------------------------------------------------


def _number(row: Row, name: str) -> float:
    """A cell as a number; nan where it is empty or absent."""
    value = row.get(name, "")
    return float(value) if value not in ("", None) else math.nan


def _box(text: Any) -> Box:
    """The corners of "x y;x y;x y;x y"."""
    corners = (corner.split() for corner in str(text).split(";"))
    return tuple((float(x), float(y)) for x, y in corners)


def _alignment(row: Row) -> Alignment | None:
    if not row.get("transformation"):
        return None
    return Alignment(
        row["transformation"], _box(row["box_query"]), _box(row["box_match"]), agreement=None
    )


def _by_image(rows: Iterable[Row]) -> Iterator[list[Row]]:
    """The rows of each image, in the order of the table."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row["query"], []).append(row)
    yield from groups.values()


def judged(rows: Iterable[Row], rule: CopyRule) -> list[Judged]:
    """Judge every image of an evaluation.

    rows: of its table of matches. A table without the column `aligned` is judged by the
    descriptor's score if the rule says so; if the rule is about aligned scores, an image without
    one is no copy."""
    column = ALIGNED if rule.of == ALIGNED else "score"
    return [_judge(group, column, rule.threshold) for group in _by_image(rows)]


def _judge(group: Sequence[Row], column: str, threshold: float | None) -> Judged:
    known = [row for row in group if not math.isnan(_number(row, column))]
    best = max(known, key=lambda row: _number(row, column), default=None)
    first = group[0]
    score = math.nan if best is None else _number(best, column)
    seed = first.get("seed")
    return Judged(
        image=first["query"],
        prompt=first.get("prompt") or None,
        source=first.get("source_image") or None,
        seed=None if seed in (None, "") else int(seed),
        picture=None if best is None else best["match"],
        score=score,
        copy=threshold is not None and score > threshold,
        alignment=None if best is None else _alignment(best),
        detections={
            name.removeprefix(DETECT): _number(first, name)
            for name in first
            if name.startswith(DETECT) and first[name] != ""
        },
    )


def share_of(images: Sequence[Judged], *, seed: int) -> Share | None:
    """The share of copies, with its interval over prompts; None of no images.

    seed: of the resampling."""
    if not images:
        return None
    hits = np.array([each.copy for each in images])
    prompts = [each.image if each.prompt is None else each.prompt for each in images]
    if len(set(prompts)) == 1:  # resampling one prompt would show no uncertainty
        prompts = [each.image for each in images]
    low, high = bootstrap.share(hits, prompts, seed=seed)
    return Share(float(hits.mean()), low, high, len(images))


def share_in(metrics: Mapping[str, Any], name: str) -> Share | None:
    """A share that an evaluation measured, by its key in metrics.json; None if it has none."""
    if name not in metrics or f"{name}_lo" not in metrics:
        return None
    return Share(*(metrics[f"{name}{end}"] for end in ("", "_lo", "_hi", "_n")))


def by_prompt(images: Iterable[Judged]) -> dict[tuple[str, str | None], list[Judged]]:
    """Images by (prompt, the picture that it is the caption of), in the order of the table: one
    caption may belong to many pictures. Images without a prompt are left out."""
    groups: dict[tuple[str, str | None], list[Judged]] = {}
    for each in images:
        if each.prompt is not None:
            groups.setdefault((each.prompt, each.source), []).append(each)
    return groups


def worst_prompts(images: Iterable[Judged], most: int) -> list[tuple[str, str | None]]:
    """The prompts with most copies, most first; among equals those of the highest mean score.
    Prompts without a copy are left out. Returns: as the keys of `by_prompt`."""

    def rank(group: list[Judged]) -> tuple[int, float]:
        scores = [each.score for each in group if not math.isnan(each.score)]
        return sum(each.copy for each in group), float(np.mean(scores)) if scores else -math.inf

    ranked = sorted(by_prompt(images).items(), key=lambda item: rank(item[1]), reverse=True)
    return [key for key, group in ranked[:most] if any(each.copy for each in group)]
